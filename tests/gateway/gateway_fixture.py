"""A gateway over fakes: nodes, engine, lease and client; nothing in it has a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

from llb import errors
from llb.accounts.principal_watch import PrincipalWatch
from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.view import ClusterView
from llb.engine.pool import EnginePool
from llb.engine.spec import WorkerReady
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.admission.rate_limiter import ApiKeyRateLimiter
from llb.gateway.attempt_context import MAX_CONCURRENT_TOKEN_COUNTS, AttemptContext
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.engine_routes import Operation
from llb.gateway.http.client import HttpClient
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError, UpstreamClosed
from llb.gateway.inference_call import InferenceCall
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.running_call import RunningCall
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.spill.book import SpillBook
from llb.node.agent import NodeAgent
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.wire import InferenceFields, Model, Role

LOCAL = "local"
PATH = b"/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'
EVENTS = b'data: {"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}\n\ndata: [DONE]\n\n'
DOCUMENT = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
Chunk = bytes | TransportError


@dataclass
class FakeResponse:
    """Answer of one node: its chunks in order; an error in place of a chunk breaks it off."""

    chunks: list[Chunk]
    status: int = 200
    content_type: bytes = b"application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    first_byte_at: float | None = 0.0
    received_bytes: int = 0
    is_closed: bool = False

    async def read_chunk(self, _wait_s: float) -> bytes:
        await asyncio.sleep(0)
        chunk = self.chunks.pop(0) if self.chunks else b""
        if isinstance(chunk, TransportError):
            raise chunk
        return chunk

    def take_whole(self, _max_bytes: int) -> bytes:
        return b""

    async def read(self, _max_bytes: int, _timeout_s: float) -> bytes:
        return b"".join(chunk for chunk in self.chunks if isinstance(chunk, bytes))

    def mark_started(self) -> None: ...

    def reset_started(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


Outcome = FakeResponse | TransportError | Callable[[], Any]


@dataclass
class FakeBegunRequest:
    """Request that has no connection yet."""

    wait: Callable[[], Awaitable[UpstreamResponse]]
    response: None = None

    def close(self) -> None: ...


class FakeNodes:
    """The other hosts: each node's outcomes in order; the last one repeats."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[Outcome]] = {}
        self.requests: list[str] = []
        # Node, method, path, headers and body of each request.
        self.given: list[tuple[Any, ...]] = []
        self.options: dict[str, Any] = {}
        self.recovering: set[str] = set()

    def begin_request(self, node_id: str, *arguments: Any, **options: Any) -> FakeBegunRequest:
        self.given.append((node_id, *arguments))
        self.options = options
        return FakeBegunRequest(lambda: self._request(node_id))

    async def _request(self, node_id: str) -> UpstreamResponse:
        self.requests.append(node_id)
        outcomes = self.outcomes[node_id]
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, TransportError):
            raise outcome
        if callable(outcome):
            outcome = await outcome()
        return cast(UpstreamResponse, outcome)

    def may_recover(self, node_id: str) -> bool:
        return node_id in self.recovering


UNREACHABLE_WORKER = WorkerReady(host="127.0.0.1", port=1, context_length=4096, slots=1)


@dataclass
class FakeLease:
    """Lease of the engine of this host."""

    worker: WorkerReady = UNREACHABLE_WORKER
    api_key: str = "sk-engine"
    is_released: bool = False
    suspected_failures: int = 0
    blame: Blame | None = None

    def release(self) -> None:
        self.is_released = True

    def report_suspected_failure(self) -> None:
        self.suspected_failures += 1

    def begin_request(self, _body_bytes: int, _speed: EngineSpeed) -> None: ...

    def follow_answer(self, _answer: object) -> None: ...

    async def wait_for_blame(self, _timeout_s: float) -> Blame | None:
        return self.blame


