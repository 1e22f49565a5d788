"""What the view makes of what nodes say, without a network."""

from __future__ import annotations

from pathlib import Path

from llb.catalog import load_catalog
from llb.cluster.view import ClusterView
from llb.events import Bus
from llb.wire import (
    EngineReport,
    EngineState,
    Event,
    Hardware,
    Heartbeat,
    Hello,
    Meters,
    ReplicaReport,
    ReplicaState,
)

HARDWARE = Hardware(cpu="cpu", cpu_count=2, memory_total_bytes=8_000_000_000)
HELLO = Hello(
    protocol=1,
    node_id="n1",
    name="attic",
    version="1",
    platform="Linux",
    addresses=(),
    hardware=HARDWARE,
    memory_budget_bytes=8_000_000_000,
    vram_budget_bytes=0,
    max_downloads=2,
    slots_per_engine=4,
    replicas=(),
)
BEAT = Heartbeat(hardware=HARDWARE, meters=Meters(), memory_used_bytes=0, disk_free_bytes=50_000_000_000)


def make_view(catalog: Path) -> ClusterView:
    bus: Bus[Event] = Bus()
    return ClusterView(load_catalog(catalog), bus, lambda _repo: None)


def ready(engine: EngineState | None) -> ReplicaReport:
    return ReplicaReport(
        model_id="tiny",
        attempt=1,
        state=ReplicaState.READY,
        engine=None if engine is None else EngineReport(model_id="tiny", state=engine, slots=4),
    )


async def test_a_node_offers_nothing_before_its_disk_is_known(catalog: Path) -> None:
    view = make_view(catalog)
    view.hello(HELLO)
    assert view.rooms("tiny") == []  # rather than a node with a full disk
    view.beat("n1", BEAT)
    assert [room.disk_free_bytes for room in view.rooms("tiny")] == [50_000_000_000]


async def test_an_engine_that_stopped_is_no_longer_shown(catalog: Path) -> None:
    view = make_view(catalog)
    view.hello(HELLO)
    view.replica("n1", ready(EngineState.STOPPING))
    assert [engine.state for engine in view.node_view(view.nodes["n1"], paths=False).engines] == ["stopping"]
    view.replica("n1", ready(None))
    assert view.node_view(view.nodes["n1"], paths=False).engines == ()
