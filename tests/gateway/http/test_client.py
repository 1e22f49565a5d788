"""HTTP client: requests, the connection pool, tunnels, lost targets, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget, build_request_head
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.security import tls_trust
from llb.security.certificates import create_authority, issue_certificate
from tests.gateway.fake_engine import (
    SSE_HEAD,
    Exchange,
    FakeEngine,
    post_chat,
    read_body,
    respond_hello,
    run_fake_engine,
    wait_until,
)


async def test_a_response_with_a_length(http_client: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as server:
        response = await post_chat(http_client, server, b'{"model":"m"}')
        assert response.status == 200
        assert response.content_type == b"application/json"
        assert response.content_length == 11
        assert await read_body(response) == b'{"hello":1}'
    exchange = server.exchanges[0]
    assert (exchange.method, exchange.path, exchange.body) == (
        "POST",
        "/v1/chat/completions",
        b'{"model":"m"}',
    )
    headers = dict(exchange.headers)
    assert headers["authorization"] == "Bearer sk-engine"
    assert headers["host"] == f"127.0.0.1:{server.target.port}"


async def test_connections_are_reused_and_run_in_parallel(http_client: HttpClient) -> None:
    together = asyncio.Barrier(2)

    async def handle(exchange: Exchange) -> None:
        if exchange.path == "/together":
            await together.wait()
        await exchange.send_json(b"{}")

    async with run_fake_engine(handle) as server:
        for _ in range(5):
            await read_body(await post_chat(http_client, server))
        assert server.connection_count == 1
        assert http_client.idle_connections == 1

        async def one() -> bytes:
            response = await http_client.request(
                server.target, b"GET", b"/together", connect_timeout_s=5, header_timeout_s=5
            )
            return await read_body(response)

        assert list(await asyncio.gather(one(), one())) == [b"{}", b"{}"]
        assert server.connection_count == 2
        assert http_client.idle_connections == 2


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (b"/a b", (b"x", b"1")),
        (b"/a\r\nx: y", (b"x", b"1")),
        (b"/", (b"x", b"1\r\nHost: other")),
        (b"/", (b"x\nx", b"1")),
        (b"/", (b"x", b"1\r")),
    ],
)
def test_header_injection_is_rejected(path: bytes, header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="line break"):
        build_request_head(UpstreamTarget("127.0.0.1", 1), b"POST", path, [header], 0)


def test_an_ipv6_host_is_written_in_brackets() -> None:
    head = build_request_head(UpstreamTarget("::1", 81, headers=((b"x-hop", b"1"),)), b"GET", b"/", [], 0)
    assert head == b"GET / HTTP/1.1\r\nHost: [::1]:81\r\nx-hop: 1\r\n\r\n"


async def test_an_idle_connection_that_the_peer_closed_is_replaced(http_client: HttpClient) -> None:
    """The close is not visible before the next request: the peer closes when it reads that."""

    async def handle(exchange: Exchange) -> None:
        if len(server.exchanges) == 2:
            exchange.abort()
            return
        await exchange.send_json(b"{}")

    async with run_fake_engine(handle) as server:
        await read_body(await post_chat(http_client, server))
        assert await read_body(await post_chat(http_client, server)) == b"{}"
        assert [exchange.connection_number for exchange in server.exchanges] == [1, 1, 2]


async def test_a_request_on_a_new_connection_is_not_repeated(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        exchange.abort()

    async with run_fake_engine(handle) as server:
        with pytest.raises(UpstreamClosed) as caught:
            await post_chat(http_client, server)
        assert caught.value.before_first_byte
        assert len(server.exchanges) == 1


async def test_a_request_whose_response_started_is_not_repeated(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        if len(server.exchanges) == 2:
            await exchange.send(b"HTTP/1.1 2")
            exchange.close_after_response = True
            return
        await exchange.send_json(b"{}")

    async with run_fake_engine(handle) as server:
        await read_body(await post_chat(http_client, server))
        with pytest.raises(UpstreamClosed) as caught:
            await post_chat(http_client, server)
        assert not caught.value.before_first_byte
        assert len(server.exchanges) == 2


async def test_an_idle_connection_closed_by_the_peer_leaves_the_pool(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send_json(b"{}")
        exchange.close_after_response = True

    async with run_fake_engine(handle) as server:
        await read_body(await post_chat(http_client, server))
        await server.wait_for_open_connections(0)
        await wait_until(lambda: not http_client.open_connections)
        assert http_client.idle_connections == 0


async def test_connection_refused(http_client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError) as caught:
        await http_client.request(
            UpstreamTarget("127.0.0.1", port), b"GET", b"/", connect_timeout_s=5, header_timeout_s=5
        )
    assert not caught.value.is_timeout
    assert str(port) not in str(caught.value)


async def test_connect_timeout(http_client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        target = UpstreamTarget("127.0.0.1", listener.getsockname()[1])
        # Nothing accepts: once the backlog is full the kernel does not respond to further attempts.
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            with pytest.raises(ConnectError) as caught:
                await http_client.request(target, b"GET", b"/", connect_timeout_s=0.1, header_timeout_s=5)
        finally:
            for filler in fillers:
                filler.close()
    assert caught.value.is_timeout


async def test_cancelling_after_a_complete_response_spares_the_next_request(http_client: HttpClient) -> None:
    """The connection is idle again before the first task runs: its end must not abort the second request."""
    release = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        if len(server.exchanges) == 2:
            await release.wait()
        await exchange.send_json(b"{}")

    async with run_fake_engine(handle) as server:
        first = asyncio.ensure_future(post_chat(http_client, server))
        await wait_until(lambda: http_client.idle_connections == 1)
        second = asyncio.ensure_future(post_chat(http_client, server))
        first.cancel()
        await asyncio.wait([first])
        release.set()
        assert await read_body(await second) == b"{}"


async def test_close_fails_running_requests(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.client_closed.wait()

    async with run_fake_engine(handle) as server:
        task = asyncio.ensure_future(post_chat(http_client, server))
        await server.wait_for_open_connections(1)
        await wait_until(lambda: len(server.exchanges) == 1)
        await http_client.close()
        await http_client.close()
        with pytest.raises(UpstreamClosed):
            await task
        with pytest.raises(ConnectError):
            await post_chat(http_client, server)
        await server.wait_for_open_connections(0)


async def test_close_idle_closes_the_connections_of_its_target(http_client: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as server:
        await read_body(await post_chat(http_client, server))
        http_client.close_idle(server.target)
        await server.wait_for_open_connections(0)
        assert http_client.idle_connections == 0


# --- tunnels -----------------------------------------------------------------------------------------

DIALLED = UpstreamTarget("localhost", 80, tunnel_id="node-1")


async def adopt(http_client: HttpClient, server: FakeEngine) -> None:
    """Give the client a tunnel to `server`, whose end the test dials."""
    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, server.target.host, server.target.port
    )
    http_client.adopt_connection(DIALLED, transport)


def get(http_client: HttpClient, *, connect_timeout_s: float = 5.0) -> asyncio.Task[UpstreamResponse]:
    return asyncio.ensure_future(
        http_client.request(DIALLED, b"GET", b"/", connect_timeout_s=connect_timeout_s, header_timeout_s=10)
    )


async def test_requests_wait_in_order_for_tunnels(http_client: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as server:
        first, second = get(http_client), get(http_client)
        await asyncio.sleep(0)
        await adopt(http_client, server)
        await read_body(await first)
        # Over the same tunnel, once it is idle again.
        await read_body(await second)
        assert server.connection_count == 1
        await read_body(await get(http_client))
        assert server.connection_count == 1


async def test_a_cancelled_request_passes_its_tunnel_on(http_client: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as server:
        first, second = get(http_client), get(http_client)
        await asyncio.sleep(0)
        await adopt(http_client, server)
        # In the same iteration of the loop in which it got the tunnel.
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await read_body(await second)
        assert server.connection_count == 1


async def test_a_tunnel_that_is_not_dialled_in_time(http_client: HttpClient) -> None:
    with pytest.raises(ConnectError) as caught:
        await get(http_client, connect_timeout_s=0.05)
    assert caught.value.is_timeout
    assert not http_client._tunnel_waiters
    async with run_fake_engine(respond_hello) as server:
        # The late tunnel serves the next request.
        await adopt(http_client, server)
        assert http_client.idle_connections == 1
        await read_body(await get(http_client))


async def test_a_tunnel_that_closed_while_it_was_handed_over_is_not_used(http_client: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as server:
        waiting = get(http_client)
        await asyncio.sleep(0)
        await adopt(http_client, server)
        for connection in tuple(http_client._connections):
            connection.abort(UpstreamClosed(before_first_byte=True))
        await adopt(http_client, server)
        await read_body(await waiting)


# --- lost targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_started", [False, True])
async def test_fail_requests(http_client: HttpClient, include_started: bool) -> None:
    async def handle(exchange: Exchange) -> None:
        if exchange.path == "/hello":
            await respond_hello(exchange)
            return
        if exchange.path == "/begun":
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
        await exchange.client_closed.wait()

    async def request(server: FakeEngine, path: bytes) -> UpstreamResponse:
        return await http_client.request(
            server.target, b"GET", path, connect_timeout_s=5, header_timeout_s=10
        )

    async with run_fake_engine(handle) as server, run_fake_engine(handle) as other:
        begun = await request(server, b"/begun")
        assert await begun.read_chunk(10) == b"data: 1\n\n"
        waiting = asyncio.ensure_future(request(server, b"/waiting"))
        elsewhere = asyncio.ensure_future(request(other, b"/waiting"))
        await read_body(await request(server, b"/hello"))
        await wait_until(lambda: len(server.exchanges) == 3 and len(other.exchanges) == 1)
        http_client.fail_requests(server.target, include_started=include_started)
        with pytest.raises(UpstreamClosed) as caught:
            await waiting
        assert caught.value.before_first_byte
        assert not caught.value.is_stale
        assert http_client.idle_connections == 0
        assert not elsewhere.done()
        elsewhere.cancel()
        if include_started:
            with pytest.raises(UpstreamClosed):
                await begun.read_chunk(10)
        else:
            assert await begun.read_chunk(0.02) is None
        begun.close()


async def test_tls_target(http_client: HttpClient, tmp_path: Path) -> None:
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

    async def get(host: str, trust_anchor: str = tls_trust.SYSTEM_TRUST) -> bytes:
        target = UpstreamTarget(host, port, trust_anchor=trust_anchor)
        response = await http_client.request(
            target, b"GET", b"/", connect_timeout_s=5.0, header_timeout_s=5.0
        )
        return await read_body(response)

    async with server:
        # The system does not trust that certificate.
        with pytest.raises(ConnectError):
            await get("localhost")
        # The trust anchor identifies the server, not its host name.
        for host in ("localhost", "127.0.0.1"):
            assert await get(host, authority.certificate) == b"hi"
        with pytest.raises(ConnectError):
            await get("localhost", stranger.certificate)
