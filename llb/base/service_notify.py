"""Notices to the service manager, as sd_notify(3) describes; without one, nothing happens."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress

SEND_TIMEOUT_S = 1.0


def notify_ready(status: str | None = None) -> None:
    """The start, or a reload, has ended; a new `status` is shown by `systemctl status`."""
    _send("READY=1", *([] if status is None else [f"STATUS={status}"]))


def notify_reloading(monotonic_us: int) -> None:
    _send("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")


def notify_stopping(timeout_s: float) -> None:
    """The stop has begun, and may take `timeout_s`, whatever the unit says."""
    _send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(timeout_s * 1e6)}")


def _send(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or sys.platform == "win32":
        return
    if address.startswith("@"):
        # A name in the abstract namespace.
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SEND_TIMEOUT_S)
        sock.sendto("\n".join(lines).encode(), address)
