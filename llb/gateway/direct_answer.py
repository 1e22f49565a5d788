"""Direct answer: an answer that the callbacks of the transport pass on, without a task.

In all but the ordinary case (an error, a silence, a client that is slower than its engine or has left), a
task continues the answer with the same attempt and the same relay.
"""

from __future__ import annotations

import time
from typing import Protocol

from llb.errors import LlbError
from llb.gateway.attempt import Attempt
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.inference_call import DirectSink
from llb.gateway.stream.keepalive import SSE_KEEPALIVE_INTERVAL_S
from llb.gateway.stream.relay import MAX_HELD_BYTES, EventRelay, RelayResult
from llb.gateway.stream.sse import SSE_KEEPALIVE, is_event_stream_type
from llb.gateway.stream.usage_parser import Usage, read_document_usage

# Number of checks for silence between two comments. Noting the time of each token would cost more.
TICKS = 3


class AnswerListener(Protocol):
    """Owner of a direct answer. Exactly one of the three methods is called, once."""

    def on_answered(self) -> None:
        """The client has the whole answer, and its outcome is recorded."""
        ...

    def on_stopped(self) -> None:
        """A task has to continue the answer."""
        ...

    def on_failed(self, error: Exception) -> None:
        """A callback has failed: a task has to raise the error."""
        ...


