"""Fake engine: an HTTP server whose every byte a test controls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Exchange:
    """One received request, and the raw connection to its client."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    # 1 for the first connection that the server accepted
    connection_number: int
    client_closed: asyncio.Event
    writer: asyncio.StreamWriter
    # Close the connection after the response
    close_after_response: bool = False

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_body(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def send_json(self, body: bytes, status: int = 200) -> None:
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await self.send(head % (status, len(body)) + body)

    def abort(self) -> None:
        self.writer.transport.abort()


ResponseHandler = Callable[[Exchange], Awaitable[None]]


@dataclass
class FakeEngine:
    """Received exchanges, and counts of connections: accepted in total, and open now."""

    target: UpstreamTarget
    exchanges: list[Exchange] = field(default_factory=list)
    connection_count: int = 0
    open_connections: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_for_open_connections(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.open_connections == count)


def _set_when_closed(client_closed: asyncio.Event, head: asyncio.Future[bytes]) -> None:
    if not head.cancelled() and head.exception() is not None:
        client_closed.set()


@contextlib.asynccontextmanager
async def run_fake_engine(handler: ResponseHandler, *, host: str = "127.0.0.1") -> AsyncIterator[FakeEngine]:
    """Serve `handler` on a free port; leaves no task and no socket behind."""
    connection_tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection_tasks.add(task)
        state.connection_count += 1
        number = state.connection_count
        async with state.changed:
            state.open_connections += 1
            state.changed.notify_all()
        try:
            await serve_exchanges(reader, writer, number)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # asyncio logs a connection whose task was cancelled; `run_fake_engine` cancels it at its end.
            pass
        finally:
            writer.transport.abort()
            async with state.changed:
                state.open_connections -= 1
                state.changed.notify_all()
            connection_tasks.discard(task)

    async def serve_exchanges(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        while True:
            lines = (await head).decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ")
            headers = [
                (name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:-2])
            ]
            body = await reader.readexactly(int(dict(headers).get("content-length", "0")))
            exchange = Exchange(method, path, headers, body, number, asyncio.Event(), writer)
            state.exchanges.append(exchange)
            # Reading the next request meanwhile shows when the client closes the connection.
            head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            head.add_done_callback(partial(_set_when_closed, exchange.client_closed))
            try:
                await handler(exchange)
            except BaseException:
                head.cancel()
                raise
            if exchange.close_after_response:
                head.cancel()
                return

    server = await asyncio.start_server(serve, host, 0)
    port: int = server.sockets[0].getsockname()[1]
    state = FakeEngine(UpstreamTarget(host, port, api_key="sk-engine"))
    try:
        yield state
    finally:
        server.close()
        for task in tuple(connection_tasks):
            task.cancel()
        await asyncio.gather(*connection_tasks, return_exceptions=True)
        await server.wait_closed()


async def post_chat(
    http_client: HttpClient, server: FakeEngine, body: bytes = b"{}", *, header_timeout_s: float = 10.0
) -> UpstreamResponse:
    return await http_client.request(
        server.target,
        b"POST",
        b"/v1/chat/completions",
        [(b"Content-Type", b"application/json")],
        body,
        connect_timeout_s=5.0,
        header_timeout_s=header_timeout_s,
    )


async def read_body(response: UpstreamResponse) -> bytes:
    return await response.read(64 * 1024 * 1024, 10.0)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Run the event loop until `condition` holds, for state that has no event of its own."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


async def respond_hello(exchange: Exchange) -> None:
    await exchange.send_json(b'{"hello":1}')
