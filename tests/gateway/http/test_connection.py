"""HTTP/1.1 connection: framing, headers, invalid responses."""

from __future__ import annotations

import asyncio

import pytest

from llb.gateway.http.client import HttpClient
from llb.gateway.http.connection import MAX_HEADER_BYTES, parse_keepalive_expiry_s
from llb.gateway.http.upstream_errors import InvalidResponse
from tests.gateway.fake_engine import (
    SSE_HEAD,
    Exchange,
    post_chat,
    read_body,
    run_fake_engine,
)


async def test_chunks_are_parsed_at_any_split(http_client: HttpClient) -> None:
    parts = [b"data: one\n\n", b"x" * 70_000, b"\r\n\r\n0\r\n", b"end"]
    wire = SSE_HEAD + b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
    wire += b"0\r\nTrailer: yes\r\n\r\n"

    async def handle(exchange: Exchange) -> None:
        for at in range(300):
            await exchange.send(wire[at : at + 1])
            # Let the bytes leave one by one.
            await asyncio.sleep(0)
        for at in range(300, len(wire), 1009):
            await exchange.send(wire[at : at + 1009])

    async with run_fake_engine(handle) as server:
        first = await post_chat(http_client, server)
        assert await read_body(first) == b"".join(parts)
        await read_body(await post_chat(http_client, server))
        assert server.connection_count == 1


async def test_interim_responses_are_skipped(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/plain\r\nLink: x\r\n\r\n")
        await exchange.send_json(b"{}")

    async with run_fake_engine(handle) as server:
        response = await post_chat(http_client, server)
        assert (response.status, response.content_type) == (200, b"application/json")
        assert await read_body(response) == b"{}"
        assert b"link" not in [name for name, _ in response.headers]


async def test_a_body_may_end_with_its_connection(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
        exchange.writer.write_eof()
        await exchange.client_closed.wait()

    async with run_fake_engine(handle) as server:
        assert await read_body(await post_chat(http_client, server)) == b"all of it"
        assert http_client.idle_connections == 0


async def test_hop_by_hop_headers_are_not_forwarded(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )

    async with run_fake_engine(handle) as server:
        response = await http_client.request(
            server.target,
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
        await server.wait_for_open_connections(0)
    headers = server.exchanges[0].headers
    assert ("x-own", "1") in headers
    assert [value for name, value in headers if name == "authorization"] == ["Bearer sk-engine"]
    assert {"connection", "cookie"}.isdisjoint(name for name, _ in headers)


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
async def test_an_invalid_response_closes_the_connection(http_client: HttpClient, wire: bytes) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send(wire)
        await exchange.client_closed.wait()

    async with run_fake_engine(handle) as server:
        with pytest.raises(InvalidResponse):
            await post_chat(http_client, server)
        await server.wait_for_open_connections(0)


async def test_bytes_after_a_response_never_reach_the_next_request(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        await exchange.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async with run_fake_engine(handle) as server:
        for number in (1, 2):
            assert await read_body(await post_chat(http_client, server)) == b"{}"
            assert server.connection_count == number


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
def test_idle_connections_expire_before_the_peer_closes_them(value: bytes, kept_s: float) -> None:
    assert parse_keepalive_expiry_s(value) == kept_s
