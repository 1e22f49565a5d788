"""TLS acceptor: handshakes count as connections, and lose no byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from llb.api.connection.connection_limiter import ConnectionLimiter
from llb.api.connection.tls_acceptor import TlsAcceptor
from llb.base import platform_compat
from llb.security import tls_trust
from llb.security.certificates import create_authority, issue_certificate

Run = Callable[[Coroutine[None, None, None]], None]

MAX_CONNECTIONS = 8
DEADLINE_S = 30.0
# They begin to read at different moments.
LOOPS = {"of the server": platform_compat.new_event_loop, "of asyncio": asyncio.new_event_loop}


class Echo(asyncio.Protocol):
    def __init__(self, connections: set[Echo]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)


class EchoServer:
    """Server above TLS with a small limit of connections."""

    def __init__(self, directory: Path) -> None:
        authority = create_authority()
        pem, _ = issue_certificate(authority, ("localhost",))
        (directory / "chain.pem").write_bytes(pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(directory / "chain.pem")
        self.client_context = tls_trust.get_client_context(authority.certificate)
        self.limiter = ConnectionLimiter(max_connections=MAX_CONNECTIONS)
        self._echoes: set[Echo] = set()
        self.acceptor = TlsAcceptor(context, self.limiter, make_protocol=partial(Echo, self._echoes))
        self._port = 0
        self._clients: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        server = await asyncio.get_running_loop().create_server(self.acceptor, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield
        finally:
            server.close()
            self.acceptor.close()
            for echo in tuple(self._echoes):
                echo.transport.abort()
            for client in self._clients:
                client.close()
                with suppress(ConnectionError):
                    await client.wait_closed()
            while self._echoes or len(self.limiter):
                await asyncio.sleep(0)
            await server.wait_closed()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that says nothing yet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._clients.append(writer)
        return reader, writer

    async def echo(self, data: bytes) -> bytes:
        """Return the echo of `data`, which is sent in one segment with the end of the handshake."""
        reader, writer = await self.connect()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")

        async def until_done(step: Callable[[], bytes | None]) -> bytes | None:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        writer.write(outgoing.read())
                    received = await reader.read(65536)
                    assert received, "the connection was closed"
                    incoming.write(received)

        await until_done(tls.do_handshake)
        tls.write(data)
        received = await until_done(lambda: tls.read(len(data)))
        return received or b""


async def assert_closed(reader: asyncio.StreamReader) -> None:
    """Read the rest of a connection, to its end."""
    with suppress(ConnectionResetError):
        await reader.read()


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(run: Run, tmp_path: Path) -> None:
    async def ask_often() -> None:
        server = EchoServer(tmp_path)
        async with server.serve():
            for number in range(MAX_CONNECTIONS):
                assert await server.echo(b"%d" % number) == b"%d" % number
            assert not server.acceptor.handshakes

    run(ask_often())


def test_clients_without_a_handshake_make_room_for_others(run: Run, tmp_path: Path) -> None:
    async def crowd() -> None:
        server = EchoServer(tmp_path)
        async with server.serve():
            silent = [(await server.connect())[0] for _ in range(3 * MAX_CONNECTIONS)]
            assert await server.echo(b"hello") == b"hello"
            assert len(server.limiter) <= MAX_CONNECTIONS
            for oldest in silent[:MAX_CONNECTIONS]:
                await assert_closed(oldest)
            server.acceptor.close()
            await assert_closed(silent[-1])
            assert not server.acceptor.handshakes

    run(crowd())


def test_what_is_no_handshake_ends_its_connection_only(run: Run, tmp_path: Path) -> None:
    async def ask() -> None:
        server = EchoServer(tmp_path)
        async with server.serve():
            reader, writer = await server.connect()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await assert_closed(reader)
            assert await server.echo(b"hello") == b"hello"

    run(ask())
