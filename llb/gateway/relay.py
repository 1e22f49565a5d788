"""The relay: an answer's bytes from its target to the client, unparsed, at the pace of the slower side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import msgspec

from llb.errors import EngineFailed, EngineTimeout, LlbError
from llb.gateway.connection import Response
from llb.gateway.faults import ConnectFailed, UpstreamFault, UpstreamTimeout
from llb.gateway.opening import Opening
from llb.gateway.usage import Edges, Usage
from llb.gateway.watched import Prelude
from llb.gateway.whole import Whole
from llb.tasks import TaskGroup

HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_S = 15.0
IDLE_TIMEOUT_S = 300.0
# llama-server sends the head of a stream before it reads the prompt, so silence before the first event is work.
FIRST_TIMEOUT_S = 3600.0
# An answer that is not a stream is held back up to this, so that one which breaks can still be had elsewhere.
HOLD_BYTES = 64 * 1024
_INCOMPLETE = "The engine stopped before its answer was complete"
# An event longer than this is passed on in pieces.
MAX_EVENT_BYTES = 256 * 1024


class Sink(Protocol):
    """Where the client's bytes go; `write` returns when the client can take more, and raises when it has gone. After what is
    known to be the `last`, nothing follows."""

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayResult:
    """How an answer went. With an `error` it broke off after its first byte; a stream has told the client,
    for any other answer the connection to the client must be cut, because its length is not what it says."""

    status: int
    stream: bool
    usage: Usage
    body_bytes: int
    first_byte_at: float | None  # time.monotonic()
    ended_at: float
    error: LlbError | None = None


def error_event(error: LlbError) -> bytes:
    """An error inside a stream, in OpenAI's shape."""
    body = {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def is_stream(response: Response) -> bool:
    return response.content_type.startswith(b"text/event-stream")


async def relay(
    response: Response,
    sink: Sink,
    *,
    heartbeat_s: float = HEARTBEAT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    first_timeout_s: float = FIRST_TIMEOUT_S,
    write_error: Callable[[LlbError], bytes] = error_event,
    prelude: Prelude | None = None,
) -> RelayResult:
    """Pass the body on, but for a `prelude` of its stream, then say what it was. Raises `EngineFailed` or `EngineTimeout` while nothing of the answer has
    been written (another target may be tried), and whatever the sink raises. The response is closed in every case."""
    stream = is_stream(response)
    edges = Edges()
    error: LlbError | None = None
    try:
        if stream:
            await _relay_events(response, sink, edges, heartbeat_s, idle_timeout_s, first_timeout_s, prelude)
        else:
            await _relay_document(response, sink, edges, idle_timeout_s)
    except UpstreamFault as fault:
        error = as_error(fault)
        if not edges.total_bytes:
            raise error from fault
        if stream:
            # Only a giant event can have been cut; a blank line at least ends it.
            await sink.write((b"" if edges.ends_event else b"\n\n") + write_error(error))
    finally:
        response.close()
    if stream:
        usage, reported = edges.usage_of_stream()
        if reported is not None and error is None:  # the engine said so itself, inside its stream
            error = EngineFailed("The engine ended its answer with an error")
    else:
        usage = edges.usage_of_document()
    return RelayResult(
        response.status, stream, usage, edges.total_bytes, response.first_byte_at, time.monotonic(), error
    )


async def relay_whole(
    response: Response,
    sink: Sink,
    whole: Whole,
    *,
    opening: Opening | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    first_timeout_s: float = FIRST_TIMEOUT_S,
) -> RelayResult:
    """Write a stream as the one document that it amounts to, when it is complete. Until then nothing is written: any `LlbError`
    leaves it possible to try another target. The response is closed in every case."""
    edges = Edges()
    try:
        while (data := await response.chunk(idle_timeout_s if whole.begun else first_timeout_s)) != b"":
            if data is None:
                raise UpstreamTimeout("idle")
            edges.add(data)
            whole.feed(data)
        if not whole.complete:
            raise EngineFailed(_INCOMPLETE)
        if opening is not None and whole.lacks_opening:
            start = await opening.before(b"")
            edges.add_first(start)
            whole.feed(start)
    except UpstreamFault as fault:
        raise as_error(fault) from fault
    finally:
        response.close()
    document = whole.document()
    await sink.write(document, last=True)
    usage, _ = edges.usage_of_stream()
    return RelayResult(
        response.status, False, usage, len(document), response.first_byte_at, time.monotonic(), None
    )


async def _relay_events(
    response: Response,
    sink: Sink,
    edges: Edges,
    heartbeat_s: float,
    idle_timeout_s: float,
    first_timeout_s: float,
    prelude: Prelude | None,
) -> None:
    """Write whole events only: heartbeats and an error then always stand between events, never in one."""
    if prelude is None:
        response.heard()
    held = b""
    mid_event = False
    silent_s = 0.0
    unheard_since = time.monotonic()  # by the client, while there is a prelude
    while True:
        timeout_s = idle_timeout_s if edges.total_bytes else first_timeout_s
        wait_s = min(heartbeat_s, timeout_s - silent_s)
        data = await response.chunk(wait_s)
        if data is None:
            silent_s += wait_s
            if silent_s >= timeout_s:
                raise UpstreamTimeout("idle")
            if not mid_event:
                await sink.write(HEARTBEAT)
                unheard_since = time.monotonic()
            continue
        silent_s = 0.0
        if not data:
            held = (b"" if prelude is None else prelude.rest()) + held
            if held:
                await _write(sink, edges, held)
            return
        if held:
            data, held = held + data, b""
        if data.endswith((b"\n\n", b"\r\n\r\n")):
            mid_event = False
        else:
            end = _events_end(data)
            if end:
                data, held = data[:end], data[end:]
                mid_event = False
            elif not mid_event and len(data) <= MAX_EVENT_BYTES:
                held = data
                continue
            else:
                mid_event = True
        if prelude is not None:
            data = prelude.take(data)
            if prelude.over:
                if prelude.opening is not None:
                    data = await prelude.opening.before(data) + data
                prelude = None
                response.heard()
            else:
                response.disregard()
                if time.monotonic() - unheard_since >= heartbeat_s:
                    await sink.write(HEARTBEAT)
                    unheard_since = time.monotonic()
                continue
        edges.add(data)
        await sink.write(data)


async def _relay_document(response: Response, sink: Sink, edges: Edges, idle_timeout_s: float) -> None:
    held: list[bytes] = []
    held_bytes = 0
    while (data := await response.chunk(idle_timeout_s)) != b"":
        if data is None:
            raise UpstreamTimeout("idle")
        held.append(data)
        held_bytes += len(data)
        if held_bytes + edges.total_bytes > HOLD_BYTES:
            response.heard()
            await _write(sink, edges, b"".join(held))
            held.clear()
            held_bytes = 0
    if held:
        await _write(sink, edges, b"".join(held), last=True)


async def _write(sink: Sink, edges: Edges, data: bytes, *, last: bool = False) -> None:
    edges.add(data)
    await sink.write(data, last=last)


def _events_end(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0: nowhere."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def as_error(fault: UpstreamFault) -> LlbError:
    """What a person is told of a fault: no address, no port."""
    if isinstance(fault, UpstreamTimeout) or (isinstance(fault, ConnectFailed) and fault.timed_out):
        return EngineTimeout("The engine did not answer in time")
    if isinstance(fault, ConnectFailed):
        return EngineFailed("The engine cannot be reached")
    return EngineFailed(_INCOMPLETE)


class Heartbeat:
    """Writes SSE comments while the block runs longer than `every_s`: a queue, a model that loads, a long prompt.

    Nothing else may write to the sink inside the block. `started` says that the client has already got bytes."""

    def __init__(self, sink: Sink, every_s: float = HEARTBEAT_S) -> None:
        self.started = False
        self._sink = sink
        self._every_s = every_s
        self._stop = asyncio.Event()
        self._tasks = TaskGroup("heartbeat")
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    async def __aenter__(self) -> Heartbeat:
        # Most blocks end long before: until then this is a timer, not a task.
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._stop.set()
            try:
                if not isinstance(error, asyncio.CancelledError):
                    await self._task  # a comment that is being written is written to its end
            finally:
                await self._tasks.close()
        if self._error is not None and error is None:
            raise self._error

    def _start(self) -> None:
        self._task = self._tasks.supervise(self._beat(), "beat")

    async def _beat(self) -> None:
        while not self._stop.is_set():
            self.started = True
            try:
                await self._sink.write(HEARTBEAT)
            except Exception as error:
                self._error = error  # the client has gone: the block's end raises it
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._every_s)
