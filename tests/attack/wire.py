"""Raw connections of an attacker, from an address that the victim does not have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit

SOURCE_ADDRESS = "127.0.0.66"
READ_BYTES = 65_536
CONNECT_TIMEOUT_S = 5.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connect(url: str) -> AsyncIterator[Connection]:
    """An open connection; aborted at the end, as a client that vanishes leaves it. Raises OSError."""
    where = urlsplit(url)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            where.hostname, where.port, local_addr=(SOURCE_ADDRESS, 0)
        )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head_of(url: str, method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode()


def request_of(url: str, path: str, body: bytes, key: str | None = None) -> bytes:
    """A whole POST of JSON."""
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if key is not None:
        headers.append(("Authorization", f"Bearer {key}"))
    return head_of(url, "POST", path, headers) + body


async def post(url: str, path: str, fields: dict[str, Any] | bytes, key: str | None = None) -> int:
    """Status of an answer whose body is read to its end. Raises OSError."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    async with connect(url) as (reader, writer):
        writer.write(request_of(url, path, body, key))
        head = await reader.readuntil(b"\r\n")
        while await reader.read(READ_BYTES):
            pass
    return int(head.split()[1])


async def send_and_leave(url: str, path: str, body: bytes, key: str | None, stay_s: float) -> None:
    """A request whose client vanishes after `stay_s`, whatever has come by then."""
    async with connect(url) as (reader, writer):
        writer.write(request_of(url, path, body, key))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stay_s):
                while await reader.read(READ_BYTES):
                    pass


async def hold(url: str, beginning: bytes, drip: bytes, every_s: float) -> None:
    """A connection that sends `beginning`, then one piece of `drip` after another, until it is closed."""
    async with connect(url) as (reader, writer):
        writer.write(beginning)
        while not reader.at_eof():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await reader.read(READ_BYTES)
            writer.write(drip)
            await writer.drain()


async def pipeline(url: str, chunk: bytes, *, reads: bool) -> None:
    """A connection that sends `chunk` for as long as the server takes it."""
    async with connect(url) as (reader, writer):
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def discard() -> None:
            while await reader.read(READ_BYTES):
                pass

        reading = asyncio.create_task(discard())
        try:
            while not reading.done() or not reads:
                writer.write(chunk)
                await writer.drain()
        finally:
            reading.cancel()


async def flood_websocket(url: str, handshake: bytes, chunk: bytes) -> None:
    """A WebSocket that sends `chunk` for ever and reads nothing once it is open."""
    async with connect(url) as (reader, writer):
        writer.write(handshake)
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(chunk)
            await writer.drain()
