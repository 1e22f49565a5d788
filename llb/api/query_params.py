"""Query parameters: optional numbers, enumerations and times, each checked by its type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from llb.base.timestamps import from_iso
from llb.base.units import parse_size
from llb.errors import InvalidRequest

EnumT = TypeVar("EnumT", bound=StrEnum)


class QueriedRequest(Protocol):
    """Request, of Sanic or of the front."""

    @property
    def args(self) -> Mapping[str, Any]: ...


# The largest integer of SQLite, and so of a page cursor.
MAX_ROW_ID = 2**63 - 1


def int_query_param(request: QueriedRequest, name: str, maximum: int) -> int | None:
    """Return a whole number from 1 to `maximum`, None without the parameter; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= maximum):
        raise InvalidRequest(f"{name} must be a whole number from 1 to {maximum}", param=name)
    return int(text)


def float_query_param(request: QueriedRequest, name: str) -> float | None:
    """Return a number, None without the parameter; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InvalidRequest(f"{name} must be a number", param=name)
    return number


def sizes_query_param(request: QueriedRequest, name: str, max_count: int) -> tuple[int, ...] | None:
    """Return the bytes of sizes such as "8GB,8GB", None without the parameter; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        sizes = tuple(parse_size(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= max_count or not all(0 < size <= MAX_ROW_ID for size in sizes):
        several = "" if max_count == 1 else f", or up to {max_count} with commas between them"
        raise InvalidRequest(f"{name} must be a size such as 8GB{several}", param=name)
    return sizes


def bool_query_param(request: QueriedRequest, name: str) -> bool:
    """Return whether the parameter is true, False without it; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None or text.lower() in ("false", "0"):
        return False
    if text.lower() not in ("true", "1"):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return True


def enum_query_param(request: QueriedRequest, name: str, enum_type: type[EnumT]) -> EnumT | None:
    """Return a member of `enum_type`, None without the parameter; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return enum_type(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be one of {', '.join(enum_type)}", param=name) from None


def time_query_param(request: QueriedRequest, name: str) -> float | None:
    """Return a time in Unix seconds, at least 0, None without the parameter; raises `InvalidRequest`."""
    text = request.args.get(name)
    return None if text is None else max(0.0, from_iso(text, name))
