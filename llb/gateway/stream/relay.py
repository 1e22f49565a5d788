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

from llb.base.tasks import TaskSupervisor
from llb.errors import EngineFailed, EngineTimeout, LlbError
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, TransportError, UpstreamTimeout
from llb.gateway.stream.aggregator import StreamAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter
from llb.gateway.stream.start_event import StartEvent
from llb.gateway.stream.usage_parser import Usage, UsageParser

SSE_KEEPALIVE = b": heartbeat\n\n"
SSE_KEEPALIVE_INTERVAL_S = 15.0
IDLE_TIMEOUT_S = 300.0
# llama-server sends the head of a stream before it reads the prompt, so silence before the first event is work.
FIRST_EVENT_TIMEOUT_S = 3600.0
# An answer that is not a stream is held back up to this, so that one which breaks can still be had elsewhere.
MAX_HELD_BYTES = 64 * 1024
_INCOMPLETE_MESSAGE = "The engine stopped before its answer was complete"
# An event longer than this is passed on in pieces.
MAX_EVENT_BYTES = 256 * 1024


class BodySink(Protocol):
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


def format_error_event(error: LlbError) -> bytes:
    """An error inside a stream, in OpenAI's shape."""
    body = {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def is_event_stream(response: UpstreamResponse) -> bool:
    return response.content_type.startswith(b"text/event-stream")


async def relay_response(
    response: UpstreamResponse,
    sink: BodySink,
    *,
    keepalive_interval_s: float = SSE_KEEPALIVE_INTERVAL_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    first_event_timeout_s: float = FIRST_EVENT_TIMEOUT_S,
    format_error_event: Callable[[LlbError], bytes] = format_error_event,
    progress_filter: ProgressFilter | None = None,
) -> RelayResult:
    """Pass the body on, but for a `prelude` of its stream, then say what it was. Raises `EngineFailed` or `EngineTimeout` while nothing of the answer has
    been written (another target may be tried), and whatever the sink raises. The response is closed in every case."""
    stream = is_event_stream(response)
    edges = UsageParser()
    error: LlbError | None = None
    try:
        if stream:
            await _relay_events(
                response,
                sink,
                edges,
                keepalive_interval_s,
                idle_timeout_s,
                first_event_timeout_s,
                progress_filter,
            )
        else:
            await _relay_document(response, sink, edges, idle_timeout_s)
    except TransportError as fault:
        error = error_from_transport_error(fault)
        if not edges.total_bytes:
            raise error from fault
        if stream:
            # Only a giant event can have been cut; a blank line at least ends it.
            await sink.write((b"" if edges.ends_at_event else b"\n\n") + format_error_event(error))
    finally:
        response.close()
    if stream:
        usage, reported = edges.parse_stream()
        if reported is not None and error is None:  # the engine said so itself, inside its stream
            error = EngineFailed("The engine ended its answer with an error")
    else:
        usage = edges.parse_document()
    return RelayResult(
        response.status, stream, usage, edges.total_bytes, response.first_byte_at, time.monotonic(), error
    )


async def relay_aggregated(
    response: UpstreamResponse,
    sink: BodySink,
    aggregator: StreamAggregator,
    *,
    start_event: StartEvent | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    first_event_timeout_s: float = FIRST_EVENT_TIMEOUT_S,
) -> RelayResult:
    """Write a stream as the one document that it amounts to, when it is complete. Until then nothing is written: any `LlbError`
    leaves it possible to try another target. The response is closed in every case."""
    edges = UsageParser()
    try:
        while (
            data := await response.read_chunk(
                idle_timeout_s if aggregator.has_started else first_event_timeout_s
            )
        ) != b"":
            if data is None:
                raise UpstreamTimeout("idle")
            edges.feed(data)
            aggregator.feed(data)
        if not aggregator.is_complete:
            raise EngineFailed(_INCOMPLETE_MESSAGE)
        if start_event is not None and aggregator.lacks_start_event:
            start = await start_event.missing_prefix(b"")
            edges.prepend(start)
            aggregator.feed(start)
    except TransportError as fault:
        raise error_from_transport_error(fault) from fault
    finally:
        response.close()
    document = aggregator.document()
    await sink.write(document, last=True)
    usage, _ = edges.parse_stream()
    return RelayResult(
        response.status, False, usage, len(document), response.first_byte_at, time.monotonic(), None
    )


async def _relay_events(
    response: UpstreamResponse,
    sink: BodySink,
    usage_parser: UsageParser,
    keepalive_interval_s: float,
    idle_timeout_s: float,
    first_event_timeout_s: float,
    progress_filter: ProgressFilter | None,
) -> None:
    """Write whole events only: heartbeats and an error then always stand between events, never in one."""
    if progress_filter is None:
        response.mark_started()
    held = b""
    mid_event = False
    silent_s = 0.0
    unheard_since = time.monotonic()  # by the client, while there is a prelude
    while True:
        timeout_s = idle_timeout_s if usage_parser.total_bytes else first_event_timeout_s
        wait_s = min(keepalive_interval_s, timeout_s - silent_s)
        data = await response.read_chunk(wait_s)
        if data is None:
            silent_s += wait_s
            if silent_s >= timeout_s:
                raise UpstreamTimeout("idle")
            if not mid_event:
                await sink.write(SSE_KEEPALIVE)
                unheard_since = time.monotonic()
            continue
        silent_s = 0.0
        if not data:
            held = (b"" if progress_filter is None else progress_filter.flush()) + held
            if held:
                await _write_and_parse(sink, usage_parser, held)
            return
        if held:
            data, held = held + data, b""
        if data.endswith((b"\n\n", b"\r\n\r\n")):
            mid_event = False
        else:
            end = _last_event_end(data)
            if end:
                data, held = data[:end], data[end:]
                mid_event = False
            elif not mid_event and len(data) <= MAX_EVENT_BYTES:
                held = data
                continue
            else:
                mid_event = True
        if progress_filter is not None:
            data = progress_filter.filter_events(data)
            if progress_filter.is_finished:
                if progress_filter.start_event is not None:
                    data = await progress_filter.start_event.missing_prefix(data) + data
                progress_filter = None
                response.mark_started()
            else:
                response.reset_started()
                if time.monotonic() - unheard_since >= keepalive_interval_s:
                    await sink.write(SSE_KEEPALIVE)
                    unheard_since = time.monotonic()
                continue
        usage_parser.feed(data)
        await sink.write(data)


async def _relay_document(
    response: UpstreamResponse, sink: BodySink, usage_parser: UsageParser, idle_timeout_s: float
) -> None:
    held: list[bytes] = []
    held_bytes = 0
    while (data := await response.read_chunk(idle_timeout_s)) != b"":
        if data is None:
            raise UpstreamTimeout("idle")
        held.append(data)
        held_bytes += len(data)
        if held_bytes + usage_parser.total_bytes > MAX_HELD_BYTES:
            response.mark_started()
            await _write_and_parse(sink, usage_parser, b"".join(held))
            held.clear()
            held_bytes = 0
    if held:
        await _write_and_parse(sink, usage_parser, b"".join(held), last=True)


async def _write_and_parse(
    sink: BodySink, usage_parser: UsageParser, data: bytes, *, last: bool = False
) -> None:
    usage_parser.feed(data)
    await sink.write(data, last=last)


def _last_event_end(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0: nowhere."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def error_from_transport_error(error: TransportError) -> LlbError:
    """What a person is told of a fault: no address, no port."""
    if isinstance(error, UpstreamTimeout) or (isinstance(error, ConnectError) and error.is_timeout):
        return EngineTimeout("The engine did not answer in time")
    if isinstance(error, ConnectError):
        return EngineFailed("The engine cannot be reached")
    return EngineFailed(_INCOMPLETE_MESSAGE)


class SseKeepalive:
    """Writes SSE comments while the block runs longer than `every_s`: a queue, a model that loads, a long prompt.

    Nothing else may write to the sink inside the block. `started` says that the client has already got bytes."""

    def __init__(self, sink: BodySink, interval_s: float = SSE_KEEPALIVE_INTERVAL_S) -> None:
        self.has_written = False
        self._sink = sink
        self._interval_s = interval_s
        self._stop = asyncio.Event()
        self._tasks = TaskSupervisor("heartbeat")
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    async def __aenter__(self) -> SseKeepalive:
        # Most blocks end long before: until then this is a timer, not a task.
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._start)
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
        self._task = self._tasks.spawn(self._write_comments(), "beat")

    async def _write_comments(self) -> None:
        while not self._stop.is_set():
            self.has_written = True
            try:
                await self._sink.write(SSE_KEEPALIVE)
            except Exception as error:
                self._error = error  # the client has gone: the block's end raises it
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._interval_s)
