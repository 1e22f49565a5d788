"""Chart history: samples, minutes, and what a restart keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.view import ClusterView
from llb.gateway.observability.chart_history import (
    DAY_S,
    MAX_MODELS,
    RECENT_S,
    RECENT_SAMPLES,
    ChartHistory,
    mean_point,
)
from llb.store.database import Database
from llb.wire import ChartPoint, EngineReport, EngineState, Meters
from tests.cluster.test_view import HEARTBEAT, HELLO, create_view


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def busy_view(catalog: Path) -> ClusterView:
    view = create_view(catalog)
    view.on_hello(HELLO)
    engine = EngineReport(model_id="tiny", state=EngineState.BUSY, slots=4, busy=2, memory_bytes=7)
    view.on_heartbeat(
        "n1", structs.replace(HEARTBEAT, engines=(engine,), meters=Meters(cpu_usage=0.5, memory_usage=0.25))
    )
    return view


async def test_samples_become_minutes_that_survive_a_restart(catalog: Path, tmp_path: Path) -> None:
    clock, traffic = Clock(), NodeTraffic()
    db = await Database.open(tmp_path / "llb.db")
    try:
        history = ChartHistory(db, busy_view(catalog), traffic, lambda: {"tiny": 3}, clock=clock)
        history.sample()
        for _ in range(12):
            clock.now += 5
            traffic.begin_stream("n1", "tiny").add(50)
            traffic.record_answer("n1", "tiny")
            history.sample()
        [node] = history.series("node", recent=True)
        assert len(node.points) == 13
        assert node.points[-1] == ChartPoint(
            at=clock.now,
            requests=1,
            tokens_per_second=10.0,
            memory_bytes=7,
            cpu_usage=0.5,
            memory_usage=0.25,
        )
        await history._end_minute()
        again = ChartHistory(db, busy_view(catalog), traffic, dict, clock=clock)
        await again.start()
        await again.close()
        for kept in (history, again):
            [model] = kept.series("model", recent=False)
            [point] = model.points
            assert (model.id, point.requests, point.active_requests, point.queued) == ("tiny", 12, 2, 3)
            assert 9 < point.tokens_per_second < 10
        # Until there are samples, the last minutes begin with what there is of them.
        [recent] = again.series("model", recent=True)
        assert len(recent.points) == 12
        mean = mean_point(list(recent.points))
        assert (mean.at, mean.requests, mean.active_requests) == (point.at, 12, 2)
        assert mean.tokens_per_second == pytest.approx(point.tokens_per_second)
        # The same minute of the next day takes its place: the table has a fixed size.
        clock.now += DAY_S
        history.sample()
        await history._end_minute()
        rows = await db.fetch_all("SELECT at FROM chart_points WHERE kind = 'model'")
        assert [row["at"] for row in rows] == [int(clock.now)]
        [model] = history.series("model", recent=False)
        assert len(model.points) == 1
    finally:
        await db.close()


async def test_the_last_minutes_have_a_fixed_size(catalog: Path, tmp_path: Path) -> None:
    clock = Clock()
    db = await Database.open(tmp_path / "llb.db")
    try:
        history = ChartHistory(db, busy_view(catalog), NodeTraffic(), dict, clock=clock)
        for _ in range(RECENT_SAMPLES + 20):
            clock.now += 5
            history.sample()
        [node] = history.series("node", recent=True)
        assert len(node.points) == RECENT_SAMPLES
        assert history.series("node", recent=False) == ()
    finally:
        await db.close()


async def test_models_that_were_asked_once_leave_no_series(catalog: Path, tmp_path: Path) -> None:
    """An endpoint may have thousands of models, and any key may ask each of them."""
    clock, traffic = Clock(), NodeTraffic()
    db = await Database.open(tmp_path / "llb.db")
    try:
        history = ChartHistory(db, busy_view(catalog), traffic, dict, clock=clock)
        for number in range(10 * MAX_MODELS):
            traffic.record_answer("n1", f"cloud/{number}")
        history.sample()
        found = history.series("model", recent=True)
        assert len(found) == MAX_MODELS
        assert found[0].id == "tiny", "a model that is loaded is always shown"
        clock.now += 5
        traffic.record_answer("n1", "cloud/at last")
        history.sample()
        asked = {series.id: series.points[-1] for series in history.series("model", recent=True)}
        assert asked["cloud/at last"] == ChartPoint(at=clock.now, requests=1)
        clock.now += RECENT_S + 5
        history.sample()
        await history._end_minute()
        assert [series.id for series in history.series("model", recent=True)] == ["tiny"]
    finally:
        await db.close()


def test_a_minute_is_sums_peaks_and_means() -> None:
    points = [
        ChartPoint(at=1, requests=1, tokens_per_second=2, active_requests=5, queued=1, cpu_usage=0.2),
        ChartPoint(at=2, requests=2, tokens_per_second=4, active_requests=3, queued=0, gpu_usage=0.5),
    ]
    assert mean_point(points) == ChartPoint(
        at=2,
        requests=3,
        tokens_per_second=3,
        active_requests=5,
        queued=1,
        cpu_usage=0.2,
        gpu_usage=0.5,
    )
