"""A node as its balancer sees it, whose every answer a test decides: it proves who it is, feels the pulse, and is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from llb.security import tokens
from llb.wire import Hardware, Hello
from tests.gateway.engine import SSE_HEAD

T = TypeVar("T")

CREDENTIAL = "the balancer shows it"
NODE_ID = "node-1"


@dataclass
class PendingRequest:
    """One request that waits for its answer."""

    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    client_closed: asyncio.Event = field(default_factory=asyncio.Event)  # whoever asked has hung up

    async def respond(self, body: bytes, *lines: bytes, status: int = 200) -> None:
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (
            status,
            len(body),
        )
        await self.send(head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body)

    async def start_stream(self) -> None:
        """The head of a stream, and its first event."""
        await self.send(SSE_HEAD + b"d\r\ndata: begun\n\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class FakeNode:
    """`proofs` are the headers with which it was asked who it is; `beats` are the pulse's, and `met` all connections, each
    with the loop's time."""

    url: str
    id: str = NODE_ID
    credential: str = CREDENTIAL
    requests: list[PendingRequest] = field(default_factory=list)
    probe_times: list[float] = field(default_factory=list)
    probe_writers: list[asyncio.StreamWriter] = field(default_factory=list)
    proof_headers: list[dict[str, str]] = field(default_factory=list)
    connection_times: list[float] = field(default_factory=list)
    rejects_connections: bool = False  # whoever connects is hung up on at once
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def next_request(self) -> PendingRequest:
        """Wait until one more request is here."""
        count = len(self.requests)
        await self.wait_until(lambda: len(self.requests) > count)
        return self.requests[-1]

    def drop_probe_connections(self) -> None:
        """End every pulse: the program has gone, or the kernel says that the host has."""
        for writer in self.probe_writers:
            writer.transport.abort()
        self.probe_writers.clear()

    def build_hello(self, *urls: str, instance: str = "first") -> Hello:
        return Hello(
            protocol=2,
            node_id=self.id,
            name="cellar",
            version="1",
            platform="",
            addresses=urls or (self.url,),
            hardware=Hardware(cpu="", cpu_count=1, memory_total_bytes=1),
            memory_budget_bytes=8_000_000_000,
            vram_budget_bytes=0,
            max_downloads=1,
            slots_per_engine=4,
            replicas=(),
            instance=instance,
        )

    async def record(self, records: list[T], value: T) -> None:
        async with self.changed:
            records.append(value)
            self.changed.notify_all()


@asynccontextmanager
async def run_fake_node() -> AsyncIterator[FakeNode]:
    """Serve on a free port; leaves no task and no socket behind."""
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            now = asyncio.get_running_loop().time()
            await state.record(state.connection_times, now)
            if not state.rejects_connections:
                await _serve_connection(state, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the server's end cancels it, and nobody looks
        finally:
            writer.transport.abort()
            handlers.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state = FakeNode(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield state
    finally:
        server.close()
        for task in tuple(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


async def _serve_connection(
    state: FakeNode, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        url = urlsplit(lines[0].split(" ")[1])
        await reader.readexactly(int(headers.get("content-length", "0")))
        asked = PendingRequest(url.path, headers, writer)
        if url.path == "/hop/proof":
            await state.record(state.proof_headers, headers)
            shown = tokens.challenge_response(state.credential, state.id, parse_qs(url.query)["nonce"][0])
            await asked.respond(b'{"proof":"%b"}' % shown.encode())
        elif url.path == "/hop/pulse":
            await state.record(state.probe_writers, writer)
            while await reader.read(1000):
                now = asyncio.get_running_loop().time()
                await state.record(state.probe_times, now)
            return
        else:
            await state.record(state.requests, asked)
            try:
                while await reader.read(1000):
                    pass
            finally:
                asked.client_closed.set()
            return
