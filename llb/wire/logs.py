"""Log of a node: lines of its process and of its engines."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogLine(Struct, frozen=True, kw_only=True):
    """One line. `source` is `server`, or the id of the model whose engine wrote it.

    `seq` increases from line to line and starts again with the process.
    """

    seq: int
    time: str
    level: LogLevel
    source: str
    text: str
    request_id: str | None = None


class LogPage(Struct, frozen=True, kw_only=True):
    """Lines, the oldest first. `next` is the `after` of the next page; `sources` are all that have lines."""

    lines: tuple[LogLine, ...]
    next: int
    sources: tuple[str, ...]
