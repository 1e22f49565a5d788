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
from llb.decide.routing import Request
from llb.engine.served import Lease
from llb.gateway.admission import Admission, Claim
from llb.gateway.affinity import affinity_key, prompt_tokens
from llb.gateway.capacity import Capacity
from llb.gateway.connection import Response
from llb.gateway.engine_errors import refusal
from llb.gateway.faults import UpstreamFault
from llb.gateway.history import Tally
from llb.gateway.opening import (
    CHAT_PATH,
    COUNT_PATH,
    MESSAGES_PATH,
    ChatOpening,
    MessageOpening,
    Opening,
    read_count,
)
from llb.gateway.operations import Operation
from llb.gateway.overdue import Overdue
from llb.gateway.quotas import Quotas, Reserved
from llb.gateway.reach import Reach
from llb.gateway.relay import Heartbeat, RelayResult, as_error, error_event, is_stream, relay, relay_whole
from llb.gateway.speeds import Speeds
from llb.gateway.upstream import Target, Upstream
from llb.gateway.watched import Prelude, watched
from llb.gateway.whole import WHOLE
from llb.node.agent import NodeAgent
from llb.wire import InferenceHead, KeyLimits, Model, ModelStatus, ReplicaState

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0  # to an engine of this host
REQUEST_LIMIT_S = 3600.0  # the longest that one answer may take, prefill included
ERROR_BODY_BYTES = 256 * 1024
COUNT_TIMEOUT_S = 10.0  # of a prompt that has just been read
COUNTS_AT_ONCE = 4  # requests that take no slot, but a thread of their engine each
# An answer in one piece that may take longer than this is asked for as a stream: a slot is free within a second of its leaving.
LONG_S = 0.5
MOST_TURNS = 3  # that one request takes over the nodes: one that only seemed to be gone is asked once more
# What one node says need not be so of another that holds the model.
_OF_ONE_NODE = (
    errors.UpstreamError,
    errors.NoNodeAvailable,
    errors.ModelLoading,
    errors.ModelFailed,
    errors.ResourceShort,
)

_CHAT_OPENING = ChatOpening()
_JSON = (b"content-type", b"application/json")  # whatever the client calls it, its body was read as that
_target_of = lru_cache(maxsize=256)(Target)  # an engine's is asked for again and again


@dataclass(frozen=True, slots=True)
class Call:
    """One inference request, as its route hands it over. What becomes of it is written into `tally`."""

    tally: Tally
    model: Model
    path: bytes
    body: bytes
    head: InferenceHead
    operation: Operation
    stream: bool
    key_id: str
    session: str | None = None  # what the client calls the conversation
    keep_alive_s: float | None = None
    error_event: Callable[[errors.LlbError], bytes] = error_event  # as its dialect writes one


@dataclass(slots=True)
class _Held:
    """What one turn has taken of its node, and gives back: flat, for a stack of context managers took a tenth of a request."""

    node: Node | None = None
    claim: Claim | None = None  # None: it takes no slot
    lease: Lease | None = None  # of an engine of this host
    counts: bool = False  # it is one of those that count at the same time
    watched: bool = False  # the engine streams, with its progress, whether the client wants a stream or not


