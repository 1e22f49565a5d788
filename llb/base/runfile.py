"""Run file: address and token of the server that runs on a home, in `run.json` (mode 0600).

The server writes the file once its port is bound, and holds the lock of its home as long as it runs. A
command trusts the file only while the lock is held, so that it never sends the token to another program on
the port.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.base.net_addresses import build_base_url
from llb.wire.decoding import DECODE_ERRORS

LOCK_NAME = "llb.lock"
RUN_FILE_NAME = "run.json"
LOCAL_TOKEN_PREFIX = "llb-local-"  # noqa: S105


class RunInfo(Struct, frozen=True, kw_only=True):
    """Running server: its address, and the token that makes a local caller its administrator."""

    pid: int
    host: str
    port: int
    token: str
    tls: bool = False
    # Trust anchor of the server's certificate.
    anchor: str = ""

    @property
    def url(self) -> str:
        """Base URL by which this host reaches the server."""
        loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return build_base_url("https" if self.tls else "http", loopback.get(self.host, self.host), self.port)


def write_run_info(home: Path, info: RunInfo) -> None:
    platform_compat.write_private_file(home / RUN_FILE_NAME, msgspec.json.encode(info))


def remove_run_info(home: Path) -> None:
    (home / RUN_FILE_NAME).unlink(missing_ok=True)


def find_running_server(home: Path) -> RunInfo | None:
    """Return the server that runs on this home, None if none does."""
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
    # Another pid: a server that was killed left the file, and the present one has not written its own yet.
    return info if info.pid == platform_compat.read_lock_owner(home / LOCK_NAME) else None
