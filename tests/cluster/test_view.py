"""Cluster view: published events and derived state from the reports of nodes."""

from __future__ import annotations

import asyncio
import time
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
    Placement,
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
HEARTBEAT = Heartbeat(hardware=HARDWARE, meters=Meters(), memory_used_bytes=0, disk_free_bytes=50_000_000_000)


def create_view(catalog: Path) -> ClusterView:
    bus: EventBus[Event] = EventBus()
    return ClusterView(load_catalog(catalog), bus, lambda _repo: None)


def subscribe(view: ClusterView) -> deque[Event]:
    """Queue of the events that the view publishes from now on."""
    return view._event_bus.subscribe(10_000)._queue


def take_tiny_models(events: deque[Event]) -> list[NodeModel]:
    """Published states of the model `tiny` on its node, removed from `events`."""
    taken = [event for event in events if isinstance(event, NodeStatusChanged)]
    events.clear()
    return [model for event in taken for model in event.models if model.model_id == "tiny"]


def engine_report(state: EngineState, progress: float | None = None) -> EngineReport:
    return EngineReport(model_id="tiny", state=state, slots=4, progress=progress)


def ready_report(state: EngineState | None, progress: float | None = None) -> ReplicaReport:
    return ReplicaReport(
        model_id="tiny",
        attempt=1,
        state=ReplicaState.READY,
        engine=None if state is None else engine_report(state, progress),
    )


def downloading_report(downloaded_bytes: int) -> ReplicaReport:
    return ReplicaReport(
        model_id="tiny",
        attempt=1,
        state=ReplicaState.DOWNLOADING,
        downloaded_bytes=downloaded_bytes,
        total_bytes=1_000,
        bytes_per_second=100.0,
    )


