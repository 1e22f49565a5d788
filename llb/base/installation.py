"""How this llb was installed, for commands that are shown to be run on another host."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT_COMMAND, PACKAGE_COMMAND = "./install.sh run", "llb"


def serve_commands() -> tuple[str, str]:
    """Commands that start the server: first for a host on which llb was installed as on this one.

    A checkout has its virtual environment beside install.sh; any other environment has the `llb` command.
    """
    if _is_checkout():
        return CHECKOUT_COMMAND, PACKAGE_COMMAND
    return PACKAGE_COMMAND, CHECKOUT_COMMAND


def command_path() -> str:
    """The `llb` command as it is called on this host, from the directory of a checkout if there is one."""
    return ".venv/bin/llb" if _is_checkout() else PACKAGE_COMMAND


def program_command() -> list[str]:
    """Command line of this program, for a service that starts it."""
    return [sys.executable, "-m", "llb"]


def _is_checkout() -> bool:
    return Path(sys.prefix).with_name("install.sh").is_file()
