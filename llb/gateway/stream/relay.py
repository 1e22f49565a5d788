"""Relay: the bytes of an answer from its target to the client, unparsed, at the pace of the slower side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llb.errors import EngineFailed, EngineTimeout, LlbError
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, TransportError, UpstreamTimeout
from llb.gateway.stream.aggregator import StreamAggregator
from llb.gateway.stream.keepalive import SSE_KEEPALIVE_INTERVAL_S, BodySink, ClientPipe, open_pipe
from llb.gateway.stream.sse import SSE_KEEPALIVE, SseFramer, format_error_event, is_event_stream_type
from llb.gateway.stream.start_event import StartEvent
from llb.gateway.stream.usage_parser import Usage, UsageParser

# A document is held back up to this size, so that one which breaks off can still be fetched from another
# node.
MAX_HELD_BYTES = 64 * 1024
# Wait for the counts that follow the end of an answer whose client has left. The engine sends both together.
COUNTS_TIMEOUT_S = 0.5
_INCOMPLETE_MESSAGE = "The engine stopped before its answer was complete"


class RelayTimeouts(Struct, frozen=True):
    """Maximum silences of an answer."""

    # After this time the client gets a comment, so that no proxy gives up.
    keepalive_s: float = SSE_KEEPALIVE_INTERVAL_S
    idle_s: float = 300.0
    # llama-server sends the head of a stream before it reads the prompt, so silence before the first event
    # is work.
    first_event_s: float = 3600.0


USUAL_TIMEOUTS = RelayTimeouts()


class RelayResult(Struct, frozen=True):
    """Outcome of a relayed answer. With an `error` it broke off after its first byte.

    A stream has carried the error to the client. The connection of any other answer must be cut, because its
    length is not what its head says.
    """

    status: int
    stream: bool
    usage: Usage
    body_bytes: int
    # Times of time.monotonic().
    first_byte_at: float | None
    ended_at: float
    error: LlbError | None = None

    def measure_usage(self, sent_at: float | None) -> Usage:
        """Return the usage, with times measured from the events if the stream reports none."""
        usage = self.usage
        if usage.decode_ms is not None or not self.stream or self.first_byte_at is None or sent_at is None:
            return usage
        return replace(
            usage,
            prefill_ms=(self.first_byte_at - sent_at) * 1000,
            decode_ms=(self.ended_at - self.first_byte_at) * 1000,
        )


class StreamTranslator(Protocol):
    """Translator of a stream into another dialect; raises `TransportError`."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    def raise_failure(self) -> None: ...


