"""Connections that send any bytes, for tests of the protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

DEADLINE_S = 20.0


@dataclass
class RawConnection:
    """A connection whose bytes the test chooses."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> bytes:
        """The head of the next response; an interim one counts too."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read_response(self) -> tuple[int, bytes]:
        """Status and body of the next response, which has a length."""
        head = (await self.read_head()).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        async with asyncio.timeout(DEADLINE_S):
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def read_to_end(self) -> bytes:
        """Bytes until the server closes the connection, also by a reset."""
        received = b""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while data := await self.reader.read(65536):
                    received += data
            except ConnectionError:
                pass
        return received


@asynccontextmanager
async def connect(port: int, *, receive_buffer_bytes: int | None = None) -> AsyncIterator[RawConnection]:
    """Open a connection to a server of this host."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()


async def exchange(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send `data` on a new connection; return all that comes until the server closes."""
    async with connect(port) as connection:
        await connection.send(data)
        if half_close:
            connection.writer.write_eof()
        return await connection.read_to_end()
