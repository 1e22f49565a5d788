"""How this llb was installed, for commands that are shown to be run, here or on another host."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

CHECKOUT_COMMAND, PACKAGE_COMMAND = "./install.sh run", "llb"
# Python would take modules from the working directory first, which may be another user's.
_ISOLATED = ("-P",)
_program_file: Path | None = None


class InstallKind(StrEnum):
    """CHECKOUT: next to install.sh. FILE: llb.pyz. PACKAGE: in an environment, by pip or one of its kind."""

    CHECKOUT = "checkout"
    FILE = "file"
    PACKAGE = "package"


def use_program_file(path: Path | None) -> None:
    """Note that this process was started from llb.pyz, at `path`."""
    global _program_file
    _program_file = path


def kind() -> InstallKind:
    """How this llb was installed.

    A checkout has its virtual environment next to install.sh; any other environment has the `llb` command.
    """
    if _program_file is not None:
        return InstallKind.FILE
    is_checkout = Path(sys.prefix).with_name("install.sh").is_file()
    return InstallKind.CHECKOUT if is_checkout else InstallKind.PACKAGE


def serve_commands() -> tuple[str, str]:
    """Commands that start the server: first for a host on which llb was installed as on this one."""
    if kind() is InstallKind.CHECKOUT:
        return CHECKOUT_COMMAND, PACKAGE_COMMAND
    return command_path(), CHECKOUT_COMMAND


def command_path() -> str:
    """The `llb` command as it is called on this host, from the directory of the checkout or of the file."""
    if _program_file is not None:
        return _file_command(_program_file)
    return ".venv/bin/llb" if kind() is InstallKind.CHECKOUT else PACKAGE_COMMAND


def program_command() -> list[str]:
    """Command line of this program, for a service that starts it from another directory."""
    if _program_file is not None:
        return [sys.executable, str(_program_file)]
    return [sys.executable, *_ISOLATED, "-m", "llb"]


def pip_command() -> list[str]:
    """Command line of pip, with `pip_environment`."""
    return [sys.executable, *_ISOLATED, "-m", "pip"]


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment for `python -m pip`: llb.pyz brings pip, which only this process has on its path."""
    if kind() is not InstallKind.FILE:
        return dict(environ)
    return {**environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def _file_command(path: Path) -> str:
    found = shutil.which(path.name)
    if found is not None and Path(found).resolve() == path.resolve():
        return path.name
    return f"./{path.name}" if os.access(path, os.X_OK) else f"python3 {path.name}"
