"""Exchange with an engine: one request to an engine of this host, which it leases, or to another host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache

from llb import errors
from llb.cluster.node_traffic import StreamedTokens
from llb.cluster.view import Node
from llb.engine.lease import Lease
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.http.client import JSON_HEADER, BegunRequest, UpstreamTarget
from llb.gateway.http.engine_errors import error_from_blame, error_from_engine_response
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import EngineEnded, TransportError, UpstreamTimeout
from llb.gateway.inference_call import InferenceCall
from llb.gateway.nodes.hop_path import hop_path
from llb.gateway.nodes.node_connections import BegunNodeRequest
from llb.gateway.stream.aggregator import AGGREGATOR_OF_PATH, StreamAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter, needs_progress, request_progress
from llb.gateway.stream.keepalive import BodySink
from llb.gateway.stream.relay import (
    USUAL_TIMEOUTS,
    EventRelay,
    RelayResult,
    RelayTimeouts,
    error_from_transport_error,
    is_event_stream,
    relay_aggregated,
    relay_response,
)
from llb.gateway.stream.start_event import (
    CHAT_PATH,
    COUNT_TOKENS_PATH,
    MESSAGES_PATH,
    ChatStartEvent,
    MessagesStartEvent,
    StartEvent,
    read_token_count,
)
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate
from llb.wire import TemplateSupport
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

# Connecting to an engine of this host.
ENGINE_CONNECT_TIMEOUT_S = 5.0
# Longest time from the end of an engine's connections to that of its process.
ENGINE_END_TIMEOUT_S = 1.0
# The longest that one answer may take, prefill included.
MAX_REQUEST_DURATION_S = 3600.0
MAX_ERROR_BODY_BYTES = 256 * 1024
TOKEN_COUNT_TIMEOUT_S = 10.0

_CHAT_START_EVENT = ChatStartEvent()
# The target of an engine is needed again at every request.
_engine_target = lru_cache(maxsize=256)(UpstreamTarget)


def target_of(lease: Lease) -> UpstreamTarget:
    """Return the engine of a lease."""
    return _engine_target(lease.worker.host, lease.worker.port, lease.api_key)


class EngineExchange:
    """One request to the engines of one host, and its answer.

    It holds the lease of an engine of this host, and the permit of a request without a slot, until `release`.
    """

    __slots__ = (
        "_aggregator",
        "_context",
        "_estimate",
        "_has_token_count_permit",
        "_is_of_this_host",
        "_lease",
        "_node",
        "_streams_progress",
        "begun",
        "body_sink",
        "call",
        "place_name",
        "streamed_tokens",
    )

    def __init__(
        self, context: AttemptContext, call: InferenceCall, node: Node, estimate: RequestEstimate
    ) -> None:
        # As the chat template of the engine needs it, once that is known.
        self.call = call
        self.place_name = node.hello.name
        # None while the request has not been sent.
        self.begun: BegunRequest | BegunNodeRequest | None = None
        # None while no event was passed on.
        self.streamed_tokens: StreamedTokens | None = None
        # What the answer is written to, once `start_relay` was called.
        self.body_sink: BodySink
        self._context = context
        self._node = node
        self._is_of_this_host = node.id == context.agent.node_id
        self._estimate = estimate
        # None for a node other than this host.
        self._lease: Lease | None = None
        self._has_token_count_permit = False
        # The engine streams its progress, whether the client wants a stream or not.
        self._streams_progress = False
        # How a stream becomes the document that the client wants.
        self._aggregator: StreamAggregator | None = None

    # --- request ---

    @property
    def is_new(self) -> bool:
        """Whether the engine cannot have served anybody before this process did.

        Engines of this host end with it; those of another may have served before.
        """
        return self._is_of_this_host or self.call.model.id not in self._node.engines

    async def prepare(self) -> None:
        """Lease the engine, which is loaded first if necessary. Raises as `NodeAgent.acquire_lease`."""
        context, call = self._context, self.call
        if self._is_of_this_host:
            lease = self._lease = await context.agent.acquire_lease(
                call.model.id, deadline_s=context.get_load_timeout_s(), keep_alive=call.keep_alive
            )
            # Only a loaded engine knows its chat template well.
            call = self.call = await _fit_template(call, lease.worker.template)
        if not call.operation.needs_slot:
            await context.token_count_permits.acquire()
            self._has_token_count_permit = True
        self._streams_progress = needs_progress(call, self._estimate, context.performance, self._node.id)

    def prepare_small(self) -> bool:
        """Like `prepare`, for a plain chat and without a wait: False while the engine is not loaded."""
        context, call = self._context, self.call
        if self._is_of_this_host:
            self._lease = context.engine_pool.lease_loaded(call.model.id, call.keep_alive)
            if self._lease is None:
                return False
        self._streams_progress = needs_progress(call, self._estimate, context.performance, self._node.id)
        return True

    def begin(self) -> None:
        """Send the request, if a connection is idle. Raises `ConnectError`."""
        call, lease = self.call, self._lease
        body = request_progress(call.body, stream=call.stream) if self._streams_progress else call.body
        if lease is not None:
            lease.begin_request(len(body), self._context.performance.speed_of(self._node.id, call.model.id))
        begun = self.begun = self._send(call.path, body, MAX_REQUEST_DURATION_S)
        if lease is not None and begun.response is not None:
            lease.follow_answer(begun.response)

    def _send(self, path: bytes, body: bytes, header_timeout_s: float) -> BegunRequest | BegunNodeRequest:
        """Begin to ask the leased engine, or another host, whose hop route leases one of its own."""
        context, call, lease = self._context, self.call, self._lease
        # The body was read as JSON, whatever content type the client gave it.
        headers = (JSON_HEADER, *call.record.trace_headers)
        if lease is not None:
            return context.http_client.begin_request(
                target_of(lease),
                b"POST",
                path,
                headers,
                body,
                connect_timeout_s=ENGINE_CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        speed = context.performance.speed_of(self._node.id, call.model.id)
        return context.node_connections.begin_request(
            self._node.id,
            b"POST",
            hop_path(path, call.model.id, context.get_load_timeout_s(), call.keep_alive, speed),
            headers,
            body,
            header_timeout_s=header_timeout_s,
            # For the log of that host.
            own_header=(b"x-request-id", call.record.request_id.encode("ascii")),
        )

    def connect(self, on_done: Callable[[UpstreamResponse | None], None]) -> None:
        """Send the request of `begin` over a new connection; `on_done` gets its response.

        None where it could not be sent: `open` raises why.
        """
        begun = self.begun
        assert begun is not None  # noqa: S101  # `begin` was called

        def end() -> None:
            response = begun.response
            if response is not None and self._lease is not None:
                self._lease.follow_answer(response)
            on_done(response)

        begun.begin_connect(end)

    async def open(self, _silent_s: float) -> UpstreamResponse:
        """Return the response once its head has come; sends the request unless `begin` has.

        Raises what the engine or the route to it says.
        """
        try:
            if self.begun is None:
                self.begin()
            assert self.begun is not None  # noqa: S101  # as above
            response = await self.begun.wait()
            if self._lease is not None:
                self._lease.follow_answer(response)
            if response.status < 400:
                return response
            try:
                error_body = await response.read(MAX_ERROR_BODY_BYTES, ENGINE_CONNECT_TIMEOUT_S)
            finally:
                response.close()
        except TransportError as failure:
            raise await self._explain_failure(failure) from failure
        raise error_from_engine_response(response.status, response.headers, error_body)

    # --- answer ---

    def accept(self, _response: UpstreamResponse) -> bool:
        """Return True: the head of an answer of an engine is one of what was asked for."""
        return True

    @property
    def timeouts(self) -> RelayTimeouts:
        """How long the answer may be silent."""
        return USUAL_TIMEOUTS

    @property
    def wants_stream(self) -> bool:
        """Whether a stream of the engine is passed on as a stream."""
        return self.call.stream or not self._streams_progress

    def passes_stream(self, response: UpstreamResponse) -> bool:
        """Whether the client gets a stream."""
        return self.wants_stream and is_event_stream(response)

    def content_type_of(self, response: UpstreamResponse) -> bytes:
        """Return the content type of what the client gets."""
        return response.content_type if self._aggregator is None else JSON_HEADER[1]

    def start_relay(self, response: UpstreamResponse, sink: BodySink) -> EventRelay | None:
        """Begin to pass the answer on; returns the relay of a stream, None for a document."""
        self.body_sink = sink
        if not is_event_stream(response):
            return None
        if not self.wants_stream:
            self._aggregator = AGGREGATOR_OF_PATH[self.call.path]()
            return None
        return EventRelay(
            response,
            opening_filter=ProgressFilter(self._create_start_event()) if self._streams_progress else None,
            on_tokens=self._begin_tokens().add,
        )

    def complete_start(self, events: bytes) -> bytes:
        """Return the first events of a chat, with the start that the engine may have left out."""
        return _CHAT_START_EVENT.prefix_of(events) + events if self._streams_progress else events

    def rewrite_events(self, events: bytes) -> bytes:
        """Return what the client gets of whole events, the same."""
        return events

    def rewrite_document(self, document: bytes, _response: UpstreamResponse, _sink: BodySink) -> bytes:
        """Return what the client gets of a whole document, the same."""
        return document

    async def relay(
        self,
        response: UpstreamResponse,
        events: EventRelay | None,
        *,
        silent_s: float,
        on_client_left: Callable[[RelayResult], None],
    ) -> RelayResult:
        """Pass the answer on, or what is left of it, once `start_relay` has returned `events`.

        For `silent_s` and `on_client_left` see `relay_response`.
        """
        if self._aggregator is not None:
            return await relay_aggregated(
                response,
                self.body_sink,
                self._aggregator,
                start_event=self._create_start_event(),
                explain_failure=self._explain_failure,
                on_tokens=self._begin_tokens().add,
            )
        return await relay_response(
            response,
            self.body_sink,
            format_error_event=self.call.format_error_event,
            explain_failure=self._explain_failure,
            on_client_left=on_client_left,
            on_event_cut=self.call.record.note_cut_event,
            begun=events,
            silent_s=silent_s,
        )

    def _begin_tokens(self) -> StreamedTokens:
        """Count tokens while they are generated."""
        counter = self.streamed_tokens = self._context.traffic.begin_stream(self._node.id, self.call.model.id)
        return counter

    def _create_start_event(self) -> StartEvent | None:
        call = self.call
        if call.path == CHAT_PATH:
            return _CHAT_START_EVENT
        if call.path != MESSAGES_PATH:
            return None

        async def count_tokens() -> int:
            async with self._context.token_count_permits:
                begun = self._send(COUNT_TOKENS_PATH, call.body, TOKEN_COUNT_TIMEOUT_S)
                response = await begun.wait()
                return await read_token_count(response, TOKEN_COUNT_TIMEOUT_S)

        return MessagesStartEvent(call.model.id, call.record.request_id, count_tokens)

    # --- end ---

    def complete(self, result: RelayResult) -> RelayResult:
        """Return the outcome of an answer, as it is."""
        return result

    def settle(self, result: RelayResult) -> Usage:
        """Return the counts by which the speed of the engine is measured."""
        return result.usage

    async def _explain_failure(self, failure: TransportError) -> errors.LlbError:
        """Error for the client; where the engine has failed, by the part that this request has in it."""
        blame = None
        if isinstance(failure, EngineEnded):
            blame = failure.blame
        elif self._lease is not None and not isinstance(failure, UpstreamTimeout):
            blame = await self._lease.wait_for_blame(ENGINE_END_TIMEOUT_S)
        if blame is not None:
            return error_from_blame(blame, self.call.model.id)
        return error_from_transport_error(failure)

    def report_failure(self, error: errors.LlbError) -> None:
        """Let the engine of this host be checked, after it has failed this request."""
        if self._lease is not None and isinstance(error, errors.UpstreamError):
            self._context.http_client.close_idle(target_of(self._lease))
            self._lease.report_suspected_failure()

    def release(self) -> None:
        """Give back what was taken, in the opposite order. Nothing here awaits or fails."""
        if self.begun is not None:
            self.begun.close()
        if self._has_token_count_permit:
            self._context.token_count_permits.release()
        if self._lease is not None:
            self._lease.release()


async def _fit_template(call: InferenceCall, template: TemplateSupport | None) -> InferenceCall:
    if len(call.body) <= MAX_EVENT_LOOP_BYTES:
        return call.fit_template(template)
    return await asyncio.to_thread(call.fit_template, template)
