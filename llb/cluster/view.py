"""The cluster as the balancer sees it now: nodes, their replicas, and what follows for each model. In memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec import structs

from llb.catalog import Catalog
from llb.cluster.changes import Changes
from llb.decide import placement, status
from llb.events import Bus
from llb.store.nodes import NodeRecord
from llb.store.registrations import Registration
from llb.wire import (
    EngineReport,
    EngineState,
    Event,
    Heartbeat,
    Hello,
    HfStats,
    Meters,
    MetricsUpdated,
    Model,
    ModelStatus,
    ModelStatusChanged,
    ModelWithStatus,
    NodeModel,
    NodeStatus,
    NodeStatusChanged,
    NodeView,
    ReachView,
    ReachWay,
    ReplicaDownload,
    ReplicaReport,
    ReplicaState,
    ReplicaView,
    blank_hello,
)

CLAIM_S = 600.0  # how long a node that went away is waited for before another one takes over what only it was to hold


@dataclass
class Node:
    """One node and what it last said of itself."""

    id: str
    hello: Hello
    status: NodeStatus = NodeStatus.ONLINE
    draining: bool = False
    tags: tuple[str, ...] = ()
    last_seen: float = field(default_factory=time.time)
    away_since: float | None = None  # by the view's clock; None while it is online
    heartbeat: Heartbeat | None = None
    metrics: MetricsUpdated | None = None  # what was told at its last heartbeat
    replicas: dict[str, ReplicaReport] = field(default_factory=dict)
    engines: dict[str, EngineReport] = field(default_factory=dict)

    @property
    def online(self) -> bool:
        return self.status is NodeStatus.ONLINE

    @property
    def slots(self) -> int:
        """How many requests its loaded engines answer at the same time."""
        return sum(engine.slots for engine in self.engines.values() if engine.state in _SERVING)


class ClusterView:
    """Takes what nodes report, derives what users see and publishes it when it has changed."""

    def __init__(
        self,
        catalog: Catalog,
        bus: Bus[Event],
        stats_of: Callable[[str], HfStats | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.catalog = catalog
        self.nodes: dict[str, Node] = {}
        self.registrations: Mapping[str, Registration] = {}
        self.waiting: dict[str, str] = {}  # model id → what its resolution waits for
        self.placed: Callable[[str], frozenset[str]] = lambda _model_id: frozenset()
        self.active_requests: Callable[[str], int] = lambda _node_id: 0
        self.traffic: Callable[[str], tuple[int, float]] = lambda _node_id: (0, 0.0)
        self.address_of: Callable[[str], str | None] = lambda _node_id: None
        self.reach_of: Callable[[str], ReachView] = lambda _node_id: ReachView(way=ReachWay.NONE)
        self.on_node_changed: Callable[[Node], None] = lambda _node: None
        self._bus = bus
        self._stats_of = stats_of
        self._clock = clock
        self._model_changes: Changes[ModelStatusChanged] = Changes(
            self.status_event,
            bus.publish,
            state_of=lambda event: (event.status, event.error, event.available_nodes),
        )
        self._node_changes: Changes[NodeStatusChanged] = Changes(
            lambda node_id: self.node_event(self.nodes[node_id]), bus.publish, state_of=_without_figures
        )

    # --- what comes in ------------------------------------------------------------------------------

    def hello(self, hello: Hello, *, draining: bool = False, tags: tuple[str, ...] = ()) -> Node:
        """A node is there, with its whole state; what was known of it before is replaced.

        But its heartbeat: until the next one comes, which is soon, its room is what it was.
        """
        before = self.nodes.get(hello.node_id)
        heartbeat = None if before is None else before.heartbeat
        node = Node(id=hello.node_id, hello=hello, draining=draining, tags=tags, heartbeat=heartbeat)
        self.nodes[node.id] = node
        for report in hello.replicas:
            self._take(node, report)
        self._node_changes.look(node.id)
        self.on_node_changed(node)
        for model_id in {*node.replicas, *(before.replicas if before else ())}:
            self.refresh(model_id)
        return node

    def beat(self, node_id: str, heartbeat: Heartbeat) -> None:
        node = self.nodes[node_id]
        node.heartbeat = heartbeat
        node.last_seen = time.time()
        node.engines = {engine.model_id: engine for engine in heartbeat.engines}
        self._node_changes.look(node_id)
        self.on_node_changed(node)
        meters = heartbeat.meters
        requests, tokens_per_second = self.traffic(node_id)
        node.metrics = MetricsUpdated(
            node_id=node_id,
            cpu_usage=meters.cpu_usage,
            memory_usage=meters.memory_usage,
            gpu_usage=meters.gpu_usage,
            gpu_memory_usage=meters.gpu_memory_usage,
            memory_used_bytes=heartbeat.memory_used_bytes,
            disk_free_bytes=heartbeat.disk_free_bytes,
            slots=node.slots,
            request_count=requests,
            active_requests=self.active_requests(node_id),
            tokens_per_second=tokens_per_second,
        )
        self._bus.publish(node.metrics)
        for model_id in self.registrations:
            self.refresh(model_id)  # its memory and disk decide what can be placed

    def remember(self, record: NodeRecord) -> None:
        """A node that belongs here and has not said hello yet: shown as it was when it last did."""
        hello = record.hello or blank_hello(record.id)
        self.nodes[record.id] = Node(
            id=record.id,
            hello=structs.replace(hello, name=record.name),
            status=NodeStatus.OFFLINE if record.hello is not None else NodeStatus.JOINING,
            draining=record.draining,
            tags=record.tags,
            last_seen=record.last_seen or record.created_at,
            away_since=self._clock(),
            replicas={report.model_id: structs.replace(report, engine=None) for report in hello.replicas},
        )
        self._node_changes.look(record.id)

    def node_changed(self, record: NodeRecord) -> None:
        """A node was renamed, tagged, or is to be drained or no longer."""
        node = self.nodes.get(record.id)
        if node is None:
            return
        node.hello = structs.replace(node.hello, name=record.name)
        node.tags, node.draining = record.tags, record.draining
        self._node_changes.look(record.id)
        self.on_node_changed(node)
        for model_id in node.replicas:
            self.refresh(model_id)

    def remove(self, node_id: str) -> None:
        """A node no longer belongs here."""
        node = self.nodes.get(node_id)
        if node is None:
            return
        node.status = NodeStatus.REMOVED
        self._node_changes.look(node_id)
        self.on_node_changed(node)
        del self.nodes[node_id]
        self._node_changes.forget(node_id)
        for model_id in node.replicas:
            self.refresh(model_id)

    def reach_changed(self, node_id: str) -> None:
        """The way to a node was found, or lost."""
        node = self.nodes.get(node_id)
        if node is not None:
            self._node_changes.look(node_id)
            self.on_node_changed(node)

    def replica(self, node_id: str, report: ReplicaReport) -> None:
        node = self.nodes[node_id]
        node.last_seen = time.time()
        self._take(node, report)
        self._node_changes.look(node_id)
        self.on_node_changed(node)
        self.refresh(report.model_id)

    def offline(self, node_id: str) -> None:
        """The link to a node has ended: what it holds cannot be used until it says hello again."""
        node = self.nodes.get(node_id)
        if node is not None and node.online:
            node.status = NodeStatus.OFFLINE
            node.away_since = self._clock()
            node.engines.clear()  # what it has in memory, it tells when it is back
            self._node_changes.look(node_id)
            self.on_node_changed(node)
            for model_id in node.replicas:
                self.refresh(model_id)

    @staticmethod
    def _take(node: Node, report: ReplicaReport) -> None:
        if report.engine is not None:
            node.engines[report.model_id] = report.engine
        else:
            node.engines.pop(report.model_id, None)
        if report.state is ReplicaState.GONE:
            node.replicas.pop(report.model_id, None)
        else:
            node.replicas[report.model_id] = report

    def registration_changed(self, model_id: str) -> None:
        """A registration was made, resolved or marked as deleted."""
        for node in self.online():
            self.on_node_changed(node)
        self.refresh(model_id)

    # --- what follows -------------------------------------------------------------------------------

    def derived(self, model_id: str) -> status.Derived:
        """A model's status and numbers as they are at this moment."""
        registration = self.registrations.get(model_id)
        if registration is None or not registration.active:
            return status.derive(None, ())
        placed = self.placed(model_id)
        fact = status.RegistrationFact(
            attempt=registration.attempt,
            resolved=registration.resolved is not None,
            placed=any(self.nodes[node_id].online for node_id in placed),
            reachable=bool(self.online()),
            error=registration.error,
            waiting=self.waiting.get(model_id),
        )
        return status.derive(
            fact,
            [
                status.ReplicaFact(
                    node_name=node.hello.name, online=node.online, wanted=node.id in placed, report=report
                )
                for node, report in self.holders(model_id)
            ],
        )

    def refresh(self, model_id: str) -> None:
        """Publish the model's status if it differs from what was published; progress alone is coalesced."""
        if model_id in self._model_changes or self.derived(model_id).status is not ModelStatus.AVAILABLE:
            self._model_changes.look(model_id)

    def close(self) -> None:
        self._model_changes.close()
        self._node_changes.close()

    def status_event(self, model_id: str) -> ModelStatusChanged:
        now = self.derived(model_id)
        return ModelStatusChanged(
            model_id=model_id,
            status=now.status,
            progress=now.progress,
            downloaded_bytes=now.downloaded_bytes,
            total_bytes=now.total_bytes,
            bytes_per_second=now.bytes_per_second,
            eta_seconds=now.eta_s,
            available_nodes=now.available_nodes,
            error=now.error,
        )

    def node_event(self, node: Node) -> NodeStatusChanged:
        return NodeStatusChanged(
            node_id=node.id,
            name=node.hello.name,
            status=node.status,
            draining=node.draining,
            tags=node.tags,
            reach=self.reach_of(node.id),
            models=tuple(
                _node_model(report, node.engines.get(model_id))
                for model_id, report in sorted(node.replicas.items())
            ),
        )

    # --- questions ----------------------------------------------------------------------------------

    def holders(self, model_id: str) -> Iterator[tuple[Node, ReplicaReport]]:
        """Every node that says something of this model, online or not."""
        for node in self.nodes.values():
            report = node.replicas.get(model_id)
            if report is not None:
                yield node, report

    def name_of(self, node_id: str) -> str:
        """What a node is called; its id where it does not belong here any more."""
        node = self.nodes.get(node_id)
        return node_id if node is None else node.hello.name

    def online(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.online]

    def rooms(self, model_id: str | None = None) -> list[placement.Room]:
        """What the online nodes offer, as placement wants it; a node's disk is known from its first heartbeat on."""
        return [_room(node, model_id) for node in self.online() if node.heartbeat is not None]

    def away(self, model_id: str) -> list[placement.Room]:
        """The nodes that hold a model and went offline only a short time ago, or have not come back since the start."""
        now = self._clock()
        return [
            _room(node, model_id)
            for node, _ in self.holders(model_id)
            if node.away_since is not None and now - node.away_since < CLAIM_S
        ]

    def model(self, model_id: str) -> Model | None:
        """The model of this id: the catalogue's entry, else the registered one whose entry has left it."""
        known = self.catalog.get(model_id)
        if known is not None:
            return known
        registration = self.registrations.get(model_id)
        return registration.entry if registration is not None and registration.active else None

    def find(self, name: str) -> Model | None:
        """The model that a program means by `name`: an id, or what `Catalog.find` knows besides."""
        return self.catalog.find(name) or self.model(name)

    def models(self) -> list[Model]:
        """All models in catalogue order, then the registered ones that the catalogue no longer has."""
        listed = {model.id for model in self.catalog.models}
        left = [
            registration.entry
            for model_id, registration in self.registrations.items()
            if model_id not in listed and registration.active
        ]
        return [*self.catalog.models, *left]

    def describe(self, model: Model, *, paths: bool) -> ModelWithStatus:
        """One model as the API shows it; where its files are only with `paths`."""
        now = self.derived(model.id)
        registered = model.id in self.registrations
        return ModelWithStatus(
            model=model,
            status=now.status,
            supported=self.catalog.get(model.id) is not None,
            hf_stats=self._stats_of(model.repo),
            download_progress=now.progress,
            downloaded_bytes=now.downloaded_bytes,
            total_bytes=now.total_bytes,
            bytes_per_second=now.bytes_per_second,
            eta_seconds=now.eta_s,
            available_nodes=now.available_nodes,
            pinned=registered and self.registrations[model.id].pinned,
            replicas=tuple(
                ReplicaView(
                    node_id=node.id,
                    node_name=node.hello.name,
                    state=report.state,
                    progress=report.progress,
                    error=report.error,
                    path=report.path if paths else None,
                    engine=node.engines.get(model.id),
                    last_used=report.last_used,
                )
                for node, report in self.holders(model.id)
            )
            if registered
            else (),
            fit=placement.fit(model.required_memory_bytes, self.rooms(model.id)),
            error=now.error,
        )

    def node_view(self, node: Node, *, paths: bool, addresses: bool = False) -> NodeView:
        """One node as the API shows it; where its files are only with `paths`, where it is only with `addresses`."""
        hello, beat = node.hello, node.heartbeat
        return NodeView(
            id=node.id,
            name=hello.name,
            status=node.status,
            draining=node.draining,
            address=self.address_of(node.id) if addresses else None,  # the local node has none
            reach=self.reach_of(node.id),
            version=hello.version,
            platform=hello.platform,
            tags=node.tags,
            hardware=beat.hardware if beat else hello.hardware,
            meters=beat.meters if beat else _NO_METERS,
            memory_budget_bytes=hello.memory_budget_bytes,
            memory_used_bytes=beat.memory_used_bytes if beat else 0,
            disk_free_bytes=beat.disk_free_bytes if beat else 0,
            max_downloads=hello.max_downloads,
            active_requests=self.active_requests(node.id),
            slots=node.slots,
            engines=tuple(node.engines.values()),
            replicas=tuple(
                report if paths else structs.replace(report, path=None) for report in node.replicas.values()
            ),
            last_seen=node.last_seen,
        )


