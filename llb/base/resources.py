"""Where the data files that ship with the program lie."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_path(name: str) -> Path:
    """The shipped file or directory `name`: inside an installed wheel, else at the top of the checkout."""
    installed = _PACKAGE / "_share" / name
    return installed if installed.exists() else _PACKAGE.parent / name
