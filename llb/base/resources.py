"""Data files that ship with the program."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_path(name: str) -> Path:
    """Return the path of a shipped file or directory: in the installed wheel, else at the top of the
    checkout.
    """
    installed = _PACKAGE / "_share" / name
    return installed if installed.exists() else _PACKAGE.parent / name