class DirectAnswer:
    """Answer of an attempt whose request has been sent. `stop` leaves the rest to a task."""

    __slots__ = (
        "_attempt",
        "_events",
        "_exchange",
        "_keepalive_s",
        "_listener",
        "_received_bytes",
        "_response",
        "_silent_ticks",
        "_sink",
    )

    def __init__(
        self,
        attempt: Attempt,
        response: UpstreamResponse,
        sink: DirectSink,
        listener: AnswerListener,
        *,
        keepalive_s: float = SSE_KEEPALIVE_INTERVAL_S,
    ) -> None:
        """A stream that is silent for `keepalive_s` gets a comment."""
        self._attempt = attempt
        self._exchange = attempt.exchange
        self._response = response
        self._sink = sink
        # One object, not a bound method for each: an open stream would keep them.
        self._listener = listener
        # None before the first bytes of a stream.
        self._events: EventRelay | None = None
        self._keepalive_s = keepalive_s
        # Number of consecutive checks without new bytes, and the bytes received at the last one.
        self._silent_ticks = 0
        self._received_bytes = 0
        response.observe(self._on_progress, keepalive_s / TICKS)

    def begin(self) -> None:
        """Handle the bytes that arrived before this object existed."""
        response = self._response
        if response.status or response.error is not None:
            self._on_progress(True)

    def stop(self) -> None:
        """Leave the rest of the answer to a task."""
        self._response.stop_observing()
        self._listener.on_stopped()

    def _on_progress(self, has_data: bool) -> None:
        """Handle new bytes of an answer that is not piped yet."""
        response = self._response
        try:
            if not has_data:
                self._on_tick()
            elif response.error is not None or response.status != 200 or not self._exchange.accept(response):
                self.stop()
            elif self._events is not None or is_event_stream_type(response.content_type):
                self._open_stream()
            elif response.is_complete:
                self._write_document()
            elif response.is_buffer_full:
                self.stop()
            else:
                self._begin_relay()
        except Exception as error:
            # This runs in a callback of the transport.
            self._fail(error)

    def _begin_relay(self) -> None:
        """Note that the head of an answer has come, which no task has waited for."""
        assert self._exchange.begun is not None  # noqa: S101  # it has answered
        self._exchange.begun.begin_relay()

    def _fail(self, error: Exception) -> None:
        """Leave `error` to a task; the relay of a stream translates its own failures for the client."""
        if self._events is not None and isinstance(error, (TransportError, LlbError)):
            self._events.failure = error
            self.stop()
            return
        self._response.stop_observing()
        # The bytes received so far are billed.
        self._attempt.note_received(self._response)
        self._listener.on_failed(error)

    def _on_tick(self) -> None:
        """Write a comment into a silent stream; a task ends one that has been silent for too long."""
        response, events = self._response, self._events
        tick_s = self._keepalive_s / TICKS
        # Before the first events the client receives nothing that the engine sends.
        if events is not None and events.pipe is not None and response.total_bytes != self._received_bytes:
            self._received_bytes = response.total_bytes
            self._silent_ticks = 0
        else:
            self._silent_ticks += 1
        silent_s = self._silent_ticks * tick_s
        is_comment_due = self._silent_ticks > 0 and self._silent_ticks % TICKS == 0
        if is_comment_due and (events is None or events.framer.is_mid_event):
            self._continue_silent(silent_s)
            return
        if is_comment_due:
            self._attempt.write_now(SSE_KEEPALIVE, self._sink)
        if events is not None and silent_s + tick_s > self._longest_silence_s(events):
            self._continue_silent(silent_s)
        else:
            response.start_wait(tick_s)

    def _continue_silent(self, silent_s: float) -> None:
        """Leave a silent stream to a task."""
        self._attempt.silent_s = silent_s
        self.stop()

    def _longest_silence_s(self, events: EventRelay) -> float:
        """Maximum silence of a stream. Before its first events it is longer: the engine reads the prompt."""
        timeouts = self._exchange.timeouts
        return timeouts.first_event_s if events.pipe is None else timeouts.idle_s

    # --- documents ---

    def _write_document(self) -> None:
        response = self._response
        document = response.take_whole(MAX_HELD_BYTES)
        if not document:
            self.stop()
            return
        try:
            self._attempt.write_document(document, response, self._sink)
        except TransportError:
            # The task that takes over gets it again, and may try another node.
            response.put_back(document)
            self.stop()
            return
        self._finish(read_document_usage(document), len(document), is_stream=False)

    # --- streams ---

    def _open_stream(self) -> None:
        """Pass on the first events, once there are any."""
        response, exchange, events = self._response, self._exchange, self._events
        if events is None:
            if not exchange.wants_stream:
                # The client gets a document, which a task aggregates from the events.
                self.stop()
                return
            self._begin_relay()
            events = self._events = self._attempt.start_relay(response, self._sink)
            assert events is not None  # noqa: S101  # it is a stream
        if response.chunks and (first := events.feed(response.take())):
            first = exchange.complete_start(first)
            events.note_first(first)
            self._attempt.write_now(first, self._sink)
            events.usage_parser.is_delivered = True
            events.raise_failure()
            if not events.open_pipe(exchange.body_sink):
                self.stop()
                return
            self._silent_ticks = 0
            response.observe(self._pass_on, self._keepalive_s / TICKS)
            if events.takes_frames:
                response.pass_frame = self._pass_frame
        if response.is_complete:
            self._end_stream(events)

    def _pass_on(self, has_data: bool) -> None:
        """Pass on events as they arrive. Hot path: called for each token of each stream."""
        response, events = self._response, self._events
        assert events is not None  # noqa: S101  # it is being piped
        try:
            may_continue = not response.chunks or events.pass_on(response.take())
            if response.is_complete:
                self._end_stream(events)
            elif not has_data:
                self._on_tick()
            elif response.error is not None or not may_continue:
                self.stop()
        except Exception as error:
            # As in `_on_progress`.
            self._fail(error)

    def _pass_frame(self, events: bytes, frame: bytes) -> None:
        """Pass on a chunk of whole events. Hot path: most engines write each event as one chunk."""
        assert self._events is not None  # noqa: S101  # as above
        try:
            if not self._events.pass_frame(events, frame):
                self.stop()
        except Exception as error:
            # As in `_on_progress`.
            self._fail(error)

    def _end_stream(self, events: EventRelay) -> None:
        if events.pipe is None or self._response.error is not None:
            self.stop()
            return
        if rest := events.flush():
            events.note(rest)
            self._attempt.write_now(rest, self._sink)
        usage, error_message = events.usage_parser.parse_stream()
        if error_message is not None:
            self.stop()
            return
        self._attempt.write_now(b"", self._sink, last=True)
        self._finish(usage, events.usage_parser.total_bytes, is_stream=True)

    def _finish(self, usage: Usage, body_bytes: int, *, is_stream: bool) -> None:
        response = self._response
        response.stop_observing()
        self._attempt.finish(
            response,
            RelayResult(
                response.status, is_stream, usage, body_bytes, response.first_byte_at, time.monotonic(), None
            ),
        )
        self._listener.on_answered()
