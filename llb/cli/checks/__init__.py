"""What `llb doctor` finds. No check raises for what it looks at, waits without a deadline, or changes anything."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, but not as it could, or not for long
    BAD = "bad"  # it does not work


class Finding(Struct, frozen=True):
    """One thing that was looked at; `remedy` says what to do about it."""

    level: Level
    check: str
    detail: str
    remedy: str | None = None


def ok(check: str, detail: str) -> Finding:
    return Finding(Level.OK, check, detail)


def warn(check: str, detail: str, remedy: str) -> Finding:
    return Finding(Level.WARN, check, detail, remedy)


def bad(check: str, detail: str, remedy: str) -> Finding:
    return Finding(Level.BAD, check, detail, remedy)
