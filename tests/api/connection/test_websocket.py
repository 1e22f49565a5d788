"""WebSockets whose client sends and does not read, sends nonsense, or opens too many."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import websockets.asyncio.client
from websockets.exceptions import InvalidStatus

from llb.api.connection import websocket
from llb.api.connection.websocket import BoundedWebSocket
from tests.api.connection.raw import RawConnection, connect
from tests.harness import RunningBalancer, wait_until

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def frame(opcode: int, data: bytes = b"", *, final: bool = True) -> bytes:
    """A masked frame."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    return bytes([(0x80 if final else 0) | opcode]) + length + b"\0\0\0\0" + data


@asynccontextmanager
async def open_socket(
    server: RunningBalancer, credential: str = "", *, receive_buffer_bytes: int | None = None
) -> AsyncIterator[RawConnection]:
    """A WebSocket whose frames the test writes; nothing is read but the handshake."""
    async with connect(server.port, receive_buffer_bytes=receive_buffer_bytes) as connection:
        credential = credential or server.app.local_token
        await connection.send(
            f"GET /ws/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {credential}\r\n\r\n".encode()
        )
        head = await connection.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield connection


async def close_code_after(connection: RawConnection, data: bytes) -> int:
    """Send `data`; return the code with which the server closes."""
    connection.writer.write(data)
    received = await connection.read_to_end()
    # The server's frames are not masked, and its messages hold no such byte.
    return int.from_bytes(received[received.rindex(b"\x88") + 2 :][:2], "big")


async def test_a_client_that_does_not_read_is_not_read_from(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pongs wait for the client, and the client's pings for the pongs."""
    monkeypatch.setattr(BoundedWebSocket, "_may_send", lambda *_: True)
    async with open_socket(server, receive_buffer_bytes=4096) as connection:
        before = len(asyncio.all_tasks())
        connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(PING, b"x" * 100) * 1000
        sent_bytes = 0
        with suppress(TimeoutError):
            while sent_bytes < 60_000_000:
                await asyncio.wait_for(connection.send(pings), 1)
                sent_bytes += len(pings)
        # No more than what the kernel holds.
        assert sent_bytes < 30_000_000
        assert len(asyncio.all_tasks()) - before < 10


async def test_too_many_messages_end_the_connection(server: RunningBalancer) -> None:
    for data in (
        frame(PING) * 500,
        frame(TEXT, b"hello") * 500,
        frame(TEXT, final=False) + frame(0, final=False) * 500,
    ):
        async with open_socket(server) as connection:
            assert await close_code_after(connection, data) == 1008
    assert (await server.http.get("/health")).status_code == 200


async def test_a_program_that_keeps_its_connection_alive_is_tolerated(server: RunningBalancer) -> None:
    async with server.open_event_stream() as reader:
        for _ in range(30):
            await reader.send("ping")
        await asyncio.wait_for(await reader.ping(), 10)
        assert await asyncio.wait_for(reader.recv(), 10)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"\xe2\x82"), 1007),
        (frame(TEXT, b"a", final=False) + frame(0, b"\xff"), 1007),
        (frame(TEXT, b"x" * 1025), 1009),
        (frame(BINARY, b"x" * 600, final=False) + frame(0, b"x" * 600), 1009),
        (frame(3), 1002),
        (frame(PING, b"x" * 126), 1002),
        (bytes([0x81, 1]) + b"x", 1002),
    ],
    ids=[
        "no UTF-8",
        "half a character",
        "fragment",
        "too large",
        "too large in pieces",
        "opcode",
        "long ping",
        "mask",
    ],
)
async def test_what_is_no_message_ends_the_connection(
    server: RunningBalancer, data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_socket(server) as connection:
        assert await close_code_after(connection, data) == code
    await wait_until(lambda: server.sanic_app.ctx.connections.websocket_limiter._counts.total() == 0)
    assert not caplog.records


async def test_one_client_opens_a_limited_number(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sanic_app.ctx.connections.websocket_limiter._max_per_client = 3
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(server.open_event_stream())
        with pytest.raises(InvalidStatus) as refused:
            async with server.open_event_stream():
                pass
        assert refused.value.response.status_code == 429
        # Another client may.
        other = await server.create_key("models:read")
        await stack.enter_async_context(open_socket(server, credential=other))
        # Of programs of this host without a credential, each address counts.
        for _ in range(3):
            await stack.enter_async_context(_anonymous(server))
        with pytest.raises(InvalidStatus):
            async with _anonymous(server):
                pass
    await wait_until(lambda: server.sanic_app.ctx.connections.websocket_limiter._counts.total() == 0)
    async with server.open_event_stream() as reader:
        await asyncio.wait_for(reader.recv(), 10)


def _anonymous(server: RunningBalancer) -> websockets.asyncio.client.connect:
    return websockets.asyncio.client.connect(f"ws://127.0.0.1:{server.port}/ws/models", proxy=None)


async def test_the_server_closes_as_before(server: RunningBalancer) -> None:
    async with server.open_event_stream() as reader:
        await asyncio.wait_for(reader.recv(), 10)
        await server.stop(0.0)
        await asyncio.wait_for(reader.wait_closed(), 10)
        assert reader.close_code == 1001


async def test_a_malformed_handshake_is_refused(server: RunningBalancer) -> None:
    async with connect(server.port) as connection:
        await connection.send(
            b"GET /ws/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Authorization: Bearer %b\r\n\r\n" % server.app.local_token.encode()
        )
        assert (await connection.read_response())[0] == 400
    await wait_until(lambda: server.sanic_app.ctx.connections.websocket_limiter._counts.total() == 0)
    assert websocket.MAX_SOCKETS_PER_CLIENT == 64
