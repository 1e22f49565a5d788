"""Inference handler: answers requests in the dialects that llama-server understands.

The body passes through to the engine. Only the fields that need a check are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llb import errors
from llb.api.error_mapping import http_status_of
from llb.api.incoming_request import BegunListener, DirectRequest, IncomingRequest
from llb.api.inference.body_size import repair_body, strip_images
from llb.api.inference.call_builder import (
    ErrorEventBuilder,
    ExtraFieldsBuilder,
    build_call,
    build_plain_call,
    read_plain_chat,
)
from llb.api.inference.client_sinks import DirectResponseSink, ResponseSink, with_transcript
from llb.api.inference.request_validation import check_bounds
from llb.api.request_body import LargeBodyWorker
from llb.api.request_recorder import RequestRecorder, RequestRecording
from llb.api.responses import abort_connection
from llb.gateway.attempt import Attempt
from llb.gateway.direct_answer import DirectAnswer
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.normalization.text_repair import repair_text
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.readiness import ModelReadiness
from llb.gateway.running_call import RunningCall
from llb.gateway.stream.relay import RelayResult
from llb.gateway.stream.sse import SSE_KEEPALIVE, format_error_event
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES


class CompletingSink(ClientSink, Protocol):
    """Sink that completes an answer and may hold a part of it until `flush`."""

    async def flush(self) -> None: ...


class ReroutedRequest(Protocol):
    """Request for another route of the engine, with the translation of its answer."""

    @property
    def path(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def ignored(self) -> tuple[str, ...]: ...

    def encode(self) -> bytes: ...

    def complete_answer(self, sink: ClientSink, call: InferenceCall) -> CompletingSink: ...


Rerouter = Callable[[bytes, Callable[[bytes], None]], ReroutedRequest | None]


class DialectHooks(Struct, frozen=True, kw_only=True):
    """Differences of a dialect from OpenAI's."""

    # Route of the engine, if it differs from the one that was called.
    engine_path: str | None = None
    # Formats an error inside a stream.
    format_error_event: ErrorEventBuilder = format_error_event
    http_status_of: Callable[[errors.LlbError], int] = http_status_of
    response_headers: Mapping[str, str] | None = None
    # Returns fields that the engine needs and the body lacks.
    extra_fields: ExtraFieldsBuilder | None = None
    # Rewrites bytes of the answer, which hold one or more whole events.
    rewrite_events: Callable[[bytes], bytes] | None = None
    # Bytes that keep clients and proxies connected during a silent stream.
    keepalive: bytes = SSE_KEEPALIVE
    # Returns a sink that completes the answer for the client's sink.
    complete_answer: Callable[[ClientSink, InferenceCall, ModelReadiness], CompletingSink] | None = None
    # Returns a request that the engine supports at another of its routes only, None for all others.
    # The second argument checks the bounds of the fields that the client sent.
    reroute: Rerouter | None = None
    # Ignored features, in addition to those of the call.
    ignored: tuple[str, ...] = ()


async def end_response(request: IncomingRequest, response: ResponseSink, result: RelayResult | None) -> None:
    """End the response to `request`, as its answer has ended."""
    if result is not None and result.error is not None and not result.stream:
        # The response has promised its length: only a closed connection shows that it is incomplete.
        abort_connection(request)
        return
    await response.end()


class BegunInference:
    """`BegunAnswer` to an ordinary inference request."""

    __slots__ = (
        "_dispatcher",
        "_is_connecting",
        "_listener",
        "_recording",
        "_request",
        "_running",
        "_sink",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: IncomingRequest,
        recording: RequestRecording,
        running: RunningCall,
        sink: DirectResponseSink,
    ) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._recording = recording
        self._running = running
        self._sink = sink
        self._is_connecting = False
        # Set while callbacks answer.
        self._listener: BegunListener

    def start(self, listener: BegunListener) -> bool:
        """Let callbacks answer; False if `resume` has to."""
        running = self._running
        if not self._dispatcher.send_directly(running):
            return False
        attempt = running.attempt
        assert attempt is not None  # noqa: S101  # the request is sent, or a connection is made for it
        self._listener = listener
        begun = attempt.exchange.begun
        assert begun is not None  # noqa: S101  # as above
        response = begun.response
        if response is None:
            self._is_connecting = True
            running.hand_over(self._stop_connecting)
            attempt.exchange.connect(self._on_connected)
        else:
            self._observe(attempt, response)
        return True

    def _observe(self, attempt: Attempt, response: UpstreamResponse) -> DirectAnswer:
        answer = DirectAnswer(attempt, response, self._sink, self)
        self._running.hand_over(answer.stop)
        return answer

    def _on_connected(self, response: UpstreamResponse | None) -> None:
        """Wait for the answer of a request sent over a new connection; `response` is None if that failed."""
        attempt = self._running.attempt
        if not self._is_connecting:
            # A task has taken over.
            return
        self._is_connecting = False
        if attempt is None or response is None:
            self.on_stopped()
        else:
            self._observe(attempt, response).begin()

    def _stop_connecting(self) -> None:
        self._is_connecting = False
        self.on_stopped()

    # --- as `AnswerListener` has them ---

    def on_answered(self) -> None:
        self._dispatcher.finish_directly(self._running)
        self._recording.close()
        self._listener.end_directly()

    def on_stopped(self) -> None:
        self._listener.take_over()

    def on_failed(self, error: Exception) -> None:
        self._running.failure = error
        self._listener.take_over()

    def interrupt(self) -> None:
        """The client has left."""
        self._running.interrupt()

    async def resume(self) -> None:
        """Complete the answer; raises as `InferenceHandler.handle`."""
        with self._recording:
            await end_response(self._request, self._sink, await self._dispatcher.resume(self._running))