_SERVING = (EngineState.READY, EngineState.BUSY)
_COMING = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)
_NO_METERS = Meters()


def _room(node: Node, model_id: str | None) -> placement.Room:
    report = None if model_id is None else node.replicas.get(model_id)
    return placement.Room(
        node_id=node.id,
        node_name=node.hello.name,
        budget_bytes=node.hello.memory_budget_bytes,
        vram_bytes=node.hello.vram_budget_bytes,
        disk_free_bytes=0 if node.heartbeat is None else node.heartbeat.disk_free_bytes,
        draining=node.draining,
        holds=report is not None,
        ready=report is not None and report.state is ReplicaState.READY,
        away=not node.online,
    )


def _node_model(report: ReplicaReport, engine: EngineReport | None) -> NodeModel:
    """A replica in a word or two: what happens to it is its engine's state once it is ready and loaded, else its own."""
    if engine is None:
        return NodeModel(report.model_id, report.state.value, download=_download(report))
    ready = report.state is ReplicaState.READY
    return NodeModel(
        report.model_id,
        engine.state.value if ready else report.state.value,
        engine=engine.state,
        engine_progress=engine.progress,
        download=_download(report),
    )


def _download(report: ReplicaReport) -> ReplicaDownload | None:
    if report.state not in _COMING:
        return None
    return ReplicaDownload(
        downloaded_bytes=report.downloaded_bytes,
        total_bytes=report.total_bytes,
        bytes_per_second=report.bytes_per_second,
        error=report.error,
    )


def _without_figures(event: NodeStatusChanged) -> object:
    """What of an event must not wait."""
    return (
        structs.replace(event, models=(), reach=None),
        event.reach and event.reach.way,
        tuple(
            (model.model_id, model.lifecycle_status, model.engine, model.download and model.download.error)
            for model in event.models
        ),
    )
