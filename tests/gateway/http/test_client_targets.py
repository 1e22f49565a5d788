"""Targets of another kind: who dials itself, who has gone, who speaks TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.security import tls_trust
from llb.security.certificates import create_authority, issue_certificate
from tests.gateway.engine import (
    SSE_HEAD,
    Exchange,
    FakeEngine,
    read_body,
    respond_hello,
    run_fake_engine,
    wait_until,
)

# --- connections that the other end dials ------------------------------------------------------------

DIALLED = UpstreamTarget("localhost", 80, tunnel_id="node-1")


async def adopt(upstream: HttpClient, served: FakeEngine) -> None:
    """What the balancer does with a connection on which an engine listens, whoever dialled it."""
    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, served.target.host, served.target.port
    )
    upstream.adopt_connection(DIALLED, transport)


def get(upstream: HttpClient, *, connect_timeout_s: float = 5.0) -> asyncio.Task[UpstreamResponse]:
    return asyncio.ensure_future(
        upstream.request(DIALLED, b"GET", b"/", connect_timeout_s=connect_timeout_s, header_timeout_s=10)
    )


async def test_requests_wait_in_turn_for_what_is_dialled(upstream: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as served:
        first, second = get(upstream), get(upstream)
        await asyncio.sleep(0)
        await adopt(upstream, served)
        await read_body(await first)
        await read_body(await second)  # over the same one, when it was free again
        assert served.connection_count == 1
        await read_body(await get(upstream))
        assert served.connection_count == 1


async def test_who_leaves_passes_its_connection_on(upstream: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as served:
        first, second = get(upstream), get(upstream)
        await asyncio.sleep(0)
        await adopt(upstream, served)
        first.cancel()  # in the same turn of the loop in which it was given the connection
        await asyncio.wait([first])
        assert first.cancelled()
        await read_body(await second)
        assert served.connection_count == 1


async def test_what_is_not_dialled_in_time(upstream: HttpClient) -> None:
    with pytest.raises(ConnectError) as caught:
        await get(upstream, connect_timeout_s=0.05)
    assert caught.value.is_timeout
    assert not upstream._tunnel_waiters
    async with run_fake_engine(respond_hello) as served:
        await adopt(upstream, served)  # comes late, and is there for the next one
        assert upstream.idle_connections == 1
        await read_body(await get(upstream))


async def test_one_that_ended_while_it_was_handed_over_is_not_used(upstream: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as served:
        waiting = get(upstream)
        await asyncio.sleep(0)
        await adopt(upstream, served)
        for connection in tuple(upstream._connections):
            connection.abort(UpstreamClosed(before_first_byte=True))
        await adopt(upstream, served)
        await read_body(await waiting)


# --- a target that has gone --------------------------------------------------------------------------


@pytest.mark.parametrize("begun_too", [False, True])
async def test_abandoning_a_target(upstream: HttpClient, begun_too: bool) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/hello":
            await respond_hello(exchange)
            return
        if exchange.path == "/begun":
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
        await exchange.client_closed.wait()

    async def request(served: FakeEngine, path: bytes) -> UpstreamResponse:
        return await upstream.request(served.target, b"GET", path, connect_timeout_s=5, header_timeout_s=10)

    async with run_fake_engine(answer) as served, run_fake_engine(answer) as other:
        begun = await request(served, b"/begun")
        assert await begun.read_chunk(10) == b"data: 1\n\n"
        waiting = asyncio.ensure_future(request(served, b"/waiting"))
        elsewhere = asyncio.ensure_future(request(other, b"/waiting"))
        await read_body(await request(served, b"/hello"))
        await wait_until(lambda: len(served.exchanges) == 3 and len(other.exchanges) == 1)
        upstream.fail_requests(served.target, include_started=begun_too)
        with pytest.raises(UpstreamClosed) as caught:
            await waiting
        assert caught.value.before_first_byte
        assert not caught.value.is_stale
        assert upstream.idle_connections == 0
        assert not elsewhere.done()
        elsewhere.cancel()
        if begun_too:
            with pytest.raises(UpstreamClosed):
                await begun.read_chunk(10)
        else:
            assert await begun.read_chunk(0.02) is None
        begun.close()


async def test_a_target_that_speaks_tls(upstream: HttpClient, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    authority, stranger = create_authority(), create_authority()
    path = tmp_path / "own.pem"
    path.write_bytes(issue_certificate(authority, ("localhost",))[0])
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(path)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=own)
    port = server.sockets[0].getsockname()[1]

    async def get(host: str, whom: str = tls_trust.SYSTEM_TRUST) -> bytes:
        target = UpstreamTarget(host, port, trust_anchor=whom)
        response = await upstream.request(target, b"GET", b"/", connect_timeout_s=5.0, header_timeout_s=5.0)
        return await read_body(response)

    async with server:
        with pytest.raises(ConnectError):  # nobody here trusts that certificate
            await get("localhost")
        for host in ("localhost", "127.0.0.1"):  # who has the key may be called anything
            assert await get(host, authority.certificate) == b"hi"
        with pytest.raises(ConnectError):
            await get("localhost", stranger.certificate)