class FakeSink:
    """The client."""

    def __init__(self) -> None:
        self.started = False
        self.node_name: str | None = None
        self.queued_ms = 0
        self.body = b""

    def start_response(self, _status: int, _content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.node_name, self.queued_ms = node_name, queued_ms

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self.started = True
        self.body += data


class Gateway:
    """A dispatcher with its fakes.

    `assert_idle` finds a slot, lease, permit or counter that was not given back.
    """

    def __init__(self, *node_ids: str) -> None:
        self.nodes = FakeNodes()
        self.admission = AdmissionController(8, 1.0)
        self.traffic = NodeTraffic()
        self.leases: list[FakeLease] = []
        # Whether the model is in memory on this host, and its engine.
        self.is_loaded, self.worker = True, UNREACHABLE_WORKER
        self.engine_outcomes: list[Outcome] = []
        # Target, method, path, headers and body of each request to the engine of this host.
        self.given: list[tuple[Any, ...]] = []
        self.closed_targets: list[object] = []
        for node_id in node_ids:
            self.admission.set_capacity(node_id, "m", 1)
            self.nodes.outcomes[node_id] = [FakeResponse([DOCUMENT])]
        view = SimpleNamespace(
            nodes={
                node_id: SimpleNamespace(
                    id=node_id, hello=SimpleNamespace(name=f"host-{node_id}"), engines={}
                )
                for node_id in node_ids
            }
        )
        performance = PerformanceModel()
        self.context = AttemptContext(
            view=cast(ClusterView, view),
            admission=self.admission,
            http_client=cast(
                HttpClient,
                SimpleNamespace(
                    begin_request=self._begin_request,
                    close_idle=self.closed_targets.append,
                    close=self._close,
                ),
            ),
            agent=cast(NodeAgent, SimpleNamespace(node_id=LOCAL, acquire_lease=self._acquire_lease)),
            engine_pool=cast(EnginePool, SimpleNamespace(lease_loaded=self._lease_loaded)),
            node_connections=cast(NodeConnections, self.nodes),
            performance=performance,
            traffic=self.traffic,
            endpoints=EndpointContext(
                EndpointRegistry(self.admission, performance),
                cast(HttpClient, None),
                redact=str,
                ensure_listed=AsyncMock(),
            ),
            spill_book=SpillBook(cast(Database, None)),
            spend=cast(SpendControl, None),
            get_load_timeout_s=lambda: 5.0,
        )
        self.watched: list[RunningCall] = []
        self.dispatcher = self.make_dispatcher()

    def make_dispatcher(self) -> Dispatcher:
        watch = SimpleNamespace(watch=self._watch_work, end=self.watched.remove)
        return Dispatcher(self.context, ApiKeyRateLimiter(), cast(PrincipalWatch, watch))

    def _lease_loaded(self, _model_id: str, _keep_alive: object) -> FakeLease | None:
        return self.make_lease() if self.is_loaded else None

    async def _acquire_lease(self, _model_id: str, **_options: Any) -> FakeLease:
        return self.make_lease()

    def make_lease(self) -> FakeLease:
        self.leases.append(FakeLease(self.worker))
        return self.leases[-1]

    def _begin_request(self, *arguments: Any, **_options: Any) -> Any:
        self.given.append(arguments)
        return FakeBegunRequest(self._request_engine)

    async def _request_engine(self) -> UpstreamResponse:
        outcome = self.engine_outcomes.pop(0)
        if isinstance(outcome, TransportError):
            raise outcome
        return cast(UpstreamResponse, outcome)

    async def _close(self) -> None: ...

    def _watch_work(self, work: RunningCall, _principal: Principal) -> RunningCall:
        self.watched.append(work)
        return work

    def revoke_key(self) -> None:
        """End everything that is open, as a revocation does."""
        for work in self.watched:
            if work.error is not None:
                continue
            work.error = errors.InvalidApiKey("The API key was ended or revoked meanwhile")
            work.on_ended()

    def assert_idle(self) -> None:
        assert [slot.busy for model in self.admission.snapshot() for slot in model.nodes] == [
            0 for model in self.admission.snapshot() for _ in model.nodes
        ]
        assert self.traffic.is_idle
        assert self.watched == []
        assert all(lease.is_released for lease in self.leases)
        assert self.context.token_count_permits._value == MAX_CONCURRENT_TOKEN_COUNTS


def make_call(
    *, stream: bool = False, operation: Operation = Operation.CHAT, **options: Any
) -> InferenceCall:
    principal = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)
    return InferenceCall(
        record=RequestRecord(1, "request-1", principal, PATH.decode(), 0.0),
        model=cast(Model, SimpleNamespace(id="m", is_external=False, context_length=None)),
        path=PATH if operation is Operation.CHAT else b"/v1/messages/count_tokens",
        body=b'{"input":"a text"}' if operation is Operation.EMBEDDINGS else BODY,
        # Progress that the client asks for itself is not filtered: the fakes stream none.
        head=InferenceFields(model="m", max_tokens=1, return_progress=True),
        operation=operation,
        stream=stream,
        key_id="key",
        **options,
    )


@asynccontextmanager
async def gateway_of(*node_ids: str) -> AsyncIterator[Gateway]:
    gateway = Gateway(*node_ids)
    try:
        yield gateway
        gateway.assert_idle()
    finally:
        await gateway.dispatcher.close()


def broken() -> FakeResponse:
    """An answer that ends before its first byte."""
    return FakeResponse([UpstreamClosed(before_first_byte=False)])
