from __future__ import annotations

import asyncio
import socket

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget, build_request_head
from llb.gateway.http.connection import MAX_HEADER_BYTES, parse_keepalive_expiry_s
from llb.gateway.http.response import HIGH_WATER_BYTES, UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, InvalidResponse, UpstreamClosed, UpstreamTimeout
from tests.gateway.engine import (
    SSE_HEAD,
    Exchange,
    FakeEngine,
    read_body,
    respond_hello,
    run_fake_engine,
    wait_until,
)


async def ask(
    upstream: HttpClient, served: FakeEngine, body: bytes = b"{}", *, header_timeout_s: float = 10.0
) -> UpstreamResponse:
    return await upstream.request(
        served.target,
        b"POST",
        b"/v1/chat/completions",
        [(b"Content-Type", b"application/json")],
        body,
        connect_timeout_s=5.0,
        header_timeout_s=header_timeout_s,
    )


async def test_an_answer_with_a_length(upstream: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as served:
        response = await ask(upstream, served, b'{"model":"m"}')
        assert response.status == 200
        assert response.content_type == b"application/json"
        assert response.content_length == 11
        assert await read_body(response) == b'{"hello":1}'
    got = served.exchanges[0]
    assert (got.method, got.path, got.body) == ("POST", "/v1/chat/completions", b'{"model":"m"}')
    headers = dict(got.headers)
    assert headers["authorization"] == "Bearer sk-engine"
    assert headers["host"] == f"127.0.0.1:{served.target.port}"


async def test_a_connection_is_used_again_and_abreast(upstream: HttpClient) -> None:
    together = asyncio.Barrier(2)

    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/together":
            await together.wait()
        await exchange.send_json(b"{}")

    async with run_fake_engine(answer) as served:
        for _ in range(5):
            await read_body(await ask(upstream, served))
        assert served.connection_count == 1
        assert upstream.idle_connections == 1

        async def one() -> bytes:
            response = await upstream.request(
                served.target, b"GET", b"/together", connect_timeout_s=5, header_timeout_s=5
            )
            return await read_body(response)

        assert list(await asyncio.gather(one(), one())) == [b"{}", b"{}"]
        assert served.connection_count == 2
        assert upstream.idle_connections == 2


async def test_chunks_in_odd_splits(upstream: HttpClient) -> None:
    parts = [b"data: one\n\n", b"x" * 70_000, b"\r\n\r\n0\r\n", b"end"]
    wire = SSE_HEAD + b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
    wire += b"0\r\nTrailer: yes\r\n\r\n"

    async def answer(exchange: Exchange) -> None:
        for at in range(300):
            await exchange.send(wire[at : at + 1])
            await asyncio.sleep(0)  # lets the bytes leave one by one
        for at in range(300, len(wire), 1009):
            await exchange.send(wire[at : at + 1009])

    async with run_fake_engine(answer) as served:
        first = await ask(upstream, served)
        assert await read_body(first) == b"".join(parts)
        await read_body(await ask(upstream, served))
        assert served.connection_count == 1


async def test_interim_answers_are_skipped(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/plain\r\nLink: x\r\n\r\n")
        await exchange.send_json(b"{}")

    async with run_fake_engine(answer) as served:
        response = await ask(upstream, served)
        assert (response.status, response.content_type) == (200, b"application/json")
        assert await read_body(response) == b"{}"
        assert b"link" not in [name for name, _ in response.headers]


async def test_a_body_that_ends_with_its_connection(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
        exchange.writer.write_eof()
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        assert await read_body(await ask(upstream, served)) == b"all of it"
        assert upstream.idle_connections == 0


async def test_hop_by_hop_headers_end_here(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )

    async with run_fake_engine(answer) as served:
        response = await upstream.request(
            served.target,
            b"POST",
            b"/",
            [
                (b"Connection", b"upgrade"),
                (b"authorization", b"Bearer sk-user"),
                (b"Cookie", b"a=b"),
                (b"x-own", b"1"),
            ],
            connect_timeout_s=5,
            header_timeout_s=5,
        )
        assert response.headers == [(b"x-kept", b"yes")]
        assert await read_body(response) == b""
        await served.wait_for_open_connections(0)
    headers = served.exchanges[0].headers
    assert ("x-own", "1") in headers
    assert [value for name, value in headers if name == "authorization"] == ["Bearer sk-engine"]
    assert {"connection", "cookie"}.isdisjoint(name for name, _ in headers)


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
def test_nothing_breaks_out_of_its_line(path: bytes, header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="line break"):
        build_request_head(UpstreamTarget("127.0.0.1", 1), b"POST", path, [header], 0)


def test_an_ipv6_target_is_named_in_brackets() -> None:
    head = build_request_head(UpstreamTarget("::1", 81, headers=((b"x-hop", b"1"),)), b"GET", b"/", [], 0)
    assert head == b"GET / HTTP/1.1\r\nHost: [::1]:81\r\nx-hop: 1\r\n\r\n"


async def test_a_kept_connection_that_the_peer_closed_is_replaced(upstream: HttpClient) -> None:
    """The close is not seen before the next request is sent: the peer hangs up on reading it."""

    async def answer(exchange: Exchange) -> None:
        if len(served.exchanges) == 2:
            exchange.abort()
            return
        await exchange.send_json(b"{}")

    async with run_fake_engine(answer) as served:
        await read_body(await ask(upstream, served))
        assert await read_body(await ask(upstream, served)) == b"{}"
        assert [exchange.connection_number for exchange in served.exchanges] == [1, 1, 2]


async def test_a_fresh_connection_is_not_tried_twice(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.abort()

    async with run_fake_engine(answer) as served:
        with pytest.raises(UpstreamClosed) as caught:
            await ask(upstream, served)
        assert caught.value.before_first_byte
        assert len(served.exchanges) == 1


async def test_an_answer_that_began_is_never_asked_for_again(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        if len(served.exchanges) == 2:
            await exchange.send(b"HTTP/1.1 2")
            exchange.close_after_response = True
            return
        await exchange.send_json(b"{}")

    async with run_fake_engine(answer) as served:
        await read_body(await ask(upstream, served))
        with pytest.raises(UpstreamClosed) as caught:
            await ask(upstream, served)
        assert not caught.value.before_first_byte
        assert len(served.exchanges) == 2


async def test_an_idle_connection_closed_by_the_peer_leaves_the_pool(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(b"{}")
        exchange.close_after_response = True

    async with run_fake_engine(answer) as served:
        await read_body(await ask(upstream, served))
        await served.wait_for_open_connections(0)
        await wait_until(lambda: not upstream.open_connections)
        assert upstream.idle_connections == 0


async def test_nobody_listens(upstream: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError) as caught:
        await upstream.request(
            UpstreamTarget("127.0.0.1", port), b"GET", b"/", connect_timeout_s=5, header_timeout_s=5
        )
    assert not caught.value.is_timeout
    assert str(port) not in str(caught.value)


async def test_a_black_hole_costs_the_connect_deadline(upstream: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        target = UpstreamTarget("127.0.0.1", listener.getsockname()[1])
        # Nobody accepts: once the backlog is full the kernel leaves further attempts without an answer.
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            with pytest.raises(ConnectError) as caught:
                await upstream.request(target, b"GET", b"/", connect_timeout_s=0.1, header_timeout_s=5)
        finally:
            for filler in fillers:
                filler.close()
    assert caught.value.is_timeout


async def test_header_and_idle_deadlines(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/mute":
            await exchange.client_closed.wait()
        else:
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
            await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.request(
                served.target, b"GET", b"/mute", connect_timeout_s=5, header_timeout_s=0.05
            )
        assert caught.value.stage == "header"
        response = await ask(upstream, served)
        chunks = response.iter_chunks(0.05)
        assert await anext(chunks) == b"data: 1\n\n"
        with pytest.raises(UpstreamTimeout) as caught:
            await anext(chunks)
        assert caught.value.stage == "idle"
        await served.wait_for_open_connections(0)


async def test_silence_is_reported_and_the_answer_goes_on(upstream: HttpClient) -> None:
    more = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await more.wait()
        await exchange.send_chunk(b"late")
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        response = await ask(upstream, served)
        assert await response.read_chunk(0.02) is None
        assert await response.read_chunk(0.02) is None
        more.set()
        assert await response.read_chunk(10) == b"late"
        assert await response.read_chunk(10) == b""
        assert await response.read_chunk(10) == b""


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (MAX_HEADER_BYTES + 1),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["not http", "two framings", "endless head", "upgrade"],
)
async def test_a_bad_answer_closes_the_connection(upstream: HttpClient, wire: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(wire)
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        with pytest.raises(InvalidResponse):
            await ask(upstream, served)
        await served.wait_for_open_connections(0)


async def test_bytes_after_an_answer_never_reach_the_next_request(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        await exchange.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async with run_fake_engine(answer) as served:
        for number in (1, 2):
            assert await read_body(await ask(upstream, served)) == b"{}"
            assert served.connection_count == number


async def test_an_answer_larger_than_allowed(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send_json(b"x" * 100_000)

    async with run_fake_engine(answer) as served:
        response = await ask(upstream, served)
        with pytest.raises(InvalidResponse):
            await response.read(1000, 10)


@pytest.mark.parametrize("stage", ["head", "body"])
async def test_leaving_closes_the_connection_at_once(upstream: HttpClient, stage: str) -> None:
    """This is what frees the slot of an engine whose client has gone: in prefill no head has come yet."""
    asked = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if stage == "body":
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
        asked.set()
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:

        async def client() -> None:
            response = await ask(upstream, served)
            try:
                await response.read_chunk(10)
                await response.read_chunk(10)
            finally:
                response.close()
                response.close()

        task = asyncio.ensure_future(client())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.exchanges[0].client_closed.wait()
        await served.wait_for_open_connections(0)
        assert upstream.idle_connections == 0


async def test_cancelling_after_the_whole_answer_came_spares_the_next_user(upstream: HttpClient) -> None:
    """The connection is in the pool again while the first task has not run: its end must not abort the second."""
    release = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if len(served.exchanges) == 2:
            await release.wait()
        await exchange.send_json(b"{}")

    async with run_fake_engine(answer) as served:
        first = asyncio.ensure_future(ask(upstream, served))
        await wait_until(lambda: upstream.idle_connections == 1)
        second = asyncio.ensure_future(ask(upstream, served))
        first.cancel()
        await asyncio.wait([first])
        release.set()
        assert await read_body(await second) == b"{}"


async def test_a_slow_reader_pauses_the_engine(upstream: HttpClient) -> None:
    """64 MB are on offer; what has been read here stays bounded by the buffer and one read of the loop."""
    total_bytes = 64 * 1024 * 1024
    piece = b"x" * 65536
    sent_bytes = 0
    stuck = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        nonlocal sent_bytes
        await exchange.send(SSE_HEAD)
        for _ in range(total_bytes // len(piece)):
            try:
                async with asyncio.timeout(0.3):
                    await exchange.send_chunk(piece)
            except TimeoutError:
                stuck.set()
                await exchange.writer.drain()
            sent_bytes += len(piece)
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        response = await ask(upstream, served)
        assert await response.read_chunk(10)
        await stuck.wait()
        assert response.buffered_bytes <= HIGH_WATER_BYTES + 256 * 1024
        assert sent_bytes < total_bytes / 2
        received_bytes = 0
        most_bytes = 0
        async for data in response.iter_chunks(10):
            received_bytes += len(data)
            most_bytes = max(most_bytes, len(data))
        assert received_bytes > total_bytes - HIGH_WATER_BYTES - 512 * 1024
        assert most_bytes <= HIGH_WATER_BYTES + 256 * 1024


async def test_closing_the_client_ends_what_runs(upstream: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        task = asyncio.ensure_future(ask(upstream, served))
        await served.wait_for_open_connections(1)
        await wait_until(lambda: len(served.exchanges) == 1)
        await upstream.close()
        await upstream.close()
        with pytest.raises(UpstreamClosed):
            await task
        with pytest.raises(ConnectError):
            await ask(upstream, served)
        await served.wait_for_open_connections(0)


async def test_a_dropped_target_keeps_no_connection(upstream: HttpClient) -> None:
    async with run_fake_engine(respond_hello) as served:
        await read_body(await ask(upstream, served))
        upstream.close_idle(served.target)
        await served.wait_for_open_connections(0)
        assert upstream.idle_connections == 0


@pytest.mark.parametrize(
    ("value", "kept_s"),
    [
        (b"timeout=5, max=100", 4.0),
        (b"max=100", 15.0),
        (b"timeout=0", 0.0),
        (b"timeout=900", 60.0),
        (b"5", 15.0),
    ],
)
def test_we_leave_before_the_peer_does(value: bytes, kept_s: float) -> None:
    assert parse_keepalive_expiry_s(value) == kept_s
