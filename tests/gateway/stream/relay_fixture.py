"""Client and engine of the relay tests."""

from __future__ import annotations

import asyncio
import json

from llb.gateway.http.chunk_frames import frame_chunk
from llb.gateway.http.client import HttpClient
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.stream.relay import RelayResult, RelayTimeouts, relay_response
from tests.gateway.fake_engine import SSE_HEAD, Exchange, FakeEngine, ResponseHandler

LAST = b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":3}}\n\ndata: [DONE]\n\n'


class Sink:
    """A client that records what it receives, and may be slow or gone."""

    # Whether it takes the events of a stream without a coroutine for each.
    has_pipe = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.wrote = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()
        self.gone = False
        self.ended = False

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        assert not self.ended
        self.ended = last
        await self.ready.wait()
        if self.gone:
            raise ConnectionResetError("the client has gone")
        self.writes.append(data)
        self.wrote.set()

    def open_pipe(self) -> SinkPipe | None:
        return SinkPipe(self) if self.has_pipe else None

    @property
    def got(self) -> bytes:
        return b"".join(self.writes)

    async def until(self, count: int) -> None:
        while len(self.writes) < count:
            self.wrote.clear()
            await self.wrote.wait()


class SinkPipe:
    """The way to a `Sink` that is not awaited."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write_chunk(self, events: bytes) -> bool:
        assert events
        self._sink.writes.append(events)
        self._sink.wrote.set()
        return self._sink.ready.is_set() and not self._sink.gone

    def write_frame(self, events: bytes, frame: bytes, _is_single: bool) -> bool:
        assert frame == frame_chunk(events)
        return self.write_chunk(events)

    async def wait_writable(self) -> None:
        await self._sink.ready.wait()
        if self._sink.gone:
            raise ConnectionResetError("the client has gone")


async def ask(http_client: HttpClient, served: FakeEngine) -> UpstreamResponse:
    return await http_client.request(
        served.target, b"POST", b"/", (), b"{}", connect_timeout_s=5, header_timeout_s=5
    )


async def run(
    http_client: HttpClient,
    served: FakeEngine,
    sink: Sink,
    *,
    heartbeat_s: float = 30,
    idle_timeout_s: float = 30,
) -> RelayResult:
    response = await ask(http_client, served)
    timeouts = RelayTimeouts(keepalive_s=heartbeat_s, idle_s=idle_timeout_s)
    return await relay_response(response, sink, timeouts=timeouts)


def stream(*chunks: bytes, finish: bool = True) -> ResponseHandler:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        for chunk in chunks:
            await exchange.send_chunk(chunk)
        if finish:
            await exchange.end_body()
        else:
            # Closed in order, so that sent bytes arrive first.
            exchange.writer.write_eof()
            await exchange.client_closed.wait()

    return answer


def sent_error(got: bytes) -> dict[str, str]:
    assert got.endswith(b"\n\n")
    event = got.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    assert event.startswith(b"data: ")
    error: dict[str, str] = json.loads(event[6:])["error"]
    return error
