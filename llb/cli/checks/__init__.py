"""Checks of `llb doctor`. A check has a deadline, changes nothing and reports problems as findings."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    OK = "ok"
    # It works, but worse than it could, or not for long.
    WARN = "warn"
    # It does not work.
    BAD = "bad"


class Finding(Struct, frozen=True):
    """Result of a check; `remedy` says how to solve a problem."""

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
