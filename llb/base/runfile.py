"""How a command finds the server of its own home: `run.json`, readable by the owner only, beside the home's lock.

The server writes it after it has bound its port and while it holds the lock. A command trusts it only while the
lock is held, so that a program which merely answers on the port is never handed the token.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.wire.decoding import DECODE_ERRORS

LOCK_NAME = "llb.lock"
RUN_FILE_NAME = "run.json"
LOCAL_TOKEN_PREFIX = "llb-local-"  # noqa: S105  # the form of a token, not one


class RunInfo(Struct, frozen=True, kw_only=True):
    """A running server: where it listens, and the token that makes a local caller its administrator."""

    pid: int
    host: str
    port: int
    token: str
    tls: bool = False
    anchor: str = ""  # by which its certificate is believed

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        scheme = "https" if self.tls else "http"
        if self.host in ("0.0.0.0", ""):  # noqa: S104  # compared, not bound
            return f"{scheme}://127.0.0.1:{self.port}"
        if self.host == "::":
            return f"{scheme}://[::1]:{self.port}"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def write_run_info(home: Path, info: RunInfo) -> None:
    platform_compat.write_private_file(home / RUN_FILE_NAME, msgspec.json.encode(info))


def remove_run_info(home: Path) -> None:
    (home / RUN_FILE_NAME).unlink(missing_ok=True)


def find_running_server(home: Path) -> RunInfo | None:
    """The server that runs on this home now, None if none does."""
    if not (home / LOCK_NAME).exists():
        return None
    lock = platform_compat.try_lock_file(home / LOCK_NAME)
    if lock is not None:
        lock.close()
        return None
    try:
        info = msgspec.json.decode((home / RUN_FILE_NAME).read_bytes(), type=RunInfo)
    except (OSError, *DECODE_ERRORS):
        return None
    # Written by a server that was killed before, while the present one has not got that far yet.
    return info if info.pid == platform_compat.read_lock_owner(home / LOCK_NAME) else None
