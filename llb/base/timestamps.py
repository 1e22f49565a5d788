"""Timestamps of the API: Unix seconds inside the process, ISO 8601 in UTC with a 'Z' outside."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from llb.errors import InvalidRequest


@overload
def to_iso(seconds: float) -> str: ...
@overload
def to_iso(seconds: None) -> None: ...
def to_iso(seconds: float | None) -> str | None:
    """Return Unix seconds as ISO 8601, in milliseconds and UTC; None stays None."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def from_iso(text: str, param: str) -> float:
    """Return the Unix seconds of an ISO 8601 time, in UTC without a zone.

    Raises `InvalidRequest` for `param`.
    """
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = moment.astimezone(UTC).timestamp()
        # Rounding to a float can move the last microseconds of the year 9999 into the year 10000.
        datetime.fromtimestamp(seconds, UTC)
        return seconds
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{param} must be a time such as 2027-01-31T12:00:00Z", param=param) from None
