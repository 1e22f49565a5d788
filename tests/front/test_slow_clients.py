"""Clients that send more than is answered, and do not read: what the front and Sanic hold for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llb.api.connection import connection_limiter, http_exchange, http_protocol
from llb.front.protocol import MAX_HELD_BYTES, FrontProtocol, InferenceFront
from tests.api.connection.raw import RawConnection, connect, exchange
from tests.front.test_front_and_sanic import CHAT, SERVERS, request_bytes
from tests.harness import RunningBalancer, wait_until

# Of one read of an event loop.
LARGEST_READ_BYTES = 256 * 1024
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SMALL_BUFFER_BYTES = 4096


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningBalancer]:
    """A balancer without models that examines its connections often."""
    monkeypatch.setattr(connection_limiter, "SWEEP_INTERVAL_S", 0.05)
    async with RunningBalancer(tmp_path / "home", admin_password="correct horse battery") as running:
        yield running


def protocols_of(server: RunningBalancer) -> list[FrontProtocol]:
    return list(server.sanic_app.ctx.connections.limiter._connections)


async def block(server: RunningBalancer, connection: RawConnection, request: bytes) -> FrontProtocol:
    """Have the answers to many requests wait for their client, which reads nothing."""
    # Its own buffer must not take them in its place.
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await wait_until(lambda: len(protocols_of(server)) == 1)
    [protocol] = protocols_of(server)
    assert protocol.transport is not None
    protocol.transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES
    )
    connection.writer.write(request * 1000)
    await wait_until(lambda: not protocol._can_write.is_set())
    return protocol


async def test_a_client_that_sends_faster_than_it_is_answered_is_read_no_faster(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    schedule = InferenceFront.schedule

    def noting(self: InferenceFront, connection: Any) -> None:
        held.append(len(connection._held))
        schedule(self, connection)

    monkeypatch.setattr(InferenceFront, "schedule", noting)
    count = 200
    request = request_bytes(CHAT, b" " * 16 * 1024)
    async with connect(server.port) as connection:
        sending = asyncio.create_task(connection.send(request * count))
        for _ in range(count):
            assert (await connection.read_response())[0] == 401
        await sending
    assert len(held) == count
    assert max(held) <= MAX_HELD_BYTES + LARGEST_READ_BYTES


@pytest.mark.parametrize("served_by", SERVERS)
async def test_others_are_answered_between_the_requests_of_one_connection(
    server: RunningBalancer, served_by: str
) -> None:
    count = 300
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        turns += 1
        pending.append(asyncio.get_running_loop().call_soon(count_turns))

    pending: list[asyncio.Handle] = []
    async with connect(server.port) as connection:
        await connection.send(request_bytes(CHAT, b"{}", served_by=served_by) * count)
        count_turns()
        for _ in range(count):
            assert (await connection.read_response())[0] == 401
        pending[-1].cancel()
    assert turns >= count // 2


async def test_others_are_answered_between_the_chunks_of_a_body(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    sleep = asyncio.sleep

    async def count_turn(delay: float) -> None:
        nonlocal turns
        turns += delay == 0
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", count_turn)
    size = 5 * http_exchange.CHUNKS_AT_ONCE
    head = (
        "POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = await exchange(server.port, head.encode() + b"1\r\n \r\n" * size + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert turns >= 5


@pytest.mark.parametrize("served_by", SERVERS)
async def test_a_client_without_a_credential_that_does_not_read_is_cut_off(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch, served_by: str
) -> None:
    async with connect(server.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as connection:
        await block(server, connection, request_bytes(CHAT, b"{}", served_by=served_by))
        monkeypatch.setattr(http_protocol, "ANSWER_TIMEOUT_S", 0.0)
        await wait_until(lambda: not protocols_of(server))


@pytest.mark.parametrize("served_by", SERVERS)
async def test_a_client_that_does_not_read_makes_room_for_others(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch, served_by: str
) -> None:
    """One with a key stays as long as there is room."""
    monkeypatch.setattr(connection_limiter, "SEARCH_PAUSE_S", 0.0)
    monkeypatch.setattr(http_protocol, "ANSWER_TIMEOUT_S", 0.0)
    key = await server.create_key("inference")
    await server.http.aclose()
    await wait_until(lambda: not protocols_of(server))
    limiter = server.sanic_app.ctx.connections.limiter
    async with connect(server.port, receive_buffer_bytes=SMALL_BUFFER_BYTES) as connection:
        protocol = await block(server, connection, request_bytes(CHAT, b"{}", served_by=served_by, key=key))
        assert protocol.unread_bytes == 0
        limiter.max_connections = 1
        assert b'"code":"server_busy"' in await exchange(server.port, HEALTH)
        monkeypatch.setattr(http_protocol, "STALLED_AFTER_S", 0.0)
        assert protocol.unread_bytes > 16 * 1024
        assert b" 200 OK" in await exchange(server.port, HEALTH)
        assert not protocol.is_open
