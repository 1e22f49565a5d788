"""Capacity sync: updates the slots of a node in admission after the node or its route has changed."""

from __future__ import annotations

import time

from llb.cluster.view import ClusterView, Node
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.routing.performance_model import PerformanceModel
from llb.node.agent import NodeAgent
from llb.wire import EngineReport, EngineState, ReplicaState

_SERVING_STATES = (EngineState.READY, EngineState.BUSY)


class CapacitySync:
    """Follower of the cluster view and of the node connections, for admission."""

    def __init__(
        self,
        view: ClusterView,
        admission: AdmissionController,
        performance: PerformanceModel,
        node_connections: NodeConnections,
        agent: NodeAgent,
    ) -> None:
        self._view = view
        self._admission = admission
        self._performance = performance
        self._node_connections = node_connections
        self._agent = agent
        self._served_models: dict[str, set[str]] = {}

    def sync_node(self, node: Node) -> None:
        """Update the capacity of one node."""
        self._performance.track_loads(node.id, node.engines if node.is_online else {})
        self._performance.raise_stale_throughput(node.id)
        if not node.is_online:
            self._node_connections.disconnect_node(node.id, time.time() - node.last_seen)
        served_models = set()
        is_reachable = node.id == self._agent.node_id or self._node_connections.route_of(node.id) is not None
        may_serve = is_reachable or self._node_connections.may_recover(node.id)
        if node.is_online and not node.draining and may_serve:
            for model_id, report in node.replicas.items():
                if report.state is ReplicaState.READY and node.id in self._view.assigned_nodes_of(model_id):
                    served_models.add(model_id)
                    self._set_capacity(node, model_id, is_reachable=is_reachable)
        for model_id in self._served_models.get(node.id, set()) - served_models:
            self._admission.remove_node(node.id, model_id)
        self._served_models[node.id] = served_models

    def _set_capacity(self, node: Node, model_id: str, *, is_reachable: bool) -> None:
        engine = node.engines.get(model_id)
        serving_engine = engine if engine is not None and engine.state in _SERVING_STATES else None
        slots = serving_engine.slots if serving_engine is not None else node.hello.slots_per_engine
        self._admission.set_capacity(
            node.id,
            model_id,
            slots if is_reachable else 0,
            loaded=serving_engine is not None,
            load_s=self._estimate_load_s(node, model_id, engine),
            context_length=serving_engine.context_length if serving_engine is not None else None,
            throughput=self._performance.throughput_of(node.id, model_id),
        )

    def _estimate_load_s(self, node: Node, model_id: str, engine: EngineReport | None) -> float:
        model = self._view.get_model(model_id)
        size_bytes = model.size_bytes if model is not None else None
        progress = engine.progress if engine is not None else None
        return self._performance.estimate_load_s(node.id, model_id, size_bytes=size_bytes, progress=progress)
