"""One request's way: slot, engine, relay; another target while nothing of an answer was written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from llb import errors
from llb.cluster.view import ClusterView, Node
from llb.engine.model_engine import Lease
from llb.gateway.admission.capacity_sync import CapacitySync
from llb.gateway.admission.controller import AdmissionController, SlotReservation
from llb.gateway.admission.deadlines import DeadlineTimer
from llb.gateway.admission.rate_limiter import ApiKeyRateLimiter, TokenReservation
from llb.gateway.engine_routes import Operation
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.engine_errors import error_from_engine_response
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.routing.affinity import compute_affinity_key, estimate_prompt_tokens
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.aggregator import AGGREGATOR_OF_PATH
from llb.gateway.stream.disconnect_detection import ProgressFilter, request_progress
from llb.gateway.stream.relay import (
    RelayResult,
    SseKeepalive,
    error_from_transport_error,
    format_error_event,
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
from llb.node.agent import NodeAgent
from llb.policy.routing import RequestEstimate
from llb.wire import InferenceFields, KeyLimits, Model, ModelStatus, ReplicaState

log = logging.getLogger(__name__)

ENGINE_CONNECT_TIMEOUT_S = 5.0  # to an engine of this host
MAX_REQUEST_DURATION_S = 3600.0  # the longest that one answer may take, prefill included
MAX_ERROR_BODY_BYTES = 256 * 1024
TOKEN_COUNT_TIMEOUT_S = 10.0  # of a prompt that has just been read
MAX_CONCURRENT_TOKEN_COUNTS = 4  # requests that take no slot, but a thread of their engine each
# An answer in one piece that may take longer than this is asked for as a stream: a slot is free within a second of its leaving.
AGGREGATE_ABOVE_S = 0.5
MAX_ROUNDS = 3  # that one request takes over the nodes: one that only seemed to be gone is asked once more
# What one node says need not be so of another that holds the model.
_RETRYABLE_ERRORS = (
    errors.UpstreamError,
    errors.NoNodeAvailable,
    errors.ModelLoading,
    errors.ModelFailed,
    errors.InsufficientResources,
)

_CHAT_START_EVENT = ChatStartEvent()
_JSON_HEADER = (
    b"content-type",
    b"application/json",
)  # whatever the client calls it, its body was read as that
_engine_target = lru_cache(maxsize=256)(UpstreamTarget)  # an engine's is asked for again and again


@dataclass(frozen=True, slots=True)
class InferenceCall:
    """One inference request, as its route hands it over. What becomes of it is written into `tally`."""

    record: RequestRecord
    model: Model
    path: bytes
    body: bytes
    head: InferenceFields
    operation: Operation
    stream: bool
    key_id: str
    session: str | None = None  # what the client calls the conversation
    keep_alive_s: float | None = None
    format_error_event: Callable[[errors.LlbError], bytes] = format_error_event  # as its dialect writes one


@dataclass(slots=True)
class _Attempt:
    """What one turn has taken of its node, and gives back: flat, for a stack of context managers took a tenth of a request."""

    node: Node | None = None
    reservation: SlotReservation | None = None  # None: it takes no slot
    lease: Lease | None = None  # of an engine of this host
    counts_tokens: bool = False  # it is one of those that count at the same time
    streams_progress: bool = (
        False  # the engine streams, with its progress, whether the client wants a stream or not
    )


class ClientSink(Protocol):
    """The client: told once what the answer is, then given its bytes."""

    started: bool

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None: ...

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


class NodeTraffic:
    """What one node has answered."""

    def __init__(self) -> None:
        self.request_count = 0
        self._completion_tokens = 0
        self._sampled_at: float | None = None

    def record_completion(self, completion_tokens: int) -> None:
        self.request_count += 1
        self._completion_tokens += completion_tokens

    def sample(self, now: float) -> tuple[int, float]:
        """The requests so far, and the tokens a second since the last call."""
        rate = (
            self._completion_tokens / (now - self._sampled_at)
            if self._sampled_at is not None and now > self._sampled_at
            else 0.0
        )
        self._completion_tokens, self._sampled_at = 0, now
        return self.request_count, rate


class Dispatcher:
    """Sends calls to engines. Slots are claimed here and nowhere else."""

    def __init__(
        self,
        view: ClusterView,
        admission: AdmissionController,
        http_client: HttpClient,
        agent: NodeAgent,
        node_connections: NodeConnections,
        rate_limiter: ApiKeyRateLimiter,
        *,
        load_timeout_s: float,
    ) -> None:
        self._view = view
        self._admission = admission
        self._http_client = http_client
        self._agent = agent
        self._node_connections = node_connections
        self._rate_limiter = rate_limiter
        self._load_timeout_s = load_timeout_s
        self._active_requests: dict[str, int] = {}
        self._traffic: dict[str, NodeTraffic] = {}
        self.performance = PerformanceModel()
        self._capacity_sync = CapacitySync(view, admission, self.performance, node_connections, agent)
        self._idle_event = asyncio.Event()
        self._idle_event.set()
        self._token_count_semaphore = asyncio.Semaphore(MAX_CONCURRENT_TOKEN_COUNTS)
        self._deadline_timer = DeadlineTimer(MAX_REQUEST_DURATION_S)
        view.active_requests_of = lambda node_id: self._active_requests.get(node_id, 0)
        view.collect_traffic = self._sample_traffic

    # --- what can be asked --------------------------------------------------------------------------

    def ready_models(self) -> list[Model]:
        return [
            model
            for model in self._view.list_models()
            if self._view.status_of(model.id).status is ModelStatus.READY
        ]

    def resolve_model(self, name: str) -> Model:
        """The model that `name` means, in whatever state; raises `ModelNotFound`."""
        model = self._view.find_model(name)
        if model is None:
            raise errors.ModelNotFound(name)
        return model

    def require_ready(self, model: Model) -> None:
        """Raises what the contract says of every state but Ready."""
        if self._admission.serving_node_count(model.id):
            return  # a node serves it: no need to look at all of them
        now = self._view.status_of(model.id)
        match now.status:
            case ModelStatus.READY:
                return
            case ModelStatus.AVAILABLE:
                raise errors.ModelNotRegistered(model.id)
            case ModelStatus.DOWNLOADING:
                wait_s = 5 if now.eta_s is None else max(1, min(60, round(now.eta_s)))
                raise errors.ModelDownloading(model.id, now.progress or 0.0, retry_after_s=wait_s)
            case ModelStatus.ERROR:
                raise errors.ModelFailed(
                    f"Model '{model.id}' cannot be used: {now.error}. Pull it again to retry"
                )
            case ModelStatus.REGISTERED:
                if any(report.state is ReplicaState.READY for _, report in self._view.replicas_of(model.id)):
                    raise errors.NoNodeAvailable(
                        f"Model '{model.id}': {now.error or 'its nodes are offline'}"
                    )
                reason = now.error or "waiting for its download to begin"
                raise errors.ModelPending(f"Model '{model.id}' is registered: {reason}")

    # --- sending ------------------------------------------------------------------------------------

    async def dispatch(self, call: InferenceCall, sink: ClientSink) -> RelayResult | None:
        """Have `call` answered into `sink`. Raises `LlbError` while the client has got nothing; None when the
        stream was begun by heartbeats alone and ended with an error event."""
        self._idle_event.clear()
        stay = self._deadline_timer.start_deadline()
        try:
            limits = call.record.principal.limits
            if limits is None:  # most keys
                return await self._dispatch_with_failover(call, sink)
            with self._rate_limited(call, limits):
                return await self._dispatch_with_failover(call, sink)
        except asyncio.CancelledError:
            if not stay.is_expired or stay.task.uncancel():
                raise  # it was somebody else's wish, too
            await self._report_error(
                call, sink, errors.EngineTimeout("The answer took longer than a request may take")
            )
        except errors.LlbError as error:
            await self._report_error(call, sink, error)
        finally:
            self._deadline_timer.cancel_deadline(stay)
            if not any(self._active_requests.values()):
                self._idle_event.set()
        return None

    def _rate_limited(self, call: InferenceCall, limits: KeyLimits) -> AbstractContextManager[None]:
        """Holds the request to the limits of its key."""
        answer_tokens = _max_completion_tokens(call)
        if answer_tokens is None:
            answer_tokens = self.performance.expected_completion_tokens(call.model.id)
        return self._rate_limiter.limit_request(
            call.record, limits, TokenReservation(estimate_prompt_tokens(call.body), answer_tokens)
        )

    @staticmethod
    async def _report_error(call: InferenceCall, sink: ClientSink, error: errors.LlbError) -> None:
        """An error inside the stream that heartbeats have begun; raised where nothing was begun."""
        if not sink.started:
            raise error
        call.record.error_code = error.code
        await sink.write(call.format_error_event(error))

    async def _dispatch_with_failover(self, call: InferenceCall, sink: ClientSink) -> RelayResult:
        """Claim, load, ask, relay; again on another node while the client has got nothing of an answer."""
        request = self._estimate_request(call)
        tried: frozenset[str] = frozenset()
        unheard: set[str] = set()  # that did not refuse: the way to them broke
        failure: errors.LlbError | None = None
        turn = 1
        while True:
            held = _Attempt()
            try:
                if call.stream:
                    async with SseKeepalive(sink):
                        response = await self._start_attempt(call, request, tried, held)
                else:
                    response = await self._start_attempt(call, request, tried, held)
                return await self._relay_response(call, sink, request, held, response)
            except _RETRYABLE_ERRORS as error:
                node = held.node
                if node is None:  # nobody is left to ask
                    turn += 1
                    if turn > MAX_ROUNDS or not any(map(self._node_connections.may_recover, unheard)):
                        raise (failure or error) from None
                    tried -= unheard
                    unheard.clear()
                    continue
                if held.lease is not None and isinstance(error, errors.UpstreamError):
                    self._http_client.close_idle(
                        _engine_target(held.lease.host, held.lease.port, held.lease.api_key)
                    )
                    held.lease.report_suspected_failure()
                # The client has nothing of an answer yet, perhaps a few heartbeats.
                log.warning(
                    "node %s failed a request for %s: %s", node.hello.name, call.model.id, error.message
                )
                tried |= {node.id}
                if isinstance(error.__cause__, TransportError):
                    unheard.add(node.id)
                failure = error
            finally:
                self._release_attempt(held)

    async def _start_attempt(
        self, call: InferenceCall, request: RequestEstimate, excluded: frozenset[str], attempt: _Attempt
    ) -> UpstreamResponse:
        """An answer whose head has come, of a node that `held` says with what was taken of it. Raises what the node or the
        way to it says, and `NoNodeAvailable`, `QueueFull` or `QueueTimeout` while there is none."""
        tally, model_id = call.record, call.model.id
        asked_at = time.monotonic()
        try:
            if call.operation.needs_slot:
                attempt.reservation = await self._admission.reserve_slot(
                    model_id,
                    key_id=call.key_id,
                    request=request,
                    exclude=excluded,
                    body_bytes=len(call.body),
                ).acquire()
                node_id = attempt.reservation.node_id
            else:
                node_id = self._admission.select_node_without_slot(model_id, excluded)
        finally:
            placed_at = time.monotonic()
            tally.queued_s += placed_at - asked_at
        node = attempt.node = self._view.nodes[node_id]
        tally.node_id = node_id
        self._active_requests[node_id] = self._active_requests.get(node_id, 0) + 1
        if node_id == self._agent.node_id:
            attempt.lease = await self._agent.acquire_lease(
                model_id, deadline_s=self._load_timeout_s, keep_alive_s=call.keep_alive_s
            )
        if attempt.reservation is None:
            await self._token_count_semaphore.acquire()
            attempt.counts_tokens = True
        attempt.streams_progress = self._should_stream_progress(call, request, node_id)
        tally.sent_at = time.monotonic()
        tally.load_s += tally.sent_at - placed_at
        try:
            body = request_progress(call.body, stream=call.stream) if attempt.streams_progress else call.body
            response = await self._request_engine(call, node, attempt.lease, call.path, body)
            if response.status < 400:
                return response
            try:
                refused = await response.read(MAX_ERROR_BODY_BYTES, ENGINE_CONNECT_TIMEOUT_S)
            finally:
                response.close()
        except TransportError as fault:
            raise error_from_transport_error(fault) from fault
        raise error_from_engine_response(response.status, response.headers, refused)

    def _should_stream_progress(self, call: InferenceCall, request: RequestEstimate, node_id: str) -> bool:
        """Whether the engine is to notice at once that the client left; of a short answer it makes no difference."""
        if not call.operation.generates_text:
            return False
        if call.stream:
            return call.head.return_progress is None  # else the client wants to see it, or not
        most_tokens = _max_completion_tokens(call)
        if most_tokens is None:
            return True
        speed = self.performance.throughput_of(node_id, call.model.id)
        # All of the prompt: whether a cache has it is only likely.
        return speed.estimate_duration_s(request.context_tokens, most_tokens) > AGGREGATE_ABOVE_S

    def _request_engine(
        self,
        call: InferenceCall,
        node: Node,
        lease: Lease | None,
        path: bytes,
        body: bytes,
        header_timeout_s: float = MAX_REQUEST_DURATION_S,
    ) -> Awaitable[UpstreamResponse]:
        """Ask the engine of this host that is leased, or another host, whose hop route leases one of its own."""
        if lease is not None:
            return self._http_client.request(
                _engine_target(lease.host, lease.port, lease.api_key),
                b"POST",
                path,
                (_JSON_HEADER, *call.record.trace_headers),
                body,
                connect_timeout_s=ENGINE_CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        query = f"?model={quote(call.model.id)}&load_s={self._load_timeout_s:g}"
        if call.keep_alive_s is not None:
            query += f"&keep_alive_s={call.keep_alive_s:g}"
        own_id = (b"x-request-id", call.record.request_id.encode("ascii"))  # for that host's log
        return self._node_connections.request(
            node.id,
            b"POST",
            b"/hop" + path + query.encode("ascii"),
            (_JSON_HEADER, *call.record.trace_headers, own_id),
            body,
            header_timeout_s=header_timeout_s,
        )

    async def _relay_response(
        self,
        call: InferenceCall,
        sink: ClientSink,
        request: RequestEstimate,
        attempt: _Attempt,
        response: UpstreamResponse,
    ) -> RelayResult:
        """Pass the answer on, and note what it was."""
        node, claim, tally = attempt.node, attempt.reservation, call.record
        assert node is not None  # noqa: S101  # it has answered
        whole = (
            None
            if call.stream or not (attempt.streams_progress and is_event_stream(response))
            else AGGREGATOR_OF_PATH[call.path]()
        )
        opening = self._create_start_event(call, node, attempt.lease)
        sink.start_response(
            response.status,
            response.content_type if whole is None else _JSON_HEADER[1],
            node_name=node.hello.name,
            queued_ms=0 if claim is None else claim.queued_ms,
        )
        try:
            if whole is None:
                prelude = ProgressFilter(opening) if attempt.streams_progress else None
                result = await relay_response(
                    response, sink, format_error_event=call.format_error_event, progress_filter=prelude
                )
            else:
                result = await relay_aggregated(response, sink, whole, start_event=opening)
        finally:
            tally.first_byte_at = response.first_byte_at
            tally.received_bytes = response.received_bytes
        tally.usage = result.usage
        tally.error_code = None if result.error is None else result.error.code
        traffic = self._traffic.get(node.id)
        if traffic is None:
            traffic = self._traffic[node.id] = NodeTraffic()
        traffic.record_completion(result.usage.completion_tokens or 0)
        if claim is not None:
            self.performance.record_completion(
                node.id, call.model.id, request, result.usage, mean_busy_slots=claim.mean_busy_slots
            )
        return result

    def _create_start_event(self, call: InferenceCall, node: Node, lease: Lease | None) -> StartEvent | None:
        if call.path == CHAT_PATH:
            return _CHAT_START_EVENT
        if call.path != MESSAGES_PATH:
            return None

        async def count() -> int:
            async with self._token_count_semaphore:
                response = await self._request_engine(
                    call, node, lease, COUNT_TOKENS_PATH, call.body, TOKEN_COUNT_TIMEOUT_S
                )
                return await read_token_count(response, TOKEN_COUNT_TIMEOUT_S)

        return MessagesStartEvent(call.model.id, call.record.request_id, count)

    def _release_attempt(self, attempt: _Attempt) -> None:
        """Give back what was taken for one node, in the opposite order. Nothing here awaits or fails."""
        if attempt.counts_tokens:
            self._token_count_semaphore.release()
        if attempt.lease is not None:
            attempt.lease.release()
        if attempt.node is not None:
            self._active_requests[attempt.node.id] -= 1
        if attempt.reservation is not None:
            attempt.reservation.release()

    def _estimate_request(self, call: InferenceCall) -> RequestEstimate:
        """What the choice of a node needs to know of `call`; its key only where there is a choice."""
        key = None
        if call.operation.generates_text and self._admission.serving_node_count(call.model.id) > 1:
            key = compute_affinity_key(call.head, call.session, call.key_id)
        return self.performance.estimate_request(
            call.model.id, estimate_prompt_tokens(call.body), _max_completion_tokens(call), key
        )

    def _sample_traffic(self, node_id: str) -> tuple[int, float]:
        """Requests answered by a node so far, and its tokens a second since this was last asked."""
        return self._traffic.setdefault(node_id, NodeTraffic()).sample(time.monotonic())

    # --- around it ----------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new and let running answers end for `timeout_s`."""
        self._admission.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle_event.wait(), timeout_s)

    async def close(self) -> None:
        self._admission.close()
        self._deadline_timer.close()
        await self._http_client.close()


def _max_completion_tokens(call: InferenceCall) -> int | None:
    """How long its answer may become; None: as long as it likes."""
    if not call.operation.generates_text:
        return 0
    head = call.head
    limits = (head.max_tokens, head.max_completion_tokens, head.max_output_tokens, head.n_predict)
    return min([limit for limit in limits if limit is not None], default=None)
