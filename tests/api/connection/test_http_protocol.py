"""Deadlines and the limit of connections, with clients that say nothing, or too little, or never end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llb.api.connection import connection_limiter, http_protocol
from llb.api.connection.connection_limiter import ConnectionLimiter
from tests.api.connection.raw import RawConnection, connect, exchange
from tests.harness import RunningBalancer, wait_until

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST
JSON_TYPE = HOST + b"Content-Type: application/json\r\n"
LOGIN = b"POST /api/auth/login HTTP/1.1\r\n" + JSON_TYPE
BODY_BEGINS = b"Content-Length: 1000\r\n\r\n{"
CHUNKED_BEGINS = b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"


def limiter_of(server: RunningBalancer) -> ConnectionLimiter:
    limiter: ConnectionLimiter = server.sanic_app.ctx.connections.limiter
    return limiter


@pytest.fixture
async def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RunningBalancer]:
    """A balancer whose deadlines are short."""
    monkeypatch.setattr(connection_limiter, "SWEEP_INTERVAL_S", 0.05)
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http_protocol, "BODY_GRACE_S", 0.3)
    async with RunningBalancer(tmp_path / "home", admin_password="correct horse battery") as running:
        yield running


async def trickle(connection: RawConnection, data: bytes) -> None:
    """Send `data` byte by byte for as long as the server takes it."""
    for byte in data:
        connection.writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "beginning",
    [
        HEALTH + b"X-A: ",
        LOGIN + b"Content-Length: 1000\r\n\r\n",
        LOGIN + b"Transfer-Encoding: chunked\r\n\r\n3E8\r\n",
        LOGIN + b"Transfer-Encoding: chunked\r\n\r\n2;",
        b"POST /api/nodes/join HTTP/1.1\r\n" + JSON_TYPE + b"Content-Length: 1000\r\n\r\n",
    ],
    ids=["head", "body", "chunked body", "size of a chunk", "body of a join"],
)
async def test_bytes_that_trickle_do_not_keep_a_connection(
    impatient: RunningBalancer, beginning: bytes
) -> None:
    async with connect(impatient.port) as connection:
        await connection.send(beginning)
        trickling = asyncio.create_task(trickle(connection, b"x" * 1000))
        answer = await connection.read_to_end()
        trickling.cancel()
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"code":"request_timeout"' in answer
    await wait_until(lambda: len(limiter_of(impatient)) == 0)


async def test_the_body_of_a_key_may_take_long_if_it_keeps_a_pace(
    impatient: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a byte a second here, for longer than the grace; the other request sends nothing."""
    monkeypatch.setattr(http_protocol, "MIN_BODY_BYTES_PER_S", 1)
    key = f"Authorization: Bearer {await impatient.create_key('inference')}\r\n".encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON_TYPE + key + b"Content-Length: 30\r\n\r\n"
    async with connect(impatient.port) as steady, connect(impatient.port) as silent:
        await silent.send(head)
        # The first bytes are ahead of the pace, so that a pause of the machine is none of the client.
        await steady.send(head + b" " * 15)
        trickling = asyncio.create_task(trickle(steady, b" " * 13 + b"{}"))
        assert (await silent.read_response())[0] == 408
        assert (await steady.read_response())[0] == 400
        await trickling


async def test_a_connection_that_makes_no_request_is_closed(
    impatient: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient.sanic_app.config.KEEP_ALIVE_TIMEOUT = 0.2
    assert await exchange(impatient.port, b"") == b""
    async with connect(impatient.port) as connection:
        await connection.send(HEALTH + b"\r\n")
        assert (await connection.read_response())[0] == 200
        assert await connection.read_to_end() == b""


async def test_clients_who_wait_make_room_for_those_who_ask(server: RunningBalancer) -> None:
    """Without an account, and from the same address as everybody behind a proxy."""
    limiter = limiter_of(server)
    limiter.max_connections = 20
    key = f"Authorization: Bearer {await server.create_key('inference')}\r\n".encode()
    beginnings = (
        b"",
        HEALTH + b"X-A: ",
        LOGIN + BODY_BEGINS,
        LOGIN + CHUNKED_BEGINS,
        HEALTH + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON_TYPE + key + BODY_BEGINS,
    )
    async with AsyncExitStack() as stack:
        for beginning in beginnings:
            for _ in range(25):
                connection = await stack.enter_async_context(connect(server.port))
                await connection.send(beginning)
            # A new client is answered at once.
            assert b" 200 OK" in await exchange(server.port, HEALTH + b"Connection: close\r\n\r\n")
            assert len(limiter) <= 20
        # A client whose request had begun gets the reason.
        first_body = await exchange(server.port, HEALTH + b"Connection: close\r\n\r\n")
        assert b" 200 OK" in first_body
    await wait_until(lambda: len(limiter) <= 1)


async def test_an_evicted_request_is_told_so(server: RunningBalancer) -> None:
    limiter_of(server).max_connections = 1
    async with connect(server.port) as slow:
        await slow.send(LOGIN + BODY_BEGINS)
        await wait_until(lambda: len(limiter_of(server)) == 1)
        assert b" 200 OK" in await exchange(server.port, HEALTH + b"Connection: close\r\n\r\n")
        answer = await slow.read_to_end()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b'"code":"server_busy"' in answer
    assert b"\r\nRetry-After: 2\r\n" in answer


async def test_requests_in_progress_are_never_cut_for_new_connections(server: RunningBalancer) -> None:
    limiter = limiter_of(server)
    async with server.open_event_stream() as reader:
        await asyncio.wait_for(reader.recv(), 10)
        await server.http.aclose()
        await wait_until(lambda: len(limiter) == 1)
        limiter.max_connections = 1
        answer = await exchange(server.port, b"")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b'"code":"server_busy"' in answer
        await asyncio.wait_for(await reader.ping(), 10)
        limiter.max_connections = 2
        assert b" 200 OK" in await exchange(server.port, HEALTH + b"Connection: close\r\n\r\n")
