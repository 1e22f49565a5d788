"""What the view makes of what nodes say, without a network."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

import pytest
from msgspec import structs

from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.change_publisher import MIN_PUBLISH_INTERVAL_S
from llb.cluster.view import ClusterView
from llb.store.tables.registrations import Registration
from llb.wire import (
    EngineReport,
    EngineState,
    Event,
    Hardware,
    Heartbeat,
    Hello,
    Meters,
    MetricsUpdated,
    ModelStatus,
    ModelStatusChanged,
    NodeModel,
    NodeStatusChanged,
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
    bus: EventBus[Event] = EventBus()
    return ClusterView(load_catalog(catalog), bus, lambda _repo: None)


def listen(view: ClusterView) -> deque[Event]:
    """What the view publishes from now on."""
    return view._event_bus.subscribe(10_000)._queue


def told_of_tiny(heard: deque[Event]) -> list[NodeModel]:
    """What was told of the model `tiny` on the node, taken off `heard`."""
    events = [event for event in heard if isinstance(event, NodeStatusChanged)]
    heard.clear()
    return [model for event in events for model in event.models if model.model_id == "tiny"]


def engine(state: EngineState, progress: float | None = None) -> EngineReport:
    return EngineReport(model_id="tiny", state=state, slots=4, progress=progress)


def ready(state: EngineState | None, progress: float | None = None) -> ReplicaReport:
    return ReplicaReport(
        model_id="tiny",
        attempt=1,
        state=ReplicaState.READY,
        engine=None if state is None else engine(state, progress),
    )


def downloading(downloaded_bytes: int) -> ReplicaReport:
    return ReplicaReport(
        model_id="tiny",
        attempt=1,
        state=ReplicaState.DOWNLOADING,
        downloaded_bytes=downloaded_bytes,
        total_bytes=1_000,
        bytes_per_second=100.0,
    )


async def test_a_node_offers_nothing_before_its_disk_is_known(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    assert view.node_capacities("tiny") == []  # rather than a node with a full disk
    view.on_heartbeat("n1", BEAT)
    assert [room.disk_free_bytes for room in view.node_capacities("tiny")] == [50_000_000_000]


async def test_an_engine_that_stopped_is_no_longer_shown(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    view.on_replica_report("n1", ready(EngineState.STOPPING))
    assert [engine.state for engine in view.describe_node(view.nodes["n1"], include_paths=False).engines] == [
        "stopping"
    ]
    view.on_replica_report("n1", ready(None))
    assert view.describe_node(view.nodes["n1"], include_paths=False).engines == ()


async def test_an_engine_that_comes_changes_or_goes_is_told_at_once(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    heard = listen(view)
    view.on_replica_report("n1", ready(None))
    assert told_of_tiny(heard) == [NodeModel("tiny", "ready")]
    for state in (EngineState.STARTING, EngineState.READY, EngineState.BUSY, EngineState.STOPPING):
        view.on_replica_report("n1", ready(state))
        assert told_of_tiny(heard) == [NodeModel("tiny", state.value, engine=state)]
    view.on_replica_report("n1", ready(None))
    assert told_of_tiny(heard) == [NodeModel("tiny", "ready")]
    view.on_replica_report("n1", ready(None))
    assert told_of_tiny(heard) == []


async def test_a_heartbeat_that_knows_better_of_an_engine_is_believed(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    view.on_replica_report("n1", ready(EngineState.READY))
    heard = listen(view)
    view.on_heartbeat("n1", BEAT)
    assert told_of_tiny(heard) == [NodeModel("tiny", "ready")]
    view.on_heartbeat("n1", structs.replace(BEAT, engines=(engine(EngineState.BUSY),)))
    assert told_of_tiny(heard) == [NodeModel("tiny", "busy", engine=EngineState.BUSY)]


async def test_the_progress_of_a_load_is_coalesced_and_its_end_is_not(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    heard = listen(view)
    for percent in range(100):
        view.on_replica_report("n1", ready(EngineState.STARTING, percent / 100))
    assert [model.engine_progress for model in told_of_tiny(heard)] == [0.0]
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    assert [model.engine_progress for model in told_of_tiny(heard)] == [0.99]
    view.on_replica_report("n1", ready(EngineState.STARTING, 0.995))
    view.on_replica_report("n1", ready(EngineState.READY))
    assert told_of_tiny(heard) == [NodeModel("tiny", "ready", engine=EngineState.READY)]
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    assert not heard  # what waited to be told was overtaken


async def test_the_figures_of_a_download_are_coalesced_and_what_it_waits_for_is_not(catalog: Path) -> None:
    view = make_view(catalog)
    view.on_hello(HELLO)
    heard = listen(view)

    def told() -> list[tuple[str, int | None, str | None]]:
        return [
            (model.lifecycle_status, None, None)
            if model.download is None
            else (model.lifecycle_status, model.download.downloaded_bytes, model.download.error)
            for model in told_of_tiny(heard)
        ]

    for downloaded_bytes in range(0, 1000, 10):
        view.on_replica_report("n1", downloading(downloaded_bytes))
    assert told() == [("downloading", 0, None)]
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    assert told() == [("downloading", 990, None)]
    view.on_replica_report("n1", structs.replace(downloading(995), error="waiting for the network"))
    assert told() == [("downloading", 995, "waiting for the network")]
    view.on_replica_report("n1", structs.replace(downloading(1000), state=ReplicaState.VERIFYING))
    view.on_replica_report("n1", ready(None))
    assert told() == [("verifying", 1000, None), ("ready", None, None)]


async def test_metrics_say_what_a_node_has_left(catalog: Path) -> None:
    view = make_view(catalog)
    node = view.on_hello(HELLO)
    assert view.nodes["n1"].metrics is None
    heard = listen(view)
    engines = (engine(EngineState.READY), structs.replace(engine(EngineState.STARTING), model_id="other"))
    view.on_heartbeat("n1", structs.replace(BEAT, memory_used_bytes=7, engines=engines))
    [told] = [event for event in heard if isinstance(event, MetricsUpdated)]
    assert (told.memory_used_bytes, told.disk_free_bytes, told.slots) == (7, 50_000_000_000, 4)
    assert told == node.metrics
    shown = view.describe_node(node, include_paths=False)
    assert (shown.memory_used_bytes, shown.disk_free_bytes, shown.slots) == (7, 50_000_000_000, 4)


async def test_a_status_says_how_long_it_takes_and_on_how_many_nodes_it_is(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view(catalog)
    entry = view.catalog.get("tiny")
    assert entry is not None
    view.registrations = {
        "tiny": Registration(model_id="tiny", entry=entry, resolved=(), created_at=0.0, created_by="test")
    }
    monkeypatch.setattr(view, "assigned_nodes_of", lambda _model_id: frozenset({"n1", "n2"}))
    view.on_hello(HELLO)
    view.on_hello(structs.replace(HELLO, node_id="n2", name="cellar"))
    heard = listen(view)

    def statuses() -> list[tuple[ModelStatus, float | None, int]]:
        events = [event for event in heard if isinstance(event, ModelStatusChanged)]
        heard.clear()
        return [(event.status, event.eta_seconds, event.available_nodes) for event in events]

    view.on_replica_report("n1", downloading(400))
    assert statuses() == [(ModelStatus.DOWNLOADING, 6.0, 0)]
    view.on_replica_report("n1", ready(None))
    view.on_replica_report("n2", ready(None))
    assert statuses() == [(ModelStatus.READY, None, 1), (ModelStatus.READY, None, 2)]
    view.mark_offline("n1")
    assert statuses() == [(ModelStatus.READY, None, 1)]


async def test_a_node_that_is_away_has_nothing_in_memory_that_could_be_used(catalog: Path) -> None:
    view = make_view(catalog)
    node = view.on_hello(HELLO)
    view.on_replica_report("n1", ready(EngineState.READY))
    heard = listen(view)
    view.mark_offline("n1")
    assert told_of_tiny(heard) == [NodeModel("tiny", "ready")]
    assert view.describe_node(node, include_paths=False).engines == ()


async def test_a_model_that_has_left_the_catalogue_is_found_after_those_that_stand_in_it(
    catalog: Path,
) -> None:
    view = make_view(catalog)
    tiny = view.get_model("tiny")
    assert tiny is not None
    left = structs.replace(tiny, id="left", repo="Old/Left", quantization="Q8_0")
    namesake = structs.replace(tiny, id="namesake")
    view.registrations = {
        entry.id: Registration(model_id=entry.id, entry=entry, created_at=0.0, created_by="test")
        for entry in (left, namesake)
    }
    for name in ("left", "LEFT:latest", "old/left", "left:q8_0", "Old/Left:Q8_0"):
        assert view.find_model(name) is left
    assert view.find_model("test/tiny") is tiny
    assert view.find_model("namesake") is namesake
    assert view.find_model("old/other") is None