class Sink(Protocol):
    """The client: told once what the answer is, then given its bytes."""

    started: bool

    def begin(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None: ...

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


class Traffic:
    """What one node has answered."""

    def __init__(self) -> None:
        self.requests = 0
        self._tokens = 0
        self._since: float | None = None

    def add(self, completion_tokens: int) -> None:
        self.requests += 1
        self._tokens += completion_tokens

    def take(self, now: float) -> tuple[int, float]:
        """The requests so far, and the tokens a second since the last call."""
        rate = self._tokens / (now - self._since) if self._since is not None and now > self._since else 0.0
        self._tokens, self._since = 0, now
        return self.requests, rate


class Dispatcher:
    """Sends calls to engines. Slots are claimed here and nowhere else."""

    def __init__(
        self,
        view: ClusterView,
        admission: Admission,
        upstream: Upstream,
        agent: NodeAgent,
        reach: Reach,
        quotas: Quotas,
        *,
        load_timeout_s: float,
    ) -> None:
        self._view = view
        self._admission = admission
        self._upstream = upstream
        self._agent = agent
        self._reach = reach
        self._quotas = quotas
        self._load_timeout_s = load_timeout_s
        self._active: dict[str, int] = {}
        self._traffic: dict[str, Traffic] = {}
        self.speeds = Speeds()
        self._capacity = Capacity(view, admission, self.speeds, reach, agent)
        self._idle = asyncio.Event()
        self._idle.set()
        self._counting = asyncio.Semaphore(COUNTS_AT_ONCE)
        self._overdue = Overdue(REQUEST_LIMIT_S)
        view.active_requests = lambda node_id: self._active.get(node_id, 0)
        view.traffic = self._take_traffic

    # --- what can be asked --------------------------------------------------------------------------

    def ready_models(self) -> list[Model]:
        return [
            model for model in self._view.models() if self._view.derived(model.id).status is ModelStatus.READY
        ]

    def model(self, name: str) -> Model:
        """The model that `name` means, in whatever state; raises `ModelNotFound`."""
        model = self._view.find(name)
        if model is None:
            raise errors.ModelNotFound(name)
        return model

    def require_ready(self, model: Model) -> None:
        """Raises what the contract says of every state but Ready."""
        if self._admission.choices(model.id):
            return  # a node serves it: no need to look at all of them
        now = self._view.derived(model.id)
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
                if any(report.state is ReplicaState.READY for _, report in self._view.holders(model.id)):
                    raise errors.NoNodeAvailable(
                        f"Model '{model.id}': {now.error or 'its nodes are offline'}"
                    )
                reason = now.error or "waiting for its download to begin"
                raise errors.ModelPending(f"Model '{model.id}' is registered: {reason}")

    # --- sending ------------------------------------------------------------------------------------

    async def send(self, call: Call, sink: Sink) -> RelayResult | None:
        """Have `call` answered into `sink`. Raises `LlbError` while the client has got nothing; None when the
        stream was begun by heartbeats alone and ended with an error event."""
        self._idle.clear()
        stay = self._overdue.begin()
        try:
            limits = call.tally.principal.limits
            if limits is None:  # most keys
                return await self._send(call, sink)
            with self._quota(call, limits):
                return await self._send(call, sink)
        except asyncio.CancelledError:
            if not stay.over or stay.task.uncancel():
                raise  # it was somebody else's wish, too
            await self._tell(
                call, sink, errors.EngineTimeout("The answer took longer than a request may take")
            )
        except errors.LlbError as error:
            await self._tell(call, sink, error)
        finally:
            self._overdue.end(stay)
            if not any(self._active.values()):
                self._idle.set()
        return None

    def _quota(self, call: Call, limits: KeyLimits) -> AbstractContextManager[None]:
        """Holds the request to the limits of its key."""
        answer_tokens = _most_tokens(call)
        if answer_tokens is None:
            answer_tokens = self.speeds.answer_tokens(call.model.id)
        return self._quotas.hold(call.tally, limits, Reserved(prompt_tokens(call.body), answer_tokens))

    @staticmethod
    async def _tell(call: Call, sink: Sink, error: errors.LlbError) -> None:
        """An error inside the stream that heartbeats have begun; raised where nothing was begun."""
        if not sink.started:
            raise error
        call.tally.error_code = error.code
        await sink.write(call.error_event(error))

    async def _send(self, call: Call, sink: Sink) -> RelayResult:
        """Claim, load, ask, relay; again on another node while the client has got nothing of an answer."""
        request = self._request(call)
        tried: frozenset[str] = frozenset()
        unheard: set[str] = set()  # that did not refuse: the way to them broke
        failure: errors.LlbError | None = None
        turn = 1
        while True:
            held = _Held()
            try:
                if call.stream:
                    async with Heartbeat(sink):
                        response = await self._begin(call, request, tried, held)
                else:
                    response = await self._begin(call, request, tried, held)
                return await self._relay(call, sink, request, held, response)
            except _OF_ONE_NODE as error:
                node = held.node
                if node is None:  # nobody is left to ask
                    turn += 1
                    if turn > MOST_TURNS or not any(map(self._reach.may_return, unheard)):
                        raise (failure or error) from None
                    tried -= unheard
                    unheard.clear()
                    continue
                if held.lease is not None and isinstance(error, errors.UpstreamError):
                    self._upstream.drop(_target_of(held.lease.host, held.lease.port, held.lease.api_key))
                    held.lease.report_broken()
                # The client has nothing of an answer yet, perhaps a few heartbeats.
                log.warning(
                    "node %s failed a request for %s: %s", node.hello.name, call.model.id, error.message
                )
                tried |= {node.id}
                if isinstance(error.__cause__, UpstreamFault):
                    unheard.add(node.id)
                failure = error
            finally:
                self._release(held)

    async def _begin(self, call: Call, request: Request, tried: frozenset[str], held: _Held) -> Response:
        """An answer whose head has come, of a node that `held` says with what was taken of it. Raises what the node or the
        way to it says, and `NoNodeAvailable`, `QueueFull` or `QueueTimeout` while there is none."""
        tally, model_id = call.tally, call.model.id
        asked_at = time.monotonic()
        try:
            if call.operation.takes_slot:
                held.claim = await self._admission.claim(
                    model_id,
                    key_id=call.key_id,
                    request=request,
                    exclude=tried,
                    body_bytes=len(call.body),
                ).take()
                node_id = held.claim.node_id
            else:
                node_id = self._admission.visit(model_id, tried)
        finally:
            placed_at = time.monotonic()
            tally.queued_s += placed_at - asked_at
        node = held.node = self._view.nodes[node_id]
        tally.node_id = node_id
        self._active[node_id] = self._active.get(node_id, 0) + 1
        if node_id == self._agent.node_id:
            held.lease = await self._agent.lease(
                model_id, deadline_s=self._load_timeout_s, keep_alive_s=call.keep_alive_s
            )
        if held.claim is None:
            await self._counting.acquire()
            held.counts = True
        held.watched = self._is_watched(call, request, node_id)
        tally.sent_at = time.monotonic()
        tally.loaded_s += tally.sent_at - placed_at
        try:
            body = watched(call.body, stream=call.stream) if held.watched else call.body
            response = await self._ask(call, node, held.lease, call.path, body)
            if response.status < 400:
                return response
            try:
                refused = await response.read(ERROR_BODY_BYTES, CONNECT_TIMEOUT_S)
            finally:
                response.close()
        except UpstreamFault as fault:
            raise as_error(fault) from fault
        raise refusal(response.status, response.headers, refused)

    def _is_watched(self, call: Call, request: Request, node_id: str) -> bool:
        """Whether the engine is to notice at once that the client left; of a short answer it makes no difference."""
        if not call.operation.writes:
            return False
        if call.stream:
            return call.head.return_progress is None  # else the client wants to see it, or not
        most_tokens = _most_tokens(call)
        if most_tokens is None:
            return True
        speed = self.speeds.of(node_id, call.model.id)
        # All of the prompt: whether a cache has it is only likely.
        return speed.seconds(request.context_tokens, most_tokens) > LONG_S

    def _ask(
        self,
        call: Call,
        node: Node,
        lease: Lease | None,
        path: bytes,
        body: bytes,
        header_timeout_s: float = REQUEST_LIMIT_S,
    ) -> Awaitable[Response]:
        """Ask the engine of this host that is leased, or another host, whose hop route leases one of its own."""
        if lease is not None:
            return self._upstream.request(
                _target_of(lease.host, lease.port, lease.api_key),
                b"POST",
                path,
                (_JSON, *call.tally.trace),
                body,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        query = f"?model={quote(call.model.id)}&load_s={self._load_timeout_s:g}"
        if call.keep_alive_s is not None:
            query += f"&keep_alive_s={call.keep_alive_s:g}"
        own_id = (b"x-request-id", call.tally.request_id.encode("ascii"))  # for that host's log
        return self._reach.request(
            node.id,
            b"POST",
            b"/hop" + path + query.encode("ascii"),
            (_JSON, *call.tally.trace, own_id),
            body,
            header_timeout_s=header_timeout_s,
        )

    async def _relay(
        self, call: Call, sink: Sink, request: Request, held: _Held, response: Response
    ) -> RelayResult:
        """Pass the answer on, and note what it was."""
        node, claim, tally = held.node, held.claim, call.tally
        assert node is not None  # noqa: S101  # it has answered
        whole = None if call.stream or not (held.watched and is_stream(response)) else WHOLE[call.path]()
        opening = self._opening(call, node, held.lease)
        sink.begin(
            response.status,
            response.content_type if whole is None else _JSON[1],
            node_name=node.hello.name,
            queued_ms=0 if claim is None else claim.queued_ms,
        )
        try:
            if whole is None:
                prelude = Prelude(opening) if held.watched else None
                result = await relay(response, sink, write_error=call.error_event, prelude=prelude)
            else:
                result = await relay_whole(response, sink, whole, opening=opening)
        finally:
            tally.first_byte_at = response.first_byte_at
            tally.received_bytes = response.received_bytes
        tally.usage = result.usage
        tally.error_code = None if result.error is None else result.error.code
        traffic = self._traffic.get(node.id)
        if traffic is None:
            traffic = self._traffic[node.id] = Traffic()
        traffic.add(result.usage.completion_tokens or 0)
        if claim is not None:
            self.speeds.measured(node.id, call.model.id, request, result.usage, busy=claim.busy)
        return result

    def _opening(self, call: Call, node: Node, lease: Lease | None) -> Opening | None:
        if call.path == CHAT_PATH:
            return _CHAT_OPENING
        if call.path != MESSAGES_PATH:
            return None

        async def count() -> int:
            async with self._counting:
                response = await self._ask(call, node, lease, COUNT_PATH, call.body, COUNT_TIMEOUT_S)
                return await read_count(response, COUNT_TIMEOUT_S)

        return MessageOpening(call.model.id, call.tally.request_id, count)

    def _release(self, held: _Held) -> None:
        """Give back what was taken for one node, in the opposite order. Nothing here awaits or fails."""
        if held.counts:
            self._counting.release()
        if held.lease is not None:
            held.lease.release()
        if held.node is not None:
            self._active[held.node.id] -= 1
        if held.claim is not None:
            held.claim.release()

    def _request(self, call: Call) -> Request:
        """What the choice of a node needs to know of `call`; its key only where there is a choice."""
        key = None
        if call.operation.writes and self._admission.choices(call.model.id) > 1:
            key = affinity_key(call.head, call.session, call.key_id)
        return self.speeds.request(call.model.id, prompt_tokens(call.body), _most_tokens(call), key)

    def _take_traffic(self, node_id: str) -> tuple[int, float]:
        """Requests answered by a node so far, and its tokens a second since this was last asked."""
        return self._traffic.setdefault(node_id, Traffic()).take(time.monotonic())

    # --- around it ----------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new and let running answers end for `timeout_s`."""
        self._admission.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    async def close(self) -> None:
        self._admission.close()
        self._overdue.close()
        await self._upstream.close()


def _most_tokens(call: Call) -> int | None:
    """How long its answer may become; None: as long as it likes."""
    if not call.operation.writes:
        return 0
    head = call.head
    limits = (head.max_tokens, head.max_completion_tokens, head.max_output_tokens, head.n_predict)
    return min([limit for limit in limits if limit is not None], default=None)
