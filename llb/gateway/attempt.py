"""One attempt to have a request answered by one node or endpoint: slot, lease, request, relay.

It gives back what it took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from urllib.parse import quote

from msgspec.structs import replace

from llb import errors
from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.view import ClusterView, Node
from llb.engine.model_engine import Lease
from llb.gateway.admission.controller import AdmissionController, SlotReservation
from llb.gateway.endpoints.exchange import EndpointContext, EndpointExchange
from llb.gateway.endpoints.outgoing import OutgoingRequest
from llb.gateway.endpoints.registry import Place
from llb.gateway.http.client import JSON_HEADER, HttpClient, UpstreamTarget
from llb.gateway.http.engine_errors import error_from_blame, error_from_engine_response
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import EngineEnded, TransportError, UpstreamTimeout
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.prompt_owners import OwnPrompt, PromptOwners, owner_of
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spend.attempt_spend import AttemptSpend, FreeSpend, SpendControl
from llb.gateway.spend.billed_request import BilledRequest, read_billed_request
from llb.gateway.spill.book import SpillBook
from llb.gateway.stream.aggregator import AGGREGATOR_OF_PATH
from llb.gateway.stream.cached_tokens import LimitedSink, told_tokens
from llb.gateway.stream.disconnect_detection import ProgressFilter, request_progress
from llb.gateway.stream.relay import (
    RelayResult,
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
from llb.node.agent import NodeAgent
from llb.policy.routing import RequestEstimate
from llb.policy.spend.price import FREE
from llb.wire import TemplateSupport
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

# Connecting to an engine of this host.
ENGINE_CONNECT_TIMEOUT_S = 5.0
# From the end of an engine's connections to that of its process.
ENGINE_END_TIMEOUT_S = 1.0
# The longest that one answer may take, prefill included.
MAX_REQUEST_DURATION_S = 3600.0
MAX_ERROR_BODY_BYTES = 256 * 1024
TOKEN_COUNT_TIMEOUT_S = 10.0
# Requests without a slot that one process sends at the same time. Each takes a thread of its engine.
MAX_CONCURRENT_TOKEN_COUNTS = 4
# A document that may take longer than this is requested as a stream: llama-server notices a client that left
# a document only after a second, a client that left a stream at the next token.
AGGREGATE_ABOVE_S = 0.5

_CHAT_START_EVENT = ChatStartEvent()
# The target of an engine is needed again at every request.
_engine_target = lru_cache(maxsize=256)(UpstreamTarget)


@dataclass(frozen=True)
class AttemptContext:
    """What every attempt of a process uses."""

    view: ClusterView
    admission: AdmissionController
    http_client: HttpClient
    agent: NodeAgent
    node_connections: NodeConnections
    performance: PerformanceModel
    traffic: NodeTraffic
    endpoints: EndpointContext
    spill_book: SpillBook
    spend: SpendControl
    load_timeout_s: float
    prompt_owners: PromptOwners = field(default_factory=PromptOwners)
    token_count_permits: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_CONCURRENT_TOKEN_COUNTS)
    )


async def _fit_template(call: InferenceCall, template: TemplateSupport | None) -> InferenceCall:
    if len(call.body) <= MAX_EVENT_LOOP_BYTES:
        return call.fit_template(template)
    return await asyncio.to_thread(call.fit_template, template)


async def _read_billed_request(
    call: InferenceCall, outgoing: OutgoingRequest, context_length: int | None
) -> BilledRequest:
    read = partial(
        read_billed_request,
        outgoing.path,
        outgoing.body,
        generates_text=call.operation.generates_text,
        context_length=context_length,
    )
    return read() if len(outgoing.body) <= MAX_EVENT_LOOP_BYTES else await asyncio.to_thread(read)


class Attempt:
    """Owns the slot reservation, the engine lease and the token-count permit of one attempt.

    Flat fields instead of a stack of context managers, which took a tenth of a request's time.
    """

    __slots__ = (
        "_call",
        "_context",
        "_estimate",
        "_exchange",
        "_has_token_count_permit",
        "_lease",
        "_own_prompt",
        "_reservation",
        "_spend",
        "_streamed_tokens",
        "_streams_progress",
        "node",
        "place_id",
    )

    def __init__(self, context: AttemptContext, call: InferenceCall, estimate: RequestEstimate) -> None:
        # Id of the node or the endpoint, once there is one.
        self.place_id: str | None = None
        # None for an endpoint.
        self.node: Node | None = None
        self._exchange: EndpointExchange | None = None
        self._context = context
        self._call = call
        self._estimate = estimate
        # None for a node, which is free.
        self._spend: AttemptSpend | FreeSpend | None = None
        # None for a request that takes no slot.
        self._reservation: SlotReservation | None = None
        # None for a node other than this host.
        self._lease: Lease | None = None
        self._has_token_count_permit = False
        self._streamed_tokens = 0
        # The engine streams its progress, whether the client wants a stream or not.
        self._streams_progress = False
        # None for an engine that has served one owner only.
        self._own_prompt: OwnPrompt | None = None

    async def open(self, excluded: frozenset[str]) -> UpstreamResponse:
        """Reserve a slot, lease the engine and send the request; returns once the head of an answer has come.

        Raises what the node or the route to it says, and `NoNodeAvailable`, `QueueFull` or `QueueTimeout`
        while no node outside `excluded` can be used.
        """
        call, context = self._call, self._context
        record = call.record
        node_id = await self._reserve(excluded)
        placed_at = time.monotonic()
        place = context.endpoints.registry.places_of(call.model.id).get(node_id)
        if place is not None:
            return await self._open_exchange(place, placed_at)
        self.place_id = node_id
        node = self.node = context.view.nodes[node_id]
        record.node_id, record.endpoint_id = node_id, None
        context.traffic.begin_request(node_id)
        if node_id == context.agent.node_id:
            self._lease = await context.agent.acquire_lease(
                call.model.id, deadline_s=context.load_timeout_s, keep_alive=call.keep_alive
            )
            # Only a loaded engine knows its chat template well.
            call = self._call = await _fit_template(call, self._lease.template)
        if self._reservation is None:
            await context.token_count_permits.acquire()
            self._has_token_count_permit = True
        self._streams_progress = self._should_stream_progress(node_id)
        if call.operation.generates_text:
            self._own_prompt = await context.prompt_owners.begin_request(
                owner_of(record.principal),
                node_id,
                call.model.id,
                call.body,
                call.head,
                # Engines of this host end with it; those of another may have served before.
                is_new=node_id == context.agent.node_id or call.model.id not in node.engines,
            )
        record.sent_at = time.monotonic()
        record.load_s += record.sent_at - placed_at
        try:
            body = request_progress(call.body, stream=call.stream) if self._streams_progress else call.body
            if self._lease is not None:
                speed = context.performance.speed_of(node_id, call.model.id)
                self._lease.begin_request(len(body), speed)
            response = await self._request_engine(node, call.path, body, MAX_REQUEST_DURATION_S)
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

    async def _open_exchange(self, place: Place, placed_at: float) -> UpstreamResponse:
        """Send the request to an endpoint."""
        call, context, record = self._call, self._context, self._call.record
        endpoint_id = self.place_id = place.endpoint.id
        record.node_id, record.endpoint_id = None, endpoint_id
        context.traffic.begin_request(endpoint_id)
        self._exchange = EndpointExchange(context.endpoints, call, place)
        outgoing = await self._exchange.build()
        price = context.spend.price_of(place.endpoint, place.served_as)
        if price is FREE:
            self._spend = FreeSpend(record)
        else:
            billed = await _read_billed_request(call, outgoing, place.context_length)
            self._spend = context.spend.reserve(call, place.endpoint, price, billed)
        if call.operation.generates_text:
            self._own_prompt = await context.prompt_owners.begin_request(
                owner_of(record.principal), endpoint_id, call.model.id, call.body, call.head, is_new=False
            )
        record.sent_at = time.monotonic()
        record.load_s += record.sent_at - placed_at
        return await self._exchange.open()

    @property
    def place_name(self) -> str:
        """Name of the node or the endpoint."""
        if self._exchange is not None:
            return self._exchange.place.endpoint.name
        return "" if self.node is None else self.node.hello.name

    async def relay(self, response: UpstreamResponse, sink: ClientSink) -> RelayResult:
        """Pass the answer on and record its outcome."""
        if self._exchange is not None:
            return await self._relay_exchange(self._exchange, response, sink)
        call, node, record = self._call, self.node, self._call.record
        assert node is not None  # noqa: S101  # it has answered
        aggregator = None
        if not call.stream and self._streams_progress and is_event_stream(response):
            aggregator = AGGREGATOR_OF_PATH[call.path]()
        start_event = self._create_start_event(node)
        own_prompt = self._own_prompt
        limited = None
        if own_prompt is not None:
            is_stream = aggregator is None and is_event_stream(response)
            limited = LimitedSink(sink, own_prompt.own_tokens, is_stream=is_stream)
        body_sink = sink if limited is None else limited
        sink.start_response(
            response.status,
            response.content_type if aggregator is None else JSON_HEADER[1],
            node_name=node.hello.name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        try:
            if aggregator is None:
                result = await relay_response(
                    response,
                    body_sink,
                    format_error_event=call.format_error_event,
                    opening_filter=ProgressFilter(start_event) if self._streams_progress else None,
                    explain_failure=self._explain_failure,
                    on_client_left=self._record_result,
                    on_tokens=self._count_tokens,
                )
            else:
                result = await relay_aggregated(
                    response,
                    body_sink,
                    aggregator,
                    start_event=start_event,
                    explain_failure=self._explain_failure,
                    on_tokens=self._count_tokens,
                )
            if limited is not None and result.error is None:
                await limited.flush()
        finally:
            record.first_byte_at = response.first_byte_at
            record.received_bytes = response.received_bytes
        self._record_result(result)
        return result

    def _count_tokens(self, tokens: int) -> None:
        """Count tokens while they are generated: each is an event of its own."""
        assert self.place_id is not None  # noqa: S101  # it has answered
        self._streamed_tokens += tokens
        self._context.traffic.record_tokens(self.place_id, self._call.model.id, tokens)

    def _record_result(self, result: RelayResult) -> None:
        """Record the outcome of an answer that has reached the client, whole or up to an error."""
        call, context, record, place_id = self._call, self._context, self._call.record, self.place_id
        assert place_id is not None  # noqa: S101  # it has answered
        if self._spend is not None:
            if result.error is None:
                self._spend.settle(result.usage)
            elif result.stream:
                self._spend.settle_partial(result.usage, result.body_bytes)
            else:
                self._spend.settle_unknown()
        record.usage = self._tell_usage(result.usage)
        record.is_answered = result.error is None
        record.error_code = None if result.error is None else result.error.code
        tokens = result.usage.completion_tokens
        # The engine's own count replaces that of the events.
        uncounted = 0 if tokens is None else tokens - self._streamed_tokens
        context.traffic.record_answer(place_id, call.model.id, uncounted)
        is_external = self._exchange is not None
        # A failure that is fast must not make an endpoint look fast.
        if self._reservation is not None and not (is_external and result.error is not None):
            context.performance.record_completion(
                place_id,
                call.model.id,
                self._estimate,
                _measured_usage(result, record.sent_at) if is_external else result.usage,
                mean_busy_slots=self._reservation.mean_busy_slots,
            )

    async def _relay_exchange(
        self, exchange: EndpointExchange, response: UpstreamResponse, sink: ClientSink
    ) -> RelayResult:
        """Pass the answer of an endpoint on and record its outcome."""
        record, own_prompt = self._call.record, self._own_prompt
        limited = None
        if own_prompt is not None:
            limited = LimitedSink(sink, own_prompt.own_tokens, is_stream=is_event_stream(response))
        sink.start_response(
            response.status,
            response.content_type,
            node_name=self.place_name,
            queued_ms=0 if self._reservation is None else self._reservation.queued_ms,
        )
        try:
            result = await exchange.relay(
                response, sink if limited is None else limited, on_client_left=self._record_result
            )
            if limited is not None and result.error is None:
                await limited.flush()
        finally:
            record.first_byte_at = response.first_byte_at
            record.received_bytes = response.received_bytes
        self._record_result(result)
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

    def _tell_usage(self, usage: Usage) -> Usage:
        """Return the counts for the history of the request: cached tokens as the client was told."""
        own_prompt = self._own_prompt
        if own_prompt is None or usage.prompt_tokens is None:
            return usage
        self._context.prompt_owners.end_request(own_prompt, usage.prompt_tokens)
        return replace(usage, cached_tokens=told_tokens(usage.cached_tokens or 0, own_prompt.own_tokens))

    def report_failure(self, error: errors.LlbError) -> None:
        """Let the engine of this host be checked, after it has failed this request."""
        if self._spend is not None:
            self._end_spend(self._spend, is_started=False)
        if self._lease is not None and isinstance(error, errors.UpstreamError):
            target = _engine_target(self._lease.host, self._lease.port, self._lease.api_key)
            self._context.http_client.close_idle(target)
            self._lease.report_suspected_failure()

    def release(self) -> None:
        """Give back what was taken, in the opposite order. Nothing here awaits or fails."""
        if self._spend is not None:
            self._end_spend(self._spend, is_started=self._call.record.received_bytes > 0)
        if self._has_token_count_permit:
            self._context.token_count_permits.release()
        if self._lease is not None:
            self._lease.release()
        if self.place_id is not None:
            self._context.traffic.end_request(self.place_id)
        if self._reservation is not None:
            self._reservation.release()

    def _end_spend(self, spend: AttemptSpend | FreeSpend, *, is_started: bool) -> None:
        """Book what is still open: the client has left, or the request was refused or failed.

        Only a stream that has started shows what was generated until then.
        """
        exchange = self._exchange
        if exchange is None or not exchange.may_be_billed:
            spend.release()
        elif exchange.is_stream and is_started:
            spend.settle_partial(exchange.known_usage, self._call.record.received_bytes)
        else:
            spend.settle_unknown()

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

    def _should_stream_progress(self, node_id: str) -> bool:
        """Whether the engine must notice at once that the client left.

        For a short answer it makes no difference.
        """
        call = self._call
        if not call.operation.generates_text:
            return False
        if call.stream:
            # A client that asks for the progress gets it unfiltered.
            return not call.head.return_progress
        max_tokens = call.max_completion_tokens
        if max_tokens is None:
            return True
        throughput = self._context.performance.throughput_of(node_id, call.model.id)
        # The whole prompt: a cache hit is only likely.
        return throughput.estimate_duration_s(self._estimate.context_tokens, max_tokens) > AGGREGATE_ABOVE_S

    def _request_engine(
        self, node: Node, path: bytes, body: bytes, header_timeout_s: float
    ) -> Awaitable[UpstreamResponse]:
        """Ask the leased engine of this host, or another host, whose hop route leases one of its own."""
        call, context, lease = self._call, self._context, self._lease
        # The body was read as JSON, whatever content type the client gave it.
        headers = (JSON_HEADER, *call.record.trace_headers)
        if lease is not None:
            return context.http_client.request(
                _engine_target(lease.host, lease.port, lease.api_key),
                b"POST",
                path,
                headers,
                body,
                connect_timeout_s=ENGINE_CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        query = f"?model={quote(call.model.id)}&load_s={context.load_timeout_s:g}&blame=1"
        if call.keep_alive is not None:
            # A node of an older version does not know the second name, and then keeps its own keep-alive.
            name = "keep_alive_s" if call.keep_alive.may_shorten else "min_keep_alive_s"
            query += f"&{name}={call.keep_alive.seconds:g}"
        speed = context.performance.speed_of(node.id, call.model.id)
        if speed.prefill_tokens_per_s is not None:
            query += f"&prefill_tokens_per_s={speed.prefill_tokens_per_s:g}"
        if speed.decode_tokens_per_s is not None:
            query += f"&decode_tokens_per_s={speed.decode_tokens_per_s:g}"
        # For the log of that host.
        request_id = (b"x-request-id", call.record.request_id.encode("ascii"))
        return context.node_connections.request(
            node.id,
            b"POST",
            b"/hop" + path + query.encode("ascii"),
            (*headers, request_id),
            body,
            header_timeout_s=header_timeout_s,
        )

    def _create_start_event(self, node: Node) -> StartEvent | None:
        call = self._call
        if call.path == CHAT_PATH:
            return _CHAT_START_EVENT
        if call.path != MESSAGES_PATH:
            return None

        async def count_tokens() -> int:
            async with self._context.token_count_permits:
                response = await self._request_engine(
                    node, COUNT_TOKENS_PATH, call.body, TOKEN_COUNT_TIMEOUT_S
                )
                return await read_token_count(response, TOKEN_COUNT_TIMEOUT_S)

        return MessagesStartEvent(call.model.id, call.record.request_id, count_tokens)


def _measured_usage(result: RelayResult, sent_at: float | None) -> Usage:
    """Return the usage of a stream with the times of its events, where the program does not tell its own."""
    usage = result.usage
    if usage.decode_ms is not None or not result.stream or result.first_byte_at is None or sent_at is None:
        return usage
    return replace(
        usage,
        prefill_ms=(result.first_byte_at - sent_at) * 1000,
        decode_ms=(result.ended_at - result.first_byte_at) * 1000,
    )
