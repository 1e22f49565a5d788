"""One attempt to have a request answered by one node or endpoint: slot, lease, request, relay.

It gives back what it took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from llb import errors
from llb.cluster.node_traffic import StreamedTokens
from llb.cluster.view import Node
from llb.engine.lease import Lease
from llb.gateway.admission.controller import SlotReservation
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.endpoints.exchange import EndpointExchange
from llb.gateway.endpoints.registry import Place
from llb.gateway.engine_request import ENGINE_CONNECT_TIMEOUT_S, begin_engine_request, target_of
from llb.gateway.http.client import JSON_HEADER, BegunRequest
from llb.gateway.http.engine_errors import error_from_blame, error_from_engine_response
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import EngineEnded, TransportError, UpstreamTimeout
from llb.gateway.inference_call import ClientSink, DirectSink, InferenceCall
from llb.gateway.nodes.node_connections import BegunNodeRequest
from llb.gateway.prompt_owners import OwnPrompt
from llb.gateway.stream.aggregator import AGGREGATOR_OF_PATH, StreamAggregator
from llb.gateway.stream.cached_tokens import LimitedSink, told_tokens
from llb.gateway.stream.disconnect_detection import ProgressFilter, needs_progress, request_progress
from llb.gateway.stream.keepalive import SSE_KEEPALIVE_INTERVAL_S, BodySink
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

# Longest time from the end of an engine's connections to that of its process.
ENGINE_END_TIMEOUT_S = 1.0
# The longest that one answer may take, prefill included.
MAX_REQUEST_DURATION_S = 3600.0
MAX_ERROR_BODY_BYTES = 256 * 1024
TOKEN_COUNT_TIMEOUT_S = 10.0

_CHAT_START_EVENT = ChatStartEvent()


async def _fit_template(call: InferenceCall, template: TemplateSupport | None) -> InferenceCall:
    if len(call.body) <= MAX_EVENT_LOOP_BYTES:
        return call.fit_template(template)
    return await asyncio.to_thread(call.fit_template, template)


class Attempt:
    """Owns the slot reservation, the engine lease and the token-count permit of one attempt.

    Flat fields instead of a stack of context managers, which took a tenth of a request's time.
    """

    __slots__ = (
        "_aggregator",
        "_begun",
        "_call",
        "_context",
        "_estimate",
        "_events",
        "_exchange",
        "_has_token_count_permit",
        "_lease",
        "_limited",
        "_own_prompt",
        "_reservation",
        "_streamed_tokens",
        "_streams_progress",
        "node",
        "place_id",
        "silent_s",
    )

    def __init__(self, context: AttemptContext, call: InferenceCall, estimate: RequestEstimate) -> None:
        # Id of the node or the endpoint, once there is one.
        self.place_id: str | None = None
        # None for an endpoint.
        self.node: Node | None = None
        # For how long the answer had been silent when a task took it over.
        self.silent_s = 0.0
        self._exchange: EndpointExchange | None = None
        self._context = context
        self._call = call
        self._estimate = estimate
        # None for a request that takes no slot.
        self._reservation: SlotReservation | None = None
        # None for a node other than this host.
        self._lease: Lease | None = None
        self._has_token_count_permit = False
        # None while no event was passed on.
        self._streamed_tokens: StreamedTokens | None = None
        # The engine streams its progress, whether the client wants a stream or not.
        self._streams_progress = False
        # None for an engine that has served one owner only.
        self._own_prompt: OwnPrompt | None = None
        # None while the request to an engine or a node has not been sent.
        self._begun: BegunRequest | BegunNodeRequest | None = None
        # How the answer becomes a document or a stream, and hides cached tokens; set when it is passed on.
        self._aggregator: StreamAggregator | None = None
        self._events: EventRelay | None = None
        self._limited: LimitedSink | None = None

    def begin(self, excluded: frozenset[str]) -> bool:
        """Do what `open` does before it waits for the answer; `open` continues.

        False where something has to be waited for: then the attempt has to be released, and another one
        opened. Raises as `open` does.
        """
        call, context = self._call, self._context
        record = call.record
        principal = record.principal
        reservation = self._reservation = context.admission.reserve_free_slot(
            call.model.id,
            key_id=principal.root_id,
            owner_id=principal.account_id,
            request=self._estimate,
            exclude=excluded,
        )
        if reservation is None:
            return False
        node_id = reservation.node_id
        place = context.endpoints.registry.places_of(call.model.id).get(node_id)
        if place is not None:
            return self._begin_exchange(place)
        node = self._enter_node(node_id)
        if node_id == context.agent.node_id:
            self._lease = context.agent.lease_loaded(call.model.id, call.keep_alive)
            if self._lease is None:
                return False
            if not call.fits_any_template:
                call = self._call = call.fit_template(self._lease.worker.template)
        self._streams_progress = needs_progress(call, self._estimate, context.performance, node_id)
        self._own_prompt = context.prompt_owners.begin_small_request(
            principal.owner_id,
            node_id,
            call.model.id,
            call.body,
            call.head,
            is_new=self._has_new_engine(node),
        )
        record.sent_at = time.monotonic()
        self._begin_request(node)
        return True

    @property
    def pending_response(self) -> UpstreamResponse | None:
        """Response to the request that `begin` has sent; None while there is no connection for it."""
        return None if self._begun is None else self._begun.response

    def connect(self, on_done: Callable[[UpstreamResponse | None], None]) -> None:
        """Send the request of `begin` over a new connection; `on_done` gets its response.

        None where it could not be sent: `open` raises why.
        """
        begun = self._begun
        assert begun is not None  # noqa: S101  # `begin` has returned True

        def end() -> None:
            response = begun.response
            if response is not None and self._lease is not None:
                self._lease.follow_answer(response)
            on_done(response)

        begun.begin_connect(end)

    def begin_relay(self) -> None:
        """Note that the head of an answer has come, which `open` did not wait for."""
        assert self._begun is not None  # noqa: S101  # it has answered
        self._begun.begin_relay()

    async def open(self, excluded: frozenset[str]) -> UpstreamResponse:
        """Reserve a slot, lease the engine and send the request; returns once the head of an answer has come.

        Raises what the node or the route to it says, and `NoNodeAvailable`, `QueueFull` or `QueueTimeout`
        while no node outside `excluded` can be used.
        """
        if self._begun is None:
            node_id = await self._reserve(excluded)
            placed_at = time.monotonic()
            place = self._context.endpoints.registry.places_of(self._call.model.id).get(node_id)
            if place is not None:
                await self._prepare_exchange(place, placed_at)
            else:
                await self._prepare(self._enter_node(node_id), placed_at)
        if self._exchange is not None:
            assert isinstance(self._begun, BegunRequest)  # noqa: S101  # no node answers
            return await self._exchange.open(self._begun, self.silent_s)
        assert self._begun is not None  # noqa: S101
        try:
            response = await self._begun.wait()
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

    def _enter_node(self, node_id: str) -> Node:
        """Note the node that answers."""
        record = self._call.record
        self.place_id = node_id
        node = self.node = self._context.view.nodes[node_id]
        record.node_id = node_id
        if record.endpoint_id is not None:
            # Of an attempt before.
            record.endpoint_id = None
        self._context.traffic.begin_request(node_id)
        return node

    def _has_new_engine(self, node: Node) -> bool:
        """Whether the engine cannot have served anybody before this process did.

        Engines of this host end with it; those of another may have served before.
        """
        return node.id == self._context.agent.node_id or self._call.model.id not in node.engines

    async def _prepare(self, node: Node, placed_at: float) -> None:
        """Lease the engine and send the request, if a connection is idle."""
        call, context = self._call, self._context
        record = call.record
        if node.id == context.agent.node_id:
            self._lease = await context.agent.acquire_lease(
                call.model.id, deadline_s=context.get_load_timeout_s(), keep_alive=call.keep_alive
            )
            # Only a loaded engine knows its chat template well.
            call = self._call = await _fit_template(call, self._lease.worker.template)
        if self._reservation is None:
            await context.token_count_permits.acquire()
            self._has_token_count_permit = True
        self._streams_progress = needs_progress(call, self._estimate, self._context.performance, node.id)
        if call.operation.generates_text:
            self._own_prompt = await context.prompt_owners.begin_request(
                record.principal.owner_id,
                node.id,
                call.model.id,
                call.body,
                call.head,
                is_new=self._has_new_engine(node),
            )
        record.sent_at = time.monotonic()
        record.load_s += record.sent_at - placed_at
        try:
            self._begin_request(node)
        except TransportError as failure:
            raise await self._explain_failure(failure) from failure

    def _begin_request(self, node: Node) -> BegunRequest | BegunNodeRequest:
        """Send the request, if a connection is idle."""
        call, lease = self._call, self._lease
        body = request_progress(call.body, stream=call.stream) if self._streams_progress else call.body
        if lease is not None:
            lease.begin_request(len(body), self._context.performance.speed_of(node.id, call.model.id))
        begun = self._begun = begin_engine_request(
            self._context, call, node, lease, call.path, body, MAX_REQUEST_DURATION_S
        )
        if lease is not None and begun.response is not None:
            lease.follow_answer(begun.response)
        return begun

    def _enter_endpoint(self, place: Place) -> EndpointExchange:
        """Note the endpoint that answers."""
        call, context, record = self._call, self._context, self._call.record
        endpoint_id = self.place_id = place.endpoint.id
        record.node_id, record.endpoint_id = None, endpoint_id
        context.traffic.begin_request(endpoint_id)
        exchange = self._exchange = EndpointExchange(context.endpoints, context.spend, call, place)
        return exchange

    def _begin_exchange(self, place: Place) -> bool:
        """Do for an endpoint what `begin` does for a node."""
        call, context, record = self._call, self._context, self._call.record
        if place.endpoint.timeout_s < SSE_KEEPALIVE_INTERVAL_S:
            # Callbacks look at silent answers too rarely for it.
            return False
        exchange = self._enter_endpoint(place)
        if not exchange.prepare_small():
            return False
        self._own_prompt = context.prompt_owners.begin_small_request(
            record.principal.owner_id, place.endpoint.id, call.model.id, call.body, call.head, is_new=False
        )
        record.sent_at = time.monotonic()
        self._begun = exchange.begin()
        return True

    async def _prepare_exchange(self, place: Place, placed_at: float) -> None:
        """Send the request to an endpoint, if a connection is idle."""
        call, context, record = self._call, self._context, self._call.record
        exchange = self._enter_endpoint(place)
        await exchange.prepare()
        if call.operation.generates_text:
            owner_id = record.principal.owner_id
            self._own_prompt = await context.prompt_owners.begin_request(
                owner_id, place.endpoint.id, call.model.id, call.body, call.head, is_new=False
            )
        record.sent_at = time.monotonic()
        record.load_s += record.sent_at - placed_at
        self._begun = exchange.begin()

    @property
    def place_name(self) -> str:
        """Name of the node or the endpoint."""
        if self._exchange is not None:
            return self._exchange.place.endpoint.name
        return "" if self.node is None else self.node.hello.name

    def accepts(self, response: UpstreamResponse) -> bool:
        """Whether the head of an answer is one of what was asked for; `relay` raises why not."""
        return self._exchange is None or self._exchange.accept(response)

    def start_relay(self, response: UpstreamResponse, sink: ClientSink) -> EventRelay | None:
        """Begin to pass the answer on; returns the relay of a stream, None for a document."""
        if self._exchange is not None:
            return self._start_exchange_relay(self._exchange, response, sink)
        call, node = self._call, self.node
        assert node is not None  # noqa: S101  # it has answered
        is_stream = is_event_stream(response)
        content_type = response.content_type
        if is_stream and not call.stream and self._streams_progress:
            self._aggregator = AGGREGATOR_OF_PATH[call.path]()
            content_type = JSON_HEADER[1]
        elif is_stream:
            self._events = EventRelay(
                response,
                opening_filter=(
                    ProgressFilter(self._create_start_event(node)) if self._streams_progress else None
                ),
                on_tokens=self._begin_tokens().add,
            )
        if self._own_prompt is not None:
            self._limited = LimitedSink(sink, self._own_prompt.own_tokens, is_stream=self._events is not None)
        sink.start_response(
            response.status,
            content_type,
            node_name=node.hello.name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        return self._events

    def _start_exchange_relay(
        self, exchange: EndpointExchange, response: UpstreamResponse, sink: ClientSink
    ) -> EventRelay | None:
        if self._own_prompt is not None:
            self._limited = LimitedSink(sink, self._own_prompt.own_tokens, is_stream=exchange.is_stream)
        sink.start_response(
            response.status,
            response.content_type,
            node_name=self.place_name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        self._events = exchange.start_relay(response, sink if self._limited is None else self._limited)
        return self._events

    def write_document(self, document: bytes, response: UpstreamResponse, sink: DirectSink) -> None:
        """Write a whole document without a wait: `start_relay` and `write_now` in one.

        Raises `TransportError` for a document of an endpoint that cannot be translated, with nothing written.
        """
        if self._exchange is not None:
            self._start_exchange_relay(self._exchange, response, sink)
            document = self._exchange.answer.rewrite_document(document)
            sink.write_now(document if self._limited is None else self._limited.limit(document), last=True)
            return
        assert self.node is not None  # noqa: S101  # it has answered
        if self._own_prompt is not None:
            self._limited = LimitedSink(sink, self._own_prompt.own_tokens, is_stream=False)
            document = self._limited.limit(document)
        sink.start_response(
            response.status,
            response.content_type,
            node_name=self.node.hello.name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        sink.write_now(document, last=True)

    @property
    def wants_stream(self) -> bool:
        """Whether a stream of the engine is passed on as a stream."""
        return self._call.stream or not self._streams_progress

    def body_sink(self, sink: ClientSink) -> BodySink:
        """Return what the bytes of an answer are written to, once `start_relay` was called."""
        if self._exchange is not None:
            return self._exchange.answer
        return sink if self._limited is None else self._limited

    def complete_start(self, events: bytes) -> bytes:
        """Return the first events of a chat, with the start that the engine may have left out."""
        return _CHAT_START_EVENT.prefix_of(events) + events if self._streams_progress else events

    def write_now(self, data: bytes, sink: DirectSink, *, last: bool = False) -> None:
        """Write whole events without a wait; `start_relay` was called. Raises `TransportError`."""
        if self._exchange is not None:
            data = self._exchange.answer.rewrite_events(data)
            if not data and not last:
                return
        sink.write_now(data if self._limited is None else self._limited.limit(data), last=last)

    async def relay(self, response: UpstreamResponse, sink: ClientSink) -> RelayResult:
        """Pass the answer on, or what is left of it, and record its outcome."""
        if self._exchange is not None:
            return await self._relay_exchange(self._exchange, response, sink)
        call, node = self._call, self.node
        assert node is not None  # noqa: S101  # it has answered
        if self._events is None:
            self.start_relay(response, sink)
        body_sink = self.body_sink(sink)
        try:
            if self._aggregator is None:
                result = await relay_response(
                    response,
                    body_sink,
                    format_error_event=call.format_error_event,
                    explain_failure=self._explain_failure,
                    on_client_left=self.record_result,
                    on_event_cut=call.record.note_cut_event,
                    begun=self._events,
                    silent_s=self.silent_s,
                )
            else:
                result = await relay_aggregated(
                    response,
                    body_sink,
                    self._aggregator,
                    start_event=self._create_start_event(node),
                    explain_failure=self._explain_failure,
                    on_tokens=self._begin_tokens().add,
                )
            if self._limited is not None and result.error is None:
                await self._limited.flush()
        finally:
            self.note_received(response)
        self.record_result(result)
        return result

    @property
    def timeouts(self) -> RelayTimeouts:
        """How long the answer may be silent."""
        return USUAL_TIMEOUTS if self._exchange is None else self._exchange.timeouts

    def finish(self, response: UpstreamResponse, result: RelayResult) -> None:
        """Record the outcome of an answer that was passed on whole without a wait."""
        self.note_received(response)
        self.record_result(result if self._exchange is None else self._exchange.complete(result))

    def note_received(self, response: UpstreamResponse) -> None:
        """Record when the answer began, and its size so far."""
        record = self._call.record
        record.first_byte_at = response.first_byte_at
        record.received_bytes = response.received_bytes

    def _begin_tokens(self) -> StreamedTokens:
        """Count tokens while they are generated."""
        assert self.place_id is not None  # noqa: S101  # it has answered
        counter = self._streamed_tokens = self._context.traffic.begin_stream(
            self.place_id, self._call.model.id
        )
        return counter

    def record_result(self, result: RelayResult) -> None:
        """Record the outcome of an answer that has reached the client, whole or up to an error."""
        call, context, record, place_id = self._call, self._context, self._call.record, self.place_id
        assert place_id is not None  # noqa: S101  # it has answered
        if self._exchange is not None:
            self._exchange.settle(result)
        usage, error, model_id = result.usage, result.error, call.model.id
        record.usage = usage if self._own_prompt is None else self._tell_usage(usage, self._own_prompt)
        record.is_answered = error is None
        if error is not None or record.error_code is not None:
            # Setting a field takes three times as long as reading it.
            record.error_code = None if error is None else error.code
        tokens = usage.completion_tokens
        # The engine's own count replaces that of the events.
        counted = 0 if self._streamed_tokens is None else self._streamed_tokens.count
        uncounted = 0 if tokens is None else tokens - counted
        context.traffic.record_answer(place_id, model_id, uncounted)
        is_external = self._exchange is not None
        # A failure that is fast must not make an endpoint look fast.
        if self._reservation is not None and not (is_external and error is not None):
            context.performance.record_completion(
                place_id,
                model_id,
                self._estimate,
                result.measure_usage(record.sent_at) if is_external else usage,
                mean_busy_slots=self._reservation.mean_busy_slots,
            )

    async def _relay_exchange(
        self, exchange: EndpointExchange, response: UpstreamResponse, sink: ClientSink
    ) -> RelayResult:
        """Pass the answer of an endpoint on, or what is left of it, and record its outcome."""
        exchange.require_answer(response)
        if self._events is None:
            self._start_exchange_relay(exchange, response, sink)
        try:
            result = await exchange.relay(
                response, self._events, silent_s=self.silent_s, on_client_left=self.record_result
            )
            if self._limited is not None and result.error is None:
                await self._limited.flush()
        finally:
            self.note_received(response)
        self.record_result(result)
        return result

    async def _explain_failure(self, failure: TransportError) -> errors.LlbError:
        """Error for the client; where the engine has failed, by the part that this request has in it."""
        blame = None
        if isinstance(failure, EngineEnded):
            blame = failure.blame
        elif self._lease is not None and not isinstance(failure, UpstreamTimeout):
            blame = await self._lease.wait_for_blame(ENGINE_END_TIMEOUT_S)
        if blame is not None:
            return error_from_blame(blame, self._call.model.id)
        return error_from_transport_error(failure)

    def _tell_usage(self, usage: Usage, own_prompt: OwnPrompt) -> Usage:
        """Return the counts for the history of the request: cached tokens as the client was told."""
        if usage.prompt_tokens is None:
            return usage
        self._context.prompt_owners.end_request(own_prompt, usage.prompt_tokens)
        return replace(usage, cached_tokens=told_tokens(usage.cached_tokens or 0, own_prompt.own_tokens))

    def report_failure(self, error: errors.LlbError) -> None:
        """Let the engine of this host be checked, after it has failed this request."""
        if self._exchange is not None:
            self._exchange.end_spend(received_bytes=0)
        if self._lease is not None and isinstance(error, errors.UpstreamError):
            self._context.http_client.close_idle(target_of(self._lease))
            self._lease.report_suspected_failure()

    def release(self) -> None:
        """Give back what was taken, in the opposite order. Nothing here awaits or fails."""
        # The relay holds the tail of the answer, which nothing needs any more.
        self._events = None
        if self._begun is not None:
            self._begun.close()
        if self._exchange is not None:
            self._exchange.end_spend(received_bytes=self._call.record.received_bytes)
        if self._has_token_count_permit:
            self._context.token_count_permits.release()
        if self._lease is not None:
            self._lease.release()
        if self.place_id is not None:
            self._context.traffic.end_request(self.place_id)
        if self._reservation is not None:
            self._reservation.release()

    async def _reserve(self, excluded: frozenset[str]) -> str:
        """Id of the node that the request goes to; with a slot reserved there if the request needs one."""
        call, admission = self._call, self._context.admission
        queued_at = time.monotonic()
        try:
            if not call.operation.needs_slot:
                return admission.select_node_without_slot(call.model.id, excluded)
            self._reservation = await admission.reserve_slot(
                call.model.id,
                key_id=call.record.principal.root_id,
                owner_id=call.record.principal.account_id,
                request=self._estimate,
                exclude=excluded,
                timeout_s=call.queue_timeout_s,
                body_bytes=len(call.body),
            )
            return self._reservation.node_id
        finally:
            call.record.queued_s += time.monotonic() - queued_at

    def _request_engine(
        self, node: Node, path: bytes, body: bytes, header_timeout_s: float
    ) -> BegunRequest | BegunNodeRequest:
        return begin_engine_request(
            self._context, self._call, node, self._lease, path, body, header_timeout_s
        )

    def _create_start_event(self, node: Node) -> StartEvent | None:
        call = self._call
        if call.path == CHAT_PATH:
            return _CHAT_START_EVENT
        if call.path != MESSAGES_PATH:
            return None

        async def count_tokens() -> int:
            async with self._context.token_count_permits:
                begun = self._request_engine(node, COUNT_TOKENS_PATH, call.body, TOKEN_COUNT_TIMEOUT_S)
                response = await begun.wait()
                return await read_token_count(response, TOKEN_COUNT_TIMEOUT_S)

        return MessagesStartEvent(call.model.id, call.record.request_id, count_tokens)
