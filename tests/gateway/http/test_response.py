"""Response read as a stream: timeouts, limits, back-pressure, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from llb.gateway.http.client import HttpClient
from llb.gateway.http.response import HIGH_WATER_BYTES
from llb.gateway.http.upstream_errors import InvalidResponse, UpstreamTimeout
from tests.gateway.fake_engine import (
    SSE_HEAD,
    Exchange,
    post_chat,
    run_fake_engine,
)


async def test_header_and_idle_timeouts(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        if exchange.path == "/mute":
            await exchange.client_closed.wait()
        else:
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
            await exchange.client_closed.wait()

    async with run_fake_engine(handle) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await http_client.request(
                server.target, b"GET", b"/mute", connect_timeout_s=5, header_timeout_s=0.05
            )
        assert caught.value.stage == "header"
        response = await post_chat(http_client, server)
        chunks = response.iter_chunks(0.05)
        assert await anext(chunks) == b"data: 1\n\n"
        with pytest.raises(UpstreamTimeout) as caught:
            await anext(chunks)
        assert caught.value.stage == "idle"
        await server.wait_for_open_connections(0)


async def test_a_silent_response_may_continue(http_client: HttpClient) -> None:
    more = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await more.wait()
        await exchange.send_chunk(b"late")
        await exchange.end_body()

    async with run_fake_engine(handle) as server:
        response = await post_chat(http_client, server)
        assert await response.read_chunk(0.02) is None
        assert await response.read_chunk(0.02) is None
        more.set()
        assert await response.read_chunk(10) == b"late"
        assert await response.read_chunk(10) == b""
        assert await response.read_chunk(10) == b""


async def test_a_response_larger_than_allowed(http_client: HttpClient) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.send_json(b"x" * 100_000)

    async with run_fake_engine(handle) as server:
        response = await post_chat(http_client, server)
        with pytest.raises(InvalidResponse):
            await response.read(1000, 10)


@pytest.mark.parametrize("stage", ["head", "body"])
async def test_cancelling_closes_the_connection_at_once(http_client: HttpClient, stage: str) -> None:
    """Frees the slot of an engine whose client has left; during prefill no head has arrived yet."""
    received = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        if stage == "body":
            await exchange.send(SSE_HEAD)
            await exchange.send_chunk(b"data: 1\n\n")
        received.set()
        await exchange.client_closed.wait()

    async with run_fake_engine(handle) as server:

        async def client() -> None:
            response = await post_chat(http_client, server)
            try:
                await response.read_chunk(10)
                await response.read_chunk(10)
            finally:
                response.close()
                response.close()

        task = asyncio.ensure_future(client())
        await received.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.exchanges[0].client_closed.wait()
        await server.wait_for_open_connections(0)
        assert http_client.idle_connections == 0


async def test_a_slow_reader_pauses_the_engine(http_client: HttpClient) -> None:
    """The server offers 64 MB; the bytes read stay bounded by the buffer and one read of the event loop."""
    total_bytes = 64 * 1024 * 1024
    piece = b"x" * 65536
    sent_bytes = 0
    stuck = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
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

    async with run_fake_engine(handle) as server:
        response = await post_chat(http_client, server)
        assert await response.read_chunk(10)
        await stuck.wait()
        assert response.buffered_bytes <= HIGH_WATER_BYTES + 256 * 1024
        assert sent_bytes < total_bytes / 2
        received_bytes = 0
        largest_chunk_bytes = 0
        async for data in response.iter_chunks(10):
            received_bytes += len(data)
            largest_chunk_bytes = max(largest_chunk_bytes, len(data))
        assert received_bytes > total_bytes - HIGH_WATER_BYTES - 512 * 1024
        assert largest_chunk_bytes <= HIGH_WATER_BYTES + 256 * 1024
