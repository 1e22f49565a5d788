"""Cluster view: the current state of nodes, replicas and models, in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msgspec import Struct, field, structs

from llb.base.events import EventBus, Topic
from llb.catalog import Catalog, index_by_name
from llb.cluster import model_views
from llb.cluster.change_publisher import ChangePublisher, PublishThrottle
from llb.cluster.node_traffic import NodeTraffic
from llb.policy import placement, status
from llb.store.tables.nodes import NodeRecord
from llb.store.tables.registrations import Registration
from llb.wire import (
    TEMPLATE_CAPABILITIES,
    Capability,
    EngineReport,
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
    NodeStatus,
    NodeStatusChanged,
    NodeView,
    PartialDownload,
    PartialReport,
    ReachView,
    ReachWay,
    ReplicaReport,
    ReplicaState,
    ReplicaView,
    TemplateSupport,
    placeholder_hello,
)

# Wait for an offline node before another node takes over the models that only it held.
FAILOVER_GRACE_S = 600.0


class Node(Struct):
    """One node with its last reports."""

    id: str
    hello: Hello
    status: NodeStatus = NodeStatus.ONLINE
    draining: bool = False
    tags: tuple[str, ...] = ()
    last_seen: float = field(default_factory=time.time)
    # Time of the view's clock; None while the node is online.
    offline_since: float | None = None
    heartbeat: Heartbeat | None = None
    # What was published at the last heartbeat.
    metrics: MetricsUpdated | None = None
    replicas: dict[str, ReplicaReport] = field(default_factory=dict)
    # Bytes that cancelled downloads left, by model.
    partials: dict[str, int] = field(default_factory=dict)
    engines: dict[str, EngineReport] = field(default_factory=dict)

    @property
    def is_online(self) -> bool:
        return self.status is NodeStatus.ONLINE

    @property
    def slots(self) -> int:
        """Number of requests that the loaded engines answer concurrently."""
        return sum(
            engine.slots for engine in self.engines.values() if engine.state in model_views.SERVING_STATES
        )


class ClusterView:
    """State of the cluster from the reports of nodes; derives the status of models and publishes changes."""

    def __init__(
        self,
        catalog: Catalog,
        event_bus: EventBus[Event],
        hub_stats_of: Callable[[str], HfStats | None],
        *,
        address_of: Callable[[str], str | None] = lambda _node_id: None,
        reach_view_of: Callable[[str], ReachView] = lambda _node_id: ReachView(way=ReachWay.NONE),
        traffic: NodeTraffic | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.catalog = catalog
        self.nodes: dict[str, Node] = {}
        # Written by `Registrations` only.
        self.registrations: dict[str, Registration] = {}
        # Model id → the reason why its resolution waits.
        self.waiting_reasons: dict[str, str] = {}
        self.node_changed: Topic[Node] = Topic()
        self.traffic = NodeTraffic() if traffic is None else traffic
        self._address_of = address_of
        self._reach_view_of = reach_view_of
        self._event_bus = event_bus
        self._hub_stats_of = hub_stats_of
        self._clock = clock
        # Shared, so that the figures of a model and of its nodes agree.
        self._throttle = PublishThrottle()
        self._model_publisher: ChangePublisher[ModelStatusChanged] = ChangePublisher(
            self.build_status_event,
            event_bus.publish,
            self._throttle,
            urgent_part_of=lambda event: (
                event.status,
                event.error,
                event.available_nodes,
                event.partial_bytes,
            ),
        )
        self._node_publisher: ChangePublisher[NodeStatusChanged] = ChangePublisher(
            lambda node_id: self.build_node_event(self.nodes[node_id]),
            event_bus.publish,
            self._throttle,
            urgent_part_of=model_views.urgent_part_of,
        )

    def replace_catalog(self, catalog: Catalog) -> None:
        """Offer the models of `catalog` from now on. Registered models that it lacks stay.

        Every subscriber starts from a new snapshot, because no event tells of new models.
        """
        self.catalog = catalog
        self._event_bus.require_snapshots()

    # --- reports ------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello, *, draining: bool = False, tags: tuple[str, ...] = ()) -> Node:
        """Replace the state of a node with that of its hello, and mark it online.

        Its last heartbeat is kept, for its capacity until the next one, with the hardware of the hello: the
        node may have changed to another build of llama.cpp.
        """
        previous = self.nodes.get(hello.node_id)
        heartbeat = None if previous is None else previous.heartbeat
        if heartbeat is not None:
            heartbeat = structs.replace(heartbeat, hardware=hello.hardware)
        node = Node(id=hello.node_id, hello=hello, draining=draining, tags=tags, heartbeat=heartbeat)
        self.nodes[node.id] = node
        for report in hello.replicas:
            self._apply_replica_report(node, report)
        self._node_publisher.publish_if_changed(node.id)
        self.node_changed.publish(node)
        for model_id in {*node.replicas, *(previous.replicas if previous else ())}:
            self.publish_model_status(model_id)
        return node

    def on_heartbeat(self, node_id: str, heartbeat: Heartbeat) -> None:
        node = self.nodes[node_id]
        node.heartbeat = heartbeat
        if heartbeat.slots_per_engine not in (None, node.hello.slots_per_engine):
            node.hello = structs.replace(node.hello, slots_per_engine=heartbeat.slots_per_engine)
        node.last_seen = time.time()
        node.engines = {engine.model_id: engine for engine in heartbeat.engines}
        self._set_partials(node, {each.model_id: each.size_bytes for each in heartbeat.partials})
        self._node_publisher.publish_if_changed(node_id)
        self.node_changed.publish(node)
        meters = heartbeat.meters
        requests, tokens_per_second = self.traffic.sample(node_id)
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
            active_requests=self.traffic.active_requests(node_id),
            tokens_per_second=tokens_per_second,
        )
        self._event_bus.publish(node.metrics)
        for model_id in self.registrations:
            # Placement depends on the node's free memory and disk.
            self.publish_model_status(model_id)

    def restore_offline(self, record: NodeRecord) -> None:
        """Add a member that has not sent a hello since the start, in its state of the last hello."""
        hello = record.hello or placeholder_hello(record.id)
        self.nodes[record.id] = Node(
            id=record.id,
            hello=structs.replace(hello, name=record.name),
            status=NodeStatus.OFFLINE if record.hello is not None else NodeStatus.JOINING,
            draining=record.draining,
            tags=record.tags,
            last_seen=record.last_seen or record.created_at,
            offline_since=self._clock(),
            replicas={report.model_id: structs.replace(report, engine=None) for report in hello.replicas},
        )
        self._node_publisher.publish_if_changed(record.id)

    def update_node(self, record: NodeRecord) -> None:
        """Apply the name, tags and draining of a stored node."""
        node = self.nodes.get(record.id)
        if node is None:
            return
        node.hello = structs.replace(node.hello, name=record.name)
        node.tags, node.draining = record.tags, record.draining
        self._node_publisher.publish_if_changed(record.id)
        self.node_changed.publish(node)
        for model_id in node.replicas:
            self.publish_model_status(model_id)

    def remove_node(self, node_id: str) -> None:
        """Remove a node that is no longer a member."""
        node = self.nodes.get(node_id)
        if node is None:
            return
        node.status = NodeStatus.REMOVED
        self._node_publisher.publish_if_changed(node_id)
        self.node_changed.publish(node)
        del self.nodes[node_id]
        self._node_publisher.forget(node_id)
        for model_id in node.replicas:
            self.publish_model_status(model_id)

    def on_route_changed(self, node_id: str) -> None:
        """Publish that the route to a node was found or lost."""
        node = self.nodes.get(node_id)
        if node is not None:
            self._node_publisher.publish_if_changed(node_id)
            self.node_changed.publish(node)

    def on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        node = self.nodes[node_id]
        node.last_seen = time.time()
        self._apply_replica_report(node, report)
        self._node_publisher.publish_if_changed(node_id)
        self.node_changed.publish(node)
        self.publish_model_status(report.model_id)
        if report.state is ReplicaState.GONE and report.partial_bytes:
            self._set_partials(node, {**node.partials, report.model_id: report.partial_bytes})

    def mark_offline(self, node_id: str) -> None:
        """Mark a node offline because its link has ended; its replicas are unusable until its next hello."""
        node = self.nodes.get(node_id)
        if node is not None and node.is_online:
            node.status = NodeStatus.OFFLINE
            node.offline_since = self._clock()
            # Its next hello and heartbeat list the loaded engines again.
            node.engines.clear()
            self._node_publisher.publish_if_changed(node_id)
            self.node_changed.publish(node)
            for model_id in node.replicas:
                self.publish_model_status(model_id)

    @staticmethod
    def _apply_replica_report(node: Node, report: ReplicaReport) -> None:
        if report.engine is not None:
            node.engines[report.model_id] = report.engine
        else:
            node.engines.pop(report.model_id, None)
        if report.state is ReplicaState.GONE:
            node.replicas.pop(report.model_id, None)
        else:
            node.replicas[report.model_id] = report

    def on_registration_changed(self, model_id: str) -> None:
        """Publish the effects of a registration that was added, resolved or marked as deleted."""
        for node in self.online_nodes():
            self.node_changed.publish(node)
        self.publish_model_status(model_id)

    def forget_partial(self, node_id: str, model_id: str) -> None:
        """Record that a node has removed what a cancelled download left."""
        node = self.nodes.get(node_id)
        if node is not None:
            self._set_partials(node, {each: size for each, size in node.partials.items() if each != model_id})

    def _set_partials(self, node: Node, partials: dict[str, int]) -> None:
        changed = {
            model_id
            for model_id in {*partials, *node.partials}
            if partials.get(model_id) != node.partials.get(model_id)
        }
        node.partials = partials
        for model_id in changed:
            if self.get_model(model_id) is not None:
                self._model_publisher.publish_if_changed(model_id)

    # --- derived state ------------------------------------------------------------------------------

    def status_of(self, model_id: str) -> status.DerivedStatus:
        """The current status and figures of a model."""
        registration = self.registrations.get(model_id)
        if registration is None or not registration.is_active:
            return status.derive_status(None, ())
        assigned = self.assigned_nodes_of(model_id)
        snapshot = status.RegistrationSnapshot(
            attempt=registration.attempt,
            resolved=registration.resolved is not None,
            has_assigned_node=any(self.nodes[node_id].is_online for node_id in assigned),
            has_online_node=bool(self.online_nodes()),
            error=registration.error,
            waiting_reason=self.waiting_reasons.get(model_id),
        )
        return status.derive_status(
            snapshot,
            [
                status.ReplicaSnapshot(
                    node_name=node.hello.name,
                    online=node.is_online,
                    assigned=node.id in assigned,
                    report=report,
                )
                for node, report in self.replicas_of(model_id)
            ],
        )

    def publish_model_status(self, model_id: str) -> None:
        """Publish the model's status if it has changed; changes of progress alone are throttled."""
        if model_id in self._model_publisher or self.status_of(model_id).status is not ModelStatus.AVAILABLE:
            self._model_publisher.publish_if_changed(model_id)

    def close(self) -> None:
        self._throttle.close()

    def build_status_event(self, model_id: str) -> ModelStatusChanged:
        derived = self.status_of(model_id)
        is_registered = derived.status is not ModelStatus.AVAILABLE
        return ModelStatusChanged(
            model_id=model_id,
            status=derived.status,
            progress=derived.progress,
            downloaded_bytes=derived.downloaded_bytes,
            total_bytes=derived.total_bytes,
            bytes_per_second=derived.bytes_per_second,
            eta_seconds=derived.eta_s,
            available_nodes=derived.available_nodes,
            error=derived.error,
            partial_bytes=0 if is_registered else sum(size for _, size in self.partials_of(model_id)),
        )

    def build_node_event(self, node: Node) -> NodeStatusChanged:
        return NodeStatusChanged(
            node_id=node.id,
            name=node.hello.name,
            status=node.status,
            draining=node.draining,
            tags=node.tags,
            reach=self._reach_view_of(node.id),
            models=tuple(
                model_views.build_node_model(report, node.engines.get(model_id))
                for model_id, report in sorted(node.replicas.items())
            ),
        )

    # --- queries ------------------------------------------------------------------------------------

    def replicas_of(self, model_id: str) -> Iterator[tuple[Node, ReplicaReport]]:
        """Nodes with a replica of this model, online or not, and the last report of each."""
        for node in self.nodes.values():
            report = node.replicas.get(model_id)
            if report is not None:
                yield node, report

    def partials_of(self, model_id: str) -> list[tuple[Node, int]]:
        """Online nodes that keep bytes of a cancelled download of this model."""
        return [
            (node, size)
            for node in self.online_nodes()
            if (size := node.partials.get(model_id)) and model_id not in node.replicas
        ]

    def _describe_partial(self, model: Model) -> PartialDownload | None:
        registration = self.registrations.get(model.id)
        files = registration.resolved if registration is not None else None
        total_bytes = sum(file.size_bytes for file in files) if files else model.size_bytes
        return model_views.describe_partial(
            total_bytes, [(node.id, node.hello.name, size) for node, size in self.partials_of(model.id)]
        )

    def node_name_of(self, node_id: str) -> str:
        """The name of a node, or its id if it is no longer a member."""
        node = self.nodes.get(node_id)
        return node_id if node is None else node.hello.name

    def online_nodes(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_online]

    def node_capacities(self, model_id: str | None = None) -> list[placement.NodeCapacity]:
        """Capacities of the online nodes that have sent a heartbeat, without which their disk is unknown."""
        return [_node_capacity(node, model_id) for node in self.online_nodes() if node.heartbeat is not None]

    def offline_capacities(self, model_id: str) -> list[placement.NodeCapacity]:
        """Capacities of the nodes that hold a model and went offline less than `FAILOVER_GRACE_S` ago.

        After a start this includes the nodes that have not reconnected yet.
        """
        now = self._clock()
        return [
            _node_capacity(node, model_id)
            for node, _ in self.replicas_of(model_id)
            if node.offline_since is not None and now - node.offline_since < FAILOVER_GRACE_S
        ]

    def assigned_nodes_of(self, model_id: str) -> frozenset[str]:
        """Ids of the nodes that this model is assigned to, including nodes that went offline recently."""
        registration = self.registrations.get(model_id)
        if registration is None or not registration.is_active:
            return frozenset()
        model = registration.entry
        size_bytes = sum(file.size_bytes for file in registration.resolved or ()) or model.size_bytes
        capacities = self.node_capacities(model_id)
        allowed = self._allowed_nodes_of(registration)
        if registration.replicas == "all":
            capacities = [node for node in capacities if allowed is None or node.node_id in allowed]
            return placement.place_replicas(model.required_memory_bytes, size_bytes, None, capacities)
        capacities += self.offline_capacities(model_id)
        capacities = [node for node in capacities if allowed is None or node.node_id in allowed]
        return placement.place_replicas(
            model.required_memory_bytes, size_bytes, registration.replicas, capacities
        )

    def _allowed_nodes_of(self, registration: Registration) -> frozenset[str] | None:
        """Nodes that the placement of a model allows, None for all.

        Until one of them has the model, nodes that have it keep it: it is not lost while it moves.
        """
        if registration.placement is None:
            return None
        allowed = {
            node.id for node in self.nodes.values() if registration.placement.allows(node.id, node.tags)
        }
        ready = {
            node.id
            for node, report in self.replicas_of(registration.model_id)
            if node.is_online and report.state is ReplicaState.READY
        }
        return frozenset(allowed if ready & allowed or not ready else allowed | ready)

    def is_banned(self, node_id: str, registration: Registration) -> bool:
        """Whether the placement of a model excludes a node, which is to delete it."""
        allowed = self._allowed_nodes_of(registration)
        return registration.is_active and allowed is not None and node_id not in allowed

    def get_model(self, model_id: str) -> Model | None:
        """The catalogue's model with this id, or a registered model that the catalogue no longer contains."""
        model = self.catalog.get(model_id)
        if model is not None:
            return model
        registration = self.registrations.get(model_id)
        return registration.entry if registration is not None and registration.is_active else None

    def find_model(self, name: str) -> Model | None:
        """The model with this id or other name (see `Catalog.find_by_name`).

        Models of the catalogue take precedence over registered models that it no longer contains.
        """
        model = self.catalog.find_by_name(name)
        if model is None and len(models := self.list_models()) > len(self.catalog):
            model = index_by_name(models).get(name.lower())
        return model

    def capabilities_of(self, model: Model) -> tuple[Capability, ...]:
        """A model's capabilities; those of the chat template from its files, once a node has them."""
        found = self.template_capabilities_of(model.id)
        if found is None:
            return model.capabilities
        others = (name for name in model.capabilities if name not in TEMPLATE_CAPABILITIES)
        return (*others, *found)

    def template_capabilities_of(self, model_id: str) -> tuple[Capability, ...] | None:
        """Capabilities that the chat template of a model has; None while that is unknown."""
        reports = (report.template_capabilities for _, report in self.replicas_of(model_id))
        found = next((names for names in reports if names is not None), None)
        support = self.template_support_of(model_id)
        if found is None or support is None:
            return found
        # An engine's trial takes precedence over the text.
        has = {*found, Capability.TOOL_USE} if support.tools else {*found} - {Capability.TOOL_USE}
        return tuple(name for name in TEMPLATE_CAPABILITIES if name in has)

    def template_support_of(self, model_id: str) -> TemplateSupport | None:
        """Support of a model's chat template, by an engine's trial or else by its text; None if unknown."""
        for node in self.nodes.values():
            engine = node.engines.get(model_id)
            if engine is not None and engine.template is not None:
                return engine.template
        return next(
            (report.template for _, report in self.replicas_of(model_id) if report.template is not None), None
        )

    def list_models(self) -> list[Model]:
        """All models in catalogue order, then registered models that the catalogue no longer contains."""
        catalog_ids = {model.id for model in self.catalog.models}
        others = [
            registration.entry
            for model_id, registration in self.registrations.items()
            if model_id not in catalog_ids and registration.is_active
        ]
        return [*self.catalog.models, *others]

    def describe_model(self, model: Model, *, include_paths: bool) -> ModelWithStatus:
        """The API's view of one model; with the paths of its files only if `include_paths`."""
        derived = self.status_of(model.id)
        is_registered = model.id in self.registrations
        return ModelWithStatus(
            model=structs.replace(model, capabilities=self.capabilities_of(model)),
            status=derived.status,
            supported=self.catalog.get(model.id) is not None,
            hf_stats=self._hub_stats_of(model.repo),
            download_progress=derived.progress,
            downloaded_bytes=derived.downloaded_bytes,
            total_bytes=derived.total_bytes,
            bytes_per_second=derived.bytes_per_second,
            eta_seconds=derived.eta_s,
            available_nodes=derived.available_nodes,
            pinned=is_registered and self.registrations[model.id].pinned,
            replicas=tuple(
                ReplicaView(
                    node_id=node.id,
                    node_name=node.hello.name,
                    state=report.state,
                    progress=report.progress,
                    error=report.error_text,
                    path=report.path if include_paths else None,
                    engine=node.engines.get(model.id),
                    last_used=report.last_used,
                    size_bytes=report.total_bytes,
                )
                for node, report in self.replicas_of(model.id)
            )
            if is_registered
            else (),
            fit=placement.check_fit(model.required_memory_bytes, self.node_capacities(model.id)),
            error=derived.error,
            memory=model_views.describe_memory(
                model, (node.engines.get(model.id) for node in self.online_nodes())
            ),
            partial=None if derived.status is not ModelStatus.AVAILABLE else self._describe_partial(model),
            options=self.registrations[model.id].options if is_registered else None,
            placement=self.registrations[model.id].placement if is_registered else None,
        )

    def describe_node(self, node: Node, *, include_paths: bool, include_addresses: bool = False) -> NodeView:
        """The API's view of one node; with paths and addresses only if these are included."""
        hello, heartbeat = node.hello, node.heartbeat
        return NodeView(
            id=node.id,
            name=hello.name,
            status=node.status,
            draining=node.draining,
            address=self._address_of(node.id) if include_addresses else None,
            reach=self._reach_view_of(node.id),
            version=hello.version,
            platform=hello.platform,
            tags=node.tags,
            hardware=heartbeat.hardware if heartbeat else hello.hardware,
            meters=heartbeat.meters if heartbeat else _EMPTY_METERS,
            memory_budget_bytes=hello.memory_budget_bytes,
            memory_used_bytes=heartbeat.memory_used_bytes if heartbeat else 0,
            disk_free_bytes=heartbeat.disk_free_bytes if heartbeat else 0,
            max_downloads=hello.max_downloads,
            active_requests=self.traffic.active_requests(node.id),
            slots=node.slots,
            engines=tuple(node.engines.values()),
            replicas=tuple(
                report if include_paths else structs.replace(report, path=None)
                for report in node.replicas.values()
            ),
            last_seen=node.last_seen,
            partials=tuple(
                PartialReport(model_id=model_id, size_bytes=size)
                for model_id, size in sorted(node.partials.items())
            ),
            problems=hello.problems,
            problem_codes=hello.problem_codes,
        )


_EMPTY_METERS = Meters()


def _node_capacity(node: Node, model_id: str | None) -> placement.NodeCapacity:
    report = None if model_id is None else node.replicas.get(model_id)
    return placement.NodeCapacity(
        node_id=node.id,
        node_name=node.hello.name,
        budget_bytes=node.hello.memory_budget_bytes,
        vram_bytes=node.hello.vram_budget_bytes,
        disk_free_bytes=0 if node.heartbeat is None else node.heartbeat.disk_free_bytes,
        draining=node.draining,
        has_files=report is not None,
        has_all_files=report is not None and report.state is ReplicaState.READY,
        is_briefly_offline=not node.is_online,
    )