class OpeningEvents(Protocol):
    """Filter of the events that precede the first token; see `ProgressFilter`."""

    is_finished: bool
    start_event: StartEvent | None

    def filter_events(self, events: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


# Ends every event, as llama.cpp writes it.
EVENT_END = b"\n\n"
_EVENT_END_BYTES = len(EVENT_END)


async def explain_failure(failure: TransportError) -> LlbError:
    """Return the error for the client, without further evidence."""
    return error_from_transport_error(failure)


def is_event_stream(response: UpstreamResponse) -> bool:
    return is_event_stream_type(response.content_type)


async def relay_response(
    response: UpstreamResponse,
    sink: BodySink,
    *,
    begun: EventRelay | None = None,
    silent_s: float = 0.0,
    timeouts: RelayTimeouts = USUAL_TIMEOUTS,
    format_error_event: Callable[[LlbError], bytes] = format_error_event,
    explain_failure: Callable[[TransportError], Awaitable[LlbError]] = explain_failure,
    on_client_left: Callable[[RelayResult], None] = lambda _result: None,
    on_event_cut: Callable[[], None] = lambda: None,
) -> RelayResult:
    """Pass the body on and return its outcome.

    `begun` continues a stream that has been silent for `silent_s`; without it a new relay begins.

    Raises `EngineFailed` or `EngineTimeout` while nothing has been written, so that another node may be
    tried, and what the sink raises. The response is closed in every case.

    Many clients close the connection as soon as they have read the end of the answer: `on_client_left` gets
    the outcome of such a stream, and the cancellation is raised again. `on_event_cut`: a stream was cancelled
    inside an event over `MAX_EVENT_BYTES`, which is passed on in pieces.
    """
    stream = is_event_stream(response)
    events = begun
    if events is None and stream:
        events = EventRelay(response)
    usage_parser = UsageParser() if events is None else events.usage_parser
    error: LlbError | None = None

    def build_result(usage: Usage) -> RelayResult:
        return RelayResult(
            response.status,
            stream,
            usage,
            usage_parser.total_bytes,
            response.first_byte_at,
            time.monotonic(),
            error,
        )

    try:
        if events is not None:
            await events.run(sink, timeouts, silent_s)
        else:
            await _relay_document(response, sink, usage_parser, timeouts.idle_s)
    except TransportError as failure:
        error = await explain_failure(failure)
        if not usage_parser.total_bytes:
            raise error from failure
        if stream:
            # Only an event over MAX_EVENT_BYTES can have been cut. A blank line ends it.
            await sink.write((b"" if usage_parser.ends_at_event else EVENT_END) + format_error_event(error))
    except asyncio.CancelledError:
        if usage_parser.is_delivered and usage_parser.has_end:
            await _read_counts(response, usage_parser)
            on_client_left(build_result(usage_parser.parse_stream()[0]))
        elif stream and not usage_parser.ends_at_event:
            on_event_cut()
        raise
    finally:
        response.close()
    if stream:
        usage, reported = usage_parser.parse_stream()
        if reported is not None and error is None:
            error = EngineFailed("The engine ended its answer with an error")
    else:
        usage = usage_parser.parse_document()
    return build_result(usage)


async def relay_aggregated(
    response: UpstreamResponse,
    sink: BodySink,
    aggregator: StreamAggregator,
    *,
    start_event: StartEvent | None = None,
    timeouts: RelayTimeouts = USUAL_TIMEOUTS,
    explain_failure: Callable[[TransportError], Awaitable[LlbError]] = explain_failure,
    on_tokens: Callable[[int], None] = lambda _tokens: None,
) -> RelayResult:
    """Write a stream as one document, once it is complete.

    Nothing is written before that, so any `LlbError` leaves it possible to try another node. The response is
    closed in every case.
    """
    usage_parser = UsageParser()
    try:
        while (
            data := await response.read_chunk(
                timeouts.idle_s if aggregator.has_started else timeouts.first_event_s
            )
        ) != b"":
            if data is None:
                raise UpstreamTimeout("idle")
            usage_parser.feed(data)
            aggregator.feed(data)
            if aggregator.has_started:
                on_tokens(data.count(EVENT_END))
        if not aggregator.is_complete:
            raise EngineFailed(_INCOMPLETE_MESSAGE)
        if start_event is not None and aggregator.lacks_start_event:
            start = await start_event.missing_prefix(b"")
            usage_parser.prepend(start)
            aggregator.feed(start)
    except TransportError as failure:
        raise await explain_failure(failure) from failure
    finally:
        response.close()
    document = aggregator.document()
    await sink.write(document, last=True)
    usage, _ = usage_parser.parse_stream()
    return RelayResult(
        response.status, False, usage, len(document), response.first_byte_at, time.monotonic(), None
    )


class EventRelay:
    """One stream on its way: translator → framer → progress filter → usage parser → client.

    Its state is here, so that callbacks can begin to pass a stream on and a task can continue.
    Only whole events are passed on, so that comments and an error stand between events, never inside one.
    """

    __slots__ = (
        "_count_tokens",
        "_opening_filter",
        "_response",
        "_translator",
        "failure",
        "framer",
        "pipe",
        "usage_parser",
    )

    def __init__(
        self,
        response: UpstreamResponse,
        *,
        opening_filter: OpeningEvents | None = None,
        translator: StreamTranslator | None = None,
        on_tokens: Callable[[int], None] = lambda _tokens: None,
    ) -> None:
        self.framer = SseFramer()
        self.usage_parser = UsageParser()
        # None until the client has received the first events.
        self.pipe: ClientPipe | None = None
        # Failure in a callback; the task that continues raises it.
        self.failure: TransportError | LlbError | None = None
        self._response = response
        self._opening_filter = opening_filter
        self._translator = translator
        self._count_tokens = on_tokens
        if opening_filter is None:
            response.mark_started()

    def feed(self, data: bytes) -> bytes:
        """Return the events to pass on that `data` completes; none while the progress filter holds all."""
        events = self.framer.feed(data if self._translator is None else self._translator.feed(data))
        if self._opening_filter is not None and events:
            events = self._opening_filter.filter_events(events)
            if not self._opening_filter.is_finished:
                self._response.reset_started()
                return b""
        return events

    def note_first(self, events: bytes) -> None:
        """Count the first events that are passed on."""
        self._opening_filter = None
        self._response.mark_started()
        self.note(events)

    def note(self, events: bytes) -> None:
        """Count events that are passed on."""
        self.usage_parser.feed(events)
        self._count_tokens(events.count(EVENT_END))

    @property
    def takes_frames(self) -> bool:
        """Whether `pass_frame` may be called: a translator takes the stream as bytes."""
        return self._translator is None

    def raise_failure(self) -> None:
        """Raise the failure that the translator found after the events that it returned last."""
        if self._translator is not None:
            self._translator.raise_failure()

    def flush(self) -> bytes:
        """Return the bytes still held at the end of the stream."""
        rest = b"" if self._opening_filter is None else self._opening_filter.flush()
        rest += self.framer.flush()
        return rest if self._translator is None else rest + self._translator.finish()

    def open_pipe(self, sink: object) -> bool:
        """Open a pipe for the rest; returns whether there is one. After that only `pass_on` may write."""
        self.pipe = open_pipe(sink)
        return self.pipe is not None

    def pass_on(self, data: bytes) -> bool:
        """Pass events on through the pipe; False if the client must catch up before the next ones."""
        if self._translator is not None:
            return self._translate(data, self._translator)
        framer = self.framer
        # An engine usually writes whole events.
        if framer.held or framer.is_mid_event or not data.endswith(EVENT_END):
            data = framer.feed(data)
            if not data:
                return True
        self.note(data)
        return self._write_chunk(data)

    def pass_frame(self, events: bytes, frame: bytes) -> bool:
        """Like `pass_on`, with whole events that are one chunk with its frame, too."""
        framer, pipe = self.framer, self.pipe
        if framer.held or framer.is_mid_event or pipe is None:
            return self.pass_on(events)
        self.usage_parser.feed(events)
        # Searching for one byte is much faster than counting pairs.
        is_single = events.find(b"\n") == len(events) - _EVENT_END_BYTES
        self._count_tokens(1 if is_single else events.count(EVENT_END))
        return pipe.write_frame(events, frame, is_single)

    def _write_chunk(self, events: bytes) -> bool:
        assert self.pipe is not None  # noqa: S101  # the events are being piped
        return self.pipe.write_chunk(events)

    def _translate(self, data: bytes, translator: StreamTranslator) -> bool:
        events = self.framer.feed(translator.feed(data))
        may_continue = True
        if events:
            self.note(events)
            may_continue = self._write_chunk(events)
        translator.raise_failure()
        return may_continue

    async def run(self, sink: BodySink, timeouts: RelayTimeouts, silent_s: float) -> None:
        """Pass the rest of the stream on; it has been silent for `silent_s`."""
        if self.failure is not None:
            raise self.failure
        if self.pipe is None:
            await self._open(sink, timeouts, silent_s)
        else:
            await self._pipe(sink, self.pipe, timeouts, silent_s)
        if rest := self.flush():
            await _write_and_parse(sink, self.usage_parser, rest)

    async def _open(self, sink: BodySink, timeouts: RelayTimeouts, silent_s: float) -> None:
        """Pass events on until a pipe passes on the rest, or to the end of the stream."""
        response, usage_parser = self._response, self.usage_parser
        keepalive_s = timeouts.keepalive_s
        # When the client last received something, while the progress filter holds everything back.
        last_write_at = time.monotonic() - silent_s
        while True:
            timeout_s = timeouts.idle_s if usage_parser.total_bytes else timeouts.first_event_s
            wait_s = min(keepalive_s - silent_s % keepalive_s, timeout_s - silent_s)
            data = await response.read_chunk(wait_s)
            if data is None:
                silent_s += wait_s
                if silent_s >= timeout_s:
                    raise UpstreamTimeout("idle")
                if not self.framer.is_mid_event:
                    await sink.write(SSE_KEEPALIVE)
                    last_write_at = time.monotonic()
                continue
            silent_s = 0.0
            if not data:
                return
            events = self.feed(data)
            if not events:
                is_held = self._opening_filter is not None
                if is_held and time.monotonic() - last_write_at >= keepalive_s:
                    await sink.write(SSE_KEEPALIVE)
                    last_write_at = time.monotonic()
                continue
            if self._opening_filter is not None:
                if self._opening_filter.start_event is not None:
                    events = await self._opening_filter.start_event.missing_prefix(events) + events
                self.note_first(events)
            else:
                self.note(events)
            usage_parser.is_delivered = False
            await sink.write(events)
            usage_parser.is_delivered = True
            self.raise_failure()
            if self.open_pipe(sink) and self.pipe is not None:
                await self._pipe(sink, self.pipe, timeouts, 0.0)
                return

    async def _pipe(self, sink: BodySink, pipe: ClientPipe, timeouts: RelayTimeouts, silent_s: float) -> None:
        """Pass events on from the callback that receives them, until the end of the body.

        The task of the request wakes only for silence, and for a client that is slower than its engine.
        """

        keepalive_s, idle_s = timeouts.keepalive_s, timeouts.idle_s

        def pass_on(data: bytes) -> bool:
            nonlocal silent_s
            silent_s = 0.0
            return self.pass_on(data)

        def pass_frame(events: bytes, frame: bytes) -> bool:
            nonlocal silent_s
            silent_s = 0.0
            return self.pass_frame(events, frame)

        while True:
            wait_s = min(keepalive_s - silent_s % keepalive_s, idle_s - silent_s)
            is_end = await self._response.pipe(pass_on, wait_s, pass_frame if self.takes_frames else None)
            if is_end:
                return
            if is_end is None:
                silent_s += wait_s
                if silent_s >= idle_s:
                    raise UpstreamTimeout("idle")
                if not self.framer.is_mid_event:
                    await sink.write(SSE_KEEPALIVE)
            else:
                await pipe.wait_writable()


async def _read_counts(response: UpstreamResponse, usage_parser: UsageParser) -> None:
    """Read what follows the end of an answer, for its counts alone."""
    with suppress(TransportError, TimeoutError):
        async with asyncio.timeout(COUNTS_TIMEOUT_S):
            while data := await response.read_chunk(COUNTS_TIMEOUT_S):
                usage_parser.feed(data)


async def _relay_document(
    response: UpstreamResponse, sink: BodySink, usage_parser: UsageParser, idle_timeout_s: float
) -> None:
    if whole := response.take_whole(MAX_HELD_BYTES):
        # The usual document comes with its head.
        usage_parser.feed(whole)
        await sink.write(whole, last=True)
        return
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
    usage_parser.is_delivered = False
    await sink.write(data, last=last)
    usage_parser.is_delivered = True


def error_from_transport_error(error: TransportError) -> LlbError:
    """Error for the client, without an address or a port."""
    if isinstance(error, UpstreamTimeout) or (isinstance(error, ConnectError) and error.is_timeout):
        return EngineTimeout("The engine did not answer in time")
    if isinstance(error, ConnectError):
        return EngineFailed("The engine cannot be reached")
    return EngineFailed(_INCOMPLETE_MESSAGE)
