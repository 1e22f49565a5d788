"""State collector: the present state of queues, endpoints, nodes and replicas, read at each scrape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from llb.cluster.view import ClusterView
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.observability.state_collector import StateCollector
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spill.book import SpillBook
from llb.store.database import Database
from llb.wire import EngineState, NodeStatus, ReplicaState
from tests.gateway.endpoints.endpoint_fixture import make_endpoint

METERS = SimpleNamespace(cpu_usage=0.5, memory_usage=0.25, gpu_usage=None)


def make_node(name: str, *, is_online: bool = True) -> Any:
    return SimpleNamespace(
        id=name,
        hello=SimpleNamespace(
            name=f"host-{name}", memory_budget_bytes=100, hardware=SimpleNamespace(engine=None)
        ),
        status=NodeStatus.ONLINE if is_online else NodeStatus.OFFLINE,
        is_online=is_online,
        draining=False,
        heartbeat=SimpleNamespace(memory_used_bytes=40, disk_free_bytes=60, meters=METERS),
        engines={"m": SimpleNamespace(state=EngineState.READY, model_id="m", memory_ratio=1.5)},
        replicas={
            "m": SimpleNamespace(state=ReplicaState.DOWNLOADING, progress=0.75),
            "n": SimpleNamespace(state=ReplicaState.READY, progress=1.0),
        },
    )


class Collected:
    """A collector over nodes, an admission and endpoints."""

    def __init__(self, *nodes: Any) -> None:
        self.admission = AdmissionController(8, 1.0)
        self.endpoints = EndpointRegistry(self.admission, PerformanceModel())
        self.book = SpillBook(cast(Database, None))
        view = SimpleNamespace(
            nodes={node.id: node for node in nodes},
            get_model=lambda model_id: model_id if model_id in ("m", "n") else None,
            node_name_of=lambda node_id: f"host-{node_id}",
            traffic=SimpleNamespace(active_requests=lambda _node_id: 2),
        )
        self.collector = StateCollector(cast(ClusterView, view), self.admission, self.endpoints, self.book)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels.values()): sample.value
            for family in self.collector.collect()
            for sample in family.samples
            if sample.name == name
        }


async def test_queues_and_slots() -> None:
    collected = Collected()
    collected.admission.set_capacity("a", "m", 2)
    slot = await collected.admission.reserve_slot("m", key_id="k")
    assert collected.values("llb_queue_depth") == {("m",): 0}
    assert collected.values("llb_slots") == {("host-a", "m"): 2}
    assert collected.values("llb_slots_busy") == {("host-a", "m"): 1}
    slot.release()
    assert collected.values("llb_slots_busy") == {("host-a", "m"): 0}


async def test_models_of_endpoints_are_told_while_they_are_used() -> None:
    """An endpoint may have thousands, each with some lines."""
    collected = Collected()
    collected.endpoints.put(make_endpoint())
    assert collected.values("llb_slots") == {}
    slot = await collected.admission.reserve_slot("box/there", key_id="k")
    assert collected.values("llb_slots_busy") == {("box", "box/there"): 1}
    slot.release()


def test_endpoints_have_one_status() -> None:
    collected = Collected()
    endpoint = make_endpoint(enabled=False)
    endpoint.latency_ms = 250.0
    collected.endpoints.put(endpoint)
    statuses = collected.values("llb_endpoint_status")
    assert [labels for labels, value in statuses.items() if value] == [("box", "disabled")]
    assert collected.values("llb_endpoint_latency_seconds") == {("box",): 0.25}


def test_a_node_tells_its_meters_while_it_is_online() -> None:
    collected = Collected(make_node("a"), make_node("b", is_online=False))
    statuses = collected.values("llb_node_status")
    assert [labels for labels, value in statuses.items() if value] == [
        ("host-a", "online"), ("host-b", "offline")
    ]  # fmt: skip
    assert collected.values("llb_node_memory_used_bytes") == {("host-a",): 40}
    assert collected.values("llb_node_cpu_usage") == {("host-a",): 0.5}
    # A node without one has no GPU that could be idle.
    assert collected.values("llb_node_gpu_usage") == {}
    assert collected.values("llb_engine_memory_ratio") == {("host-a", "m"): 1.5}
    engines = collected.values("llb_engines")
    assert (engines[("host-a", "ready")], engines[("host-b", "ready")]) == (1, 0)


def test_only_downloads_have_progress() -> None:
    collected = Collected(make_node("a"))
    assert collected.values("llb_download_progress") == {("host-a", "m"): 0.75}
    replicas = collected.values("llb_replicas")
    assert (replicas[("host-a", "ready")], replicas[("host-a", "error")]) == (1, 0)


def test_spilled_requests_are_counted_by_their_rule() -> None:
    collected = Collected()
    collected.book.uses["m", "box/there", "busy"] += 3
    assert collected.values("llb_spilled_requests_total") == {("m", "box/there", "busy"): 3}