async def test_a_node_offers_nothing_before_its_disk_is_known(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    # Not a node with a full disk.
    assert view.node_capacities("tiny") == []
    view.on_heartbeat("n1", HEARTBEAT)
    assert [capacity.disk_free_bytes for capacity in view.node_capacities("tiny")] == [50_000_000_000]


async def test_a_hello_with_other_hardware_counts_before_the_next_heartbeat(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    view.on_heartbeat("n1", HEARTBEAT)
    changed = structs.replace(HARDWARE, cpu="another")
    view.on_hello(structs.replace(HELLO, hardware=changed))
    described = view.describe_node(view.nodes["n1"], include_paths=False)
    assert described.hardware == changed
    assert described.disk_free_bytes == HEARTBEAT.disk_free_bytes


async def test_an_engine_that_stopped_is_no_longer_shown(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    view.on_replica_report("n1", ready_report(EngineState.STOPPING))
    assert [engine.state for engine in view.describe_node(view.nodes["n1"], include_paths=False).engines] == [
        "stopping"
    ]
    view.on_replica_report("n1", ready_report(None))
    assert view.describe_node(view.nodes["n1"], include_paths=False).engines == ()


async def test_an_engine_that_comes_changes_or_goes_is_told_at_once(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    events = subscribe(view)
    view.on_replica_report("n1", ready_report(None))
    assert take_tiny_models(events) == [NodeModel("tiny", "ready")]
    for state in (EngineState.STARTING, EngineState.READY, EngineState.BUSY, EngineState.STOPPING):
        view.on_replica_report("n1", ready_report(state))
        assert take_tiny_models(events) == [NodeModel("tiny", state.value, engine=state)]
    view.on_replica_report("n1", ready_report(None))
    assert take_tiny_models(events) == [NodeModel("tiny", "ready")]
    view.on_replica_report("n1", ready_report(None))
    assert take_tiny_models(events) == []


async def test_a_heartbeat_that_knows_better_of_an_engine_is_believed(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    view.on_replica_report("n1", ready_report(EngineState.READY))
    events = subscribe(view)
    view.on_heartbeat("n1", HEARTBEAT)
    assert take_tiny_models(events) == [NodeModel("tiny", "ready")]
    view.on_heartbeat("n1", structs.replace(HEARTBEAT, engines=(engine_report(EngineState.BUSY),)))
    assert take_tiny_models(events) == [NodeModel("tiny", "busy", engine=EngineState.BUSY)]


async def test_the_progress_of_a_load_is_coalesced_and_its_end_is_not(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    events = subscribe(view)
    for percent in range(100):
        view.on_replica_report("n1", ready_report(EngineState.STARTING, percent / 100))
    assert [model.engine_progress for model in take_tiny_models(events)] == [0.0]
    # The timer of the publisher is due earlier in the same event loop.
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    assert [model.engine_progress for model in take_tiny_models(events)] == [0.99]
    view.on_replica_report("n1", ready_report(EngineState.STARTING, 0.995))
    view.on_replica_report("n1", ready_report(EngineState.READY))
    assert take_tiny_models(events) == [NodeModel("tiny", "ready", engine=EngineState.READY)]
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    # The delayed event was superseded.
    assert not events


async def test_the_figures_of_a_download_are_coalesced_and_what_it_waits_for_is_not(catalog: Path) -> None:
    view = create_view(catalog)
    view.on_hello(HELLO)
    events = subscribe(view)

    def take_downloads() -> list[tuple[str, int | None, str | None]]:
        return [
            (model.lifecycle_status, None, None)
            if model.download is None
            else (model.lifecycle_status, model.download.downloaded_bytes, model.download.error)
            for model in take_tiny_models(events)
        ]

    for downloaded_bytes in range(0, 1000, 10):
        view.on_replica_report("n1", downloading_report(downloaded_bytes))
    assert take_downloads() == [("downloading", 0, None)]
    await asyncio.sleep(MIN_PUBLISH_INTERVAL_S * 1.5)
    assert take_downloads() == [("downloading", 990, None)]
    view.on_replica_report("n1", structs.replace(downloading_report(995), error="waiting for the network"))
    assert take_downloads() == [("downloading", 995, "waiting for the network")]
    view.on_replica_report("n1", structs.replace(downloading_report(1000), state=ReplicaState.VERIFYING))
    view.on_replica_report("n1", ready_report(None))
    assert take_downloads() == [("verifying", 1000, None), ("ready", None, None)]


async def test_a_model_and_its_nodes_show_the_same_progress(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = create_view(catalog)
    entry = view.catalog.get("tiny")
    assert entry is not None
    view.registrations = {
        "tiny": Registration(model_id="tiny", entry=entry, resolved=(), created_at=0.0, created_by="test")
    }
    monkeypatch.setattr(view, "assigned_nodes_of", lambda _model_id: frozenset({"n1", "n2"}))
    view.on_hello(HELLO)
    view.on_hello(structs.replace(HELLO, node_id="n2", name="cellar"))
    for node_id in ("n1", "n2"):
        view.on_replica_report(node_id, downloading_report(0))
    events = subscribe(view)
    updates, began_at = 0, time.monotonic()
    of_model, of_nodes = 0, {"n1": 0, "n2": 0}
    # The nodes report at different times, each more often than events are published.
    for step in range(1, 21):
        view.on_replica_report("n1" if step % 2 else "n2", downloading_report(step * 10))
        await asyncio.sleep(MIN_PUBLISH_INTERVAL_S / 8)
        updates += bool(events)
        while events:
            match events.popleft():
                case ModelStatusChanged(downloaded_bytes=downloaded_bytes):
                    of_model = downloaded_bytes or 0
                case NodeStatusChanged(node_id=node_id, models=(NodeModel(download=download),)):
                    assert download is not None
                    of_nodes[node_id] = download.downloaded_bytes
        assert of_model == max(of_nodes.values())
    # On a busy machine the reports take longer.
    assert 1 < updates <= (time.monotonic() - began_at) / MIN_PUBLISH_INTERVAL_S + 2
    view.close()


async def test_metrics_say_what_a_node_has_left(catalog: Path) -> None:
    view = create_view(catalog)
    node = view.on_hello(HELLO)
    assert view.nodes["n1"].metrics is None
    events = subscribe(view)
    engines = (
        engine_report(EngineState.READY),
        structs.replace(engine_report(EngineState.STARTING), model_id="other"),
    )
    view.on_heartbeat("n1", structs.replace(HEARTBEAT, memory_used_bytes=7, engines=engines))
    [metrics] = [event for event in events if isinstance(event, MetricsUpdated)]
    assert (metrics.memory_used_bytes, metrics.disk_free_bytes, metrics.slots) == (7, 50_000_000_000, 4)
    assert metrics == node.metrics
    shown = view.describe_node(node, include_paths=False)
    assert (shown.memory_used_bytes, shown.disk_free_bytes, shown.slots) == (7, 50_000_000_000, 4)


async def test_a_status_says_how_long_it_takes_and_on_how_many_nodes_it_is(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = create_view(catalog)
    entry = view.catalog.get("tiny")
    assert entry is not None
    view.registrations = {
        "tiny": Registration(model_id="tiny", entry=entry, resolved=(), created_at=0.0, created_by="test")
    }
    monkeypatch.setattr(view, "assigned_nodes_of", lambda _model_id: frozenset({"n1", "n2"}))
    view.on_hello(HELLO)
    view.on_hello(structs.replace(HELLO, node_id="n2", name="cellar"))
    events = subscribe(view)

    def statuses() -> list[tuple[ModelStatus, float | None, int]]:
        taken = [event for event in events if isinstance(event, ModelStatusChanged)]
        events.clear()
        return [(event.status, event.eta_seconds, event.available_nodes) for event in taken]

    view.on_replica_report("n1", downloading_report(400))
    assert statuses() == [(ModelStatus.DOWNLOADING, 6.0, 0)]
    view.on_replica_report("n1", ready_report(None))
    view.on_replica_report("n2", ready_report(None))
    assert statuses() == [(ModelStatus.READY, None, 1), (ModelStatus.READY, None, 2)]
    view.mark_offline("n1")
    assert statuses() == [(ModelStatus.READY, None, 1)]


async def test_a_node_that_is_away_has_nothing_in_memory_that_could_be_used(catalog: Path) -> None:
    view = create_view(catalog)
    node = view.on_hello(HELLO)
    view.on_replica_report("n1", ready_report(EngineState.READY))
    events = subscribe(view)
    view.mark_offline("n1")
    assert take_tiny_models(events) == [NodeModel("tiny", "ready")]
    assert view.describe_node(node, include_paths=False).engines == ()


async def test_a_model_that_has_left_the_catalogue_is_found_after_those_that_stand_in_it(
    catalog: Path,
) -> None:
    view = create_view(catalog)
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


async def test_a_placement_keeps_a_model_where_it_is_until_it_has_arrived(catalog: Path) -> None:
    view = create_view(catalog)
    for node_id, tags in (("n1", ()), ("n2", ("gpu",)), ("n3", ("gpu",))):
        view.on_hello(structs.replace(HELLO, node_id=node_id, name=node_id), tags=tags)
        view.on_heartbeat(node_id, HEARTBEAT)
    view.on_replica_report("n1", ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY))
    model = view.catalog.get("tiny")
    assert model is not None

    def place(placement: Placement | None) -> set[str]:
        view.registrations["tiny"] = Registration(
            model_id="tiny", entry=model, created_at=0.0, created_by="ann", placement=placement
        )
        return set(view.assigned_nodes_of("tiny"))

    def banned() -> set[str]:
        registration = view.registrations["tiny"]
        return {node_id for node_id in view.nodes if view.is_banned(node_id, registration)}

    assert (place(None), banned()) == ({"n1", "n2", "n3"}, set())
    assert (place(Placement(tag="gpu")), banned()) == ({"n1", "n2", "n3"}, set())
    view.on_replica_report("n2", ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY))
    assert (place(Placement(tag="gpu")), banned()) == ({"n2", "n3"}, {"n1"})
    assert (place(Placement(nodes=("n1",))), banned()) == ({"n1"}, {"n2", "n3"})
    assert (place(Placement(tag="nowhere")), banned()) == ({"n1", "n2"}, {"n3"})
