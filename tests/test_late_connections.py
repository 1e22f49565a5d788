"""Connections accepted in the turn of the loop in which their server is closed."""

from __future__ import annotations

import asyncio
import gc
import socket


async def test_a_connection_that_comes_as_its_server_closes_is_closed_too() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname(), timeout=60) as client:
        # The loop handles sockets first, then timers: the connection is accepted, and the server is closed.
        asyncio.get_running_loop().call_later(0, server.close)
        assert await asyncio.to_thread(client.recv, 1) == b""
    # Warnings are errors.
    gc.collect()
