"""Connections that a server of asyncio accepts in the very turn of the loop in which it is closed.

asyncio forgets such a connection: the transport is never attached to the closed server
(python/cpython#109564), and its socket stays open until the garbage collector finds it, with a
`ResourceWarning` in whatever test runs then. Hosts that dial again while another one stops meet this now and
then. uvloop, which serves in production, does not have the defect.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.selector_events import BaseSelectorEventLoop
from typing import Any

_accept: Any = vars(BaseSelectorEventLoop)["_accept_connection2"]


def install() -> None:
    """Close such connections, as the kernel closes those that were never accepted."""
    setattr(BaseSelectorEventLoop, "_accept_connection2", _accept_or_close)  # noqa: B010


async def _accept_or_close(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Any,
    connection: socket.socket,
    extra: Any,
    sslcontext: Any = None,
    server: Any = None,
    *timeouts: Any,
) -> None:
    if server is not None and server._sockets is None:
        connection.close()
        return
    await _accept(loop, protocol_factory, connection, extra, sslcontext, server, *timeouts)
