"""Faults on demand: what a stand-in does wrong with the next requests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class FaultKind(StrEnum):
    """What goes wrong."""

    # An error of the provider, in its own shape: 401, 402, 403, 429, 500, 503, 529 …
    STATUS = "status"
    # 302 to another address.
    REDIRECT = "redirect"
    # The request is read and never answered.
    HANG = "hang"
    # The answer begins after `seconds`.
    SLOW_START = "slow_start"
    # The head of the answer comes at once, its first byte after `seconds`.
    SLOW_FIRST_BYTE = "slow_first_byte"
    # One byte of the answer at a time, `seconds` apart.
    SLOW_BYTES = "slow_bytes"
    # The connection is reset before the head of an answer.
    RESET = "reset"
    # The connection is reset after `after` pieces of the answer.
    KILL = "kill"
    # The stream ends after `after` pieces, without its last events.
    CUT = "cut"
    # An error event after `after` pieces of a stream that began with 200.
    ERROR_EVENT = "error_event"
    # A line that never ends.
    ENDLESS_LINE = "endless_line"
    # Events that never end.
    ENDLESS_STREAM = "endless_stream"
    # Fewer bytes than Content-Length says, then the connection closes.
    SHORT_BODY = "short_body"
    # More bytes than Content-Length says.
    LONG_BODY = "long_body"
    # Interim responses without an end.
    INTERIM_FLOOD = "interim_flood"
    # A header block without an end.
    ENDLESS_HEAD = "endless_head"
    # 200 with bytes that are not what the content type says.
    GARBAGE = "garbage"
    # gzip, whether asked for or not.
    GZIP = "gzip"
    # 200 with an empty body.
    EMPTY = "empty"


@dataclass
class Fault:
    """One fault. `times` requests have it (None: all), of those whose path contains `path`."""

    kind: FaultKind
    status: int = 500
    retry_after: str | None = None
    # Further header lines of an error.
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 1.0
    after: int = 2
    times: int | None = 1
    path: str = ""
    message: str | None = None
    code: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`status:status=429,retry_after=2,times=3`, as on the command line."""
        name, _, rest = text.partition(":")
        fault = cls(FaultKind(name))
        for item in filter(None, rest.split(",")):
            field, _, value = item.partition("=")
            if field in ("status", "after"):
                setattr(fault, field, int(value))
            elif field == "times":
                fault.times = None if value == "all" else int(value)
            elif field == "seconds":
                fault.seconds = float(value)
            elif field in ("retry_after", "path", "message", "code"):
                setattr(fault, field, value)
            else:
                raise ValueError(f"a fault has no field {field!r}")
        return fault