class InferenceHandler:
    """Answers the requests that llama-server itself understands."""

    def __init__(self, dispatcher: Dispatcher, recorder: RequestRecorder, worker: LargeBodyWorker) -> None:
        self.dispatcher = dispatcher
        self._recorder = recorder
        self._worker = worker

    async def handle(self, request: IncomingRequest, hooks: DialectHooks) -> None:
        """Answer `request`; raises `LlbError` only while nothing is written to the client."""
        with self._recorder.record(request, hooks.http_status_of) as record:
            response = ResponseSink(
                request,
                record,
                headers=hooks.response_headers,
                rewrite_events=hooks.rewrite_events,
                keepalive=hooks.keepalive,
            )
            # The route is set while the request is handled.
            assert request.route is not None  # noqa: S101
            path = hooks.engine_path or f"/{request.route.path}"
            given = request.body
            if len(given) <= MAX_EVENT_LOOP_BYTES:
                request.body = repair_body(given)
            else:
                request.body = await self._worker.run(len(given), lambda: repair_body(given))
            if hooks.reroute is not None:
                path, request.body, hooks = await self._reroute(
                    record, path, request.body, hooks, hooks.reroute
                )
            await end_response(
                request,
                response,
                await self._dispatch(request, record, response, path, request.body, hooks),
            )

    def begin_direct(self, request: DirectRequest, hooks: DialectHooks) -> BegunInference | None:
        """Begin to answer an ordinary request, without a wait; None, without any effect, for all others.

        Ordinary is a plain chat whose model can answer. `handle` answers the others, errors too.
        """
        body = request.body
        if self._recorder.keeps_text or len(body) > MAX_EVENT_LOOP_BYTES:
            return None
        if hooks.complete_answer is not None or hooks.reroute is not None or hooks.extra_fields is not None:
            return None
        plain = read_plain_chat(body)
        if plain is None or repair_text(body) is not body:
            return None
        recording = self._recorder.record(
            request, hooks.http_status_of, requested_model=plain.model, stream=plain.stream
        )
        record = recording.record
        try:
            call = build_plain_call(
                self.dispatcher.readiness, request, record, body, plain, hooks.format_error_event
            )
        except errors.LlbError:
            return None
        sink = DirectResponseSink(
            request,
            record,
            headers=hooks.response_headers,
            rewrite_events=hooks.rewrite_events,
            keepalive=hooks.keepalive,
        )
        return BegunInference(self.dispatcher, request, recording, self.dispatcher.begin(call, sink), sink)

    async def answer_into(self, request: IncomingRequest, sink: ClientSink, path: str, body: bytes) -> None:
        """Answer `body`, for the engine's route `path`, into `sink`, which may outlive the connection.

        The sender of `request` is charged for it. Raises `LlbError` only while nothing is written.
        """
        with self._recorder.record(request, endpoint=path) as record:
            await self._dispatch(request, record, sink, path, body, DialectHooks())
            record.status = 200

    async def _reroute(
        self, record: RequestRecord, path: str, body: bytes, hooks: DialectHooks, reroute: Rerouter
    ) -> tuple[str, bytes, DialectHooks]:
        """Return path, body and hooks for the route that supports the request."""
        rerouted = await self._worker.run(
            len(body), lambda: reroute(body, lambda given: check_bounds(strip_images(given)))
        )
        if rerouted is None:
            return path, body, hooks
        record.requested_model = rerouted.model
        if (await self.dispatcher.readiness.resolve_listed_model(rerouted.model)).is_external:
            # An endpoint may support it unchanged.
            return path, body, hooks
        encoded = await self._worker.run(len(body), rerouted.encode)
        return (
            rerouted.path,
            encoded,
            replace(
                hooks,
                complete_answer=lambda sink, call, _: rerouted.complete_answer(sink, call),
                ignored=rerouted.ignored,
            ),
        )

    async def _dispatch(
        self,
        request: IncomingRequest,
        record: RequestRecord,
        sink: ClientSink,
        path: str,
        body: bytes,
        hooks: DialectHooks,
    ) -> RelayResult | None:
        client = sink
        if self._recorder.keeps_text:
            sink = await self._worker.run(
                len(body), lambda: with_transcript(client, record, strip_images(body))
            )
        call = await build_call(
            self.dispatcher.readiness,
            self._worker,
            request,
            record,
            path=path,
            body=body,
            extra_fields=hooks.extra_fields,
            format_error_event=hooks.format_error_event,
        )
        if isinstance(client, ResponseSink):
            # The body as the client wrote it is no longer needed: it may have many images.
            request.body = body = call.body
            client.note_ignored((*hooks.ignored, *call.ignored))
        if hooks.complete_answer is None:
            return await self.dispatcher.dispatch(call, sink)
        completing = hooks.complete_answer(sink, call, self.dispatcher.readiness)
        result = await self.dispatcher.dispatch(call, completing)
        if result is None or result.error is None or result.stream:
            await completing.flush()
        return result
