"""Capacity sync: the slots of a node follow its status, its route, its replicas and its engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.cluster.view import ClusterView, Node
from llb.gateway.admission.capacity_sync import CapacitySync
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.routing.performance_model import PerformanceModel
from llb.node.agent import NodeAgent
from llb.wire import EngineState, ReplicaState

LOCAL = "local"


def engine(state: EngineState = EngineState.READY, slots: int = 3) -> Any:
    return SimpleNamespace(
        state=state, slots=slots, context_length=4096, progress=None, model_id="m", error=None
    )


def make_node(node_id: str = "a", **fields: Any) -> Any:
    usual = {
        "is_online": True,
        "draining": False,
        "last_seen": 0.0,
        "engines": {},
        "replicas": {"m": SimpleNamespace(state=ReplicaState.READY)},
        "hello": SimpleNamespace(slots_per_engine=2),
    }
    return SimpleNamespace(id=node_id, **{**usual, **fields})


class Synced:
    """A sync of nodes that have routes, and are assigned the model `m`, unless the test says otherwise."""

    def __init__(self) -> None:
        self.admission = AdmissionController(8, 1.0)
        self.assigned = {"a", LOCAL}
        self.routes = {"a"}
        self.recovering: set[str] = set()
        self.disconnected: list[str] = []
        view = SimpleNamespace(
            assigned_nodes_of=lambda _model_id: self.assigned,
            get_model=lambda _model_id: SimpleNamespace(size_bytes=1000),
        )
        connections = SimpleNamespace(
            route_of=lambda node_id: "route" if node_id in self.routes else None,
            may_recover=lambda node_id: node_id in self.recovering,
            disconnect_node=lambda node_id, _silent_s: self.disconnected.append(node_id),
        )
        self.sync = CapacitySync(
            cast(ClusterView, view),
            self.admission,
            PerformanceModel(),
            cast(NodeConnections, connections),
            cast(NodeAgent, SimpleNamespace(node_id=LOCAL)),
        )

    def slots(self, node: Any) -> int | None:
        """Sync a node; returns the slots of `m` there, None without the node."""
        self.sync.sync_node(cast(Node, node))
        for queue in self.admission.snapshot():
            for usage in queue.nodes:
                if usage.node_id == node.id:
                    return usage.slots
        return None


def test_a_model_that_is_not_loaded_has_the_slots_of_the_node() -> None:
    synced = Synced()
    assert synced.slots(make_node()) == 2
    assert synced.admission.max_context_length("m") is None


def test_a_loaded_one_has_those_of_its_engine() -> None:
    synced = Synced()
    assert synced.slots(make_node(engines={"m": engine()})) == 3
    assert synced.admission.max_context_length("m") == 4096
    # While it starts, nothing is known of it.
    assert synced.slots(make_node(engines={"m": engine(EngineState.STARTING)})) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"is_online": False},
        {"draining": True},
        {"replicas": {}},
        {"replicas": {"m": SimpleNamespace(state=ReplicaState.DOWNLOADING)}},
    ],
)
def test_a_node_that_may_not_serve_gets_nothing(fields: dict[str, Any]) -> None:
    synced = Synced()
    assert synced.slots(make_node()) == 2
    assert synced.slots(make_node(**fields)) is None
    assert synced.disconnected == (["a"] if "is_online" in fields else [])


def test_a_replica_that_is_no_longer_assigned_serves_no_more() -> None:
    synced = Synced()
    synced.assigned.clear()
    assert synced.slots(make_node()) is None


def test_a_node_without_a_route_is_waited_for_while_it_may_have_one_soon() -> None:
    synced = Synced()
    synced.routes.clear()
    assert synced.slots(make_node()) is None
    synced.recovering.add("a")
    assert synced.slots(make_node()) == 0
    # This host needs none.
    assert synced.slots(make_node(LOCAL)) == 2
