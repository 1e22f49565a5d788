"""Fake node as its balancer sees it: proves its identity, accepts liveness probes, receives requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from llb.security import tokens
from llb.wire import Hardware, Hello
from tests.gateway.fake_engine import SSE_HEAD

T = TypeVar("T")

CREDENTIAL = "the balancer's credential"
NODE_ID = "node-1"


@dataclass
class PendingRequest:
    """Request that the test responds to."""

    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    client_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def respond(self, body: bytes, *lines: bytes, status: int = 200) -> None:
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (
            status,
            len(body),
        )
        await self.send(head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body)

    async def start_stream(self) -> None:
        """Send the head of a stream and its first event."""
        await self.send(SSE_HEAD + b"d\r\ndata: begun\n\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class FakeNode:
    """State of the fake node. Times are those of the event loop."""

    url: str
    id: str = NODE_ID
    credential: str = CREDENTIAL
    requests: list[PendingRequest] = field(default_factory=list)
    # time of every byte of a liveness probe
    probe_times: list[float] = field(default_factory=list)
    probe_writers: list[asyncio.StreamWriter] = field(default_factory=list)
    # headers of the requests for a proof of identity
    proof_headers: list[dict[str, str]] = field(default_factory=list)
    connection_times: list[float] = field(default_factory=list)
    # Close every connection at once
    rejects_connections: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(condition)

    async def next_request(self) -> PendingRequest:
        """Wait for one more request."""
        count = len(self.requests)
        await self.wait_until(lambda: len(self.requests) > count)
        return self.requests[-1]

    def drop_probe_connections(self) -> None:
        """Close every probe, as if the program had exited or the kernel reported a lost host."""
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
    connection_tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection_tasks.add(task)
        try:
            now = asyncio.get_running_loop().time()
            await state.record(state.connection_times, now)
            if not state.rejects_connections:
                await _serve(state, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The end of the server cancels it.
            pass
        finally:
            writer.transport.abort()
            connection_tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state = FakeNode(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield state
    finally:
        server.close()
        for task in tuple(connection_tasks):
            task.cancel()
        await asyncio.gather(*connection_tasks, return_exceptions=True)
        await server.wait_closed()


async def _serve(state: FakeNode, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        url = urlsplit(lines[0].split(" ")[1])
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = PendingRequest(url.path, headers, body, writer)
        if url.path == "/hop/proof":
            await state.record(state.proof_headers, headers)
            proof = tokens.challenge_response(state.credential, state.id, parse_qs(url.query)["nonce"][0])
            await request.respond(b'{"proof":"%b"}' % proof.encode())
        elif url.path == "/hop/pulse":
            await state.record(state.probe_writers, writer)
            while await reader.read(1000):
                now = asyncio.get_running_loop().time()
                await state.record(state.probe_times, now)
            return
        else:
            await state.record(state.requests, request)
            try:
                while await reader.read(1000):
                    pass
            finally:
                request.client_closed.set()
            return
