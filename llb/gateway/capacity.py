"""What each node can take now, as admission is told: looked at anew whenever a node or the way to it changes."""

from __future__ import annotations

import time

from llb.cluster.view import ClusterView, Node
from llb.gateway.admission import Admission
from llb.gateway.reach import Reach
from llb.gateway.speeds import Speeds
from llb.node.agent import NodeAgent
from llb.wire import EngineReport, EngineState, ReplicaState

_SERVING = (EngineState.READY, EngineState.BUSY)


class Capacity:
    """Follows the view and the reach."""

    def __init__(
        self, view: ClusterView, admission: Admission, speeds: Speeds, reach: Reach, agent: NodeAgent
    ) -> None:
        self._view = view
        self._admission = admission
        self._speeds = speeds
        self._reach = reach
        self._agent = agent
        self._served: dict[str, set[str]] = {}
        view.on_node_changed = self._look
        reach.on_changed = view.reach_changed

    def _look(self, node: Node) -> None:
        self._speeds.engines(node.id, node.engines if node.online else {})
        self._speeds.fade(node.id)
        if not node.online:
            self._reach.lost(node.id, time.time() - node.last_seen)
        usable = set()
        reached = node.id == self._agent.node_id or self._reach.way(node.id) is not None
        if node.online and not node.draining and (reached or self._reach.may_return(node.id)):
            for model_id, report in node.replicas.items():
                if report.state is ReplicaState.READY and node.id in self._view.placed(model_id):
                    usable.add(model_id)
                    self._set(node, model_id, reached=reached)
        for gone in self._served.get(node.id, set()) - usable:
            self._admission.remove(node.id, gone)
        self._served[node.id] = usable

    def _set(self, node: Node, model_id: str, *, reached: bool) -> None:
        engine = node.engines.get(model_id)
        loaded = engine if engine is not None and engine.state in _SERVING else None
        slots = loaded.slots if loaded is not None else node.hello.slots_per_engine
        self._admission.set_capacity(
            node.id,
            model_id,
            slots if reached else 0,
            loaded=loaded is not None,
            load_s=self._load_s(node, model_id, engine),
            context_length=loaded.context_length if loaded is not None else None,
            speed=self._speeds.of(node.id, model_id),
        )

    def _load_s(self, node: Node, model_id: str, engine: EngineReport | None) -> float:
        model = self._view.model(model_id)
        size_bytes = model.size_bytes if model is not None else None
        progress = engine.progress if engine is not None else None
        return self._speeds.load_s(node.id, model_id, size_bytes=size_bytes, progress=progress)
