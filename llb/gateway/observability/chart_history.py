"""Chart history: figures of nodes and models, of the last minutes in memory, of the last day also on disk."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import structs

from llb.base.tasks import TaskSupervisor
from llb.cluster.node_traffic import NodeTraffic, TrafficTotals
from llb.cluster.view import ClusterView, Node
from llb.store import chart_points
from llb.store.chart_points import MINUTES_PER_DAY, ChartRow
from llb.store.database import Database
from llb.store.sqlite_errors import describe_sqlite_error
from llb.wire import ChartPoint, ChartSeries

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_S = 5.0
RECENT_SAMPLES = 180
RECENT_S = RECENT_SAMPLES * SAMPLE_INTERVAL_S
DAY_S = 86_400.0
# Maximum number of models that are sampled. Endpoints have thousands, and a client may call each of them
# once.
MAX_MODELS = 64
_Key = tuple[str, str]
_NO_TRAFFIC = TrafficTotals(0, 0)


class ChartHistory:
    """Samples all nodes and models, and keeps a point a minute for a day, also over restarts."""

    def __init__(
        self,
        db: Database,
        view: ClusterView,
        traffic: NodeTraffic,
        get_queued: Callable[[], Mapping[str, int]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`get_queued` returns the requests that wait, by model; `clock` Unix seconds."""
        self._db = db
        self._view = view
        self._traffic = traffic
        self._get_queued = get_queued
        self._clock = clock
        self._recent: dict[_Key, deque[ChartPoint]] = {}
        self._day: dict[_Key, deque[ChartPoint]] = {}
        self._totals: dict[_Key, TrafficTotals] = {}
        # Unix seconds of the sample that last saw tokens or an answer of a model.
        self._used_at: dict[str, float] = {}
        self._sampled_at: float | None = None
        # Samples of the present minute.
        self._minute: dict[_Key, list[ChartPoint]] = {}
        self._minute_started_at = 0.0
        self._tasks = TaskSupervisor("charts")

    async def start(self) -> None:
        """Load the points of the last day, fill in the samples of the last minutes, and begin to sample."""
        now = self._clock()
        for row in await chart_points.list_since(self._db, now - DAY_S):
            key = (row.kind, row.subject)
            self._day_of(key).append(row.point)
            if row.point.at > now - RECENT_S:
                self._recent_of(key).extend(samples_like(row.point))
        self._tasks.spawn(self._run(), "sample")

    async def close(self) -> None:
        await self._tasks.close()

    def series(self, kind: str, *, recent: bool) -> tuple[ChartSeries, ...]:
        """Points of all nodes or models, oldest first: samples of the last minutes, or minutes of a day."""
        since = self._clock() - (RECENT_S if recent else DAY_S)
        found = self._recent if recent else self._day
        return tuple(
            ChartSeries(id=subject, points=tuple(point for point in points if point.at > since))
            for (each, subject), points in found.items()
            if each == kind
        )

    async def _run(self) -> None:
        while True:
            self.sample()
            if self._clock() - self._minute_started_at >= 60.0:
                await self._end_minute()
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    def sample(self) -> None:
        """Record the present figures of all nodes that are online, and of all models in use."""
        now = self._clock()
        elapsed_s = 0.0 if self._sampled_at is None else now - self._sampled_at
        self._sampled_at = now
        if not self._minute_started_at:
            self._minute_started_at = now
        queued = self._get_queued()
        nodes = [node for node in self._view.online_nodes() if node.heartbeat is not None]
        for node in nodes:
            self._record(("node", node.id), self._node_point(node, now, elapsed_s))
        growth = self._count_models(now)
        for model_id in self._models_in_use(nodes, queued, now):
            grown, waiting = growth.get(model_id, _NO_TRAFFIC), queued.get(model_id, 0)
            self._record(
                ("model", model_id), self._model_point(model_id, nodes, now, elapsed_s, grown, waiting)
            )

    def _models_in_use(self, nodes: Iterable[Node], queued: Iterable[str], now: float) -> Iterable[str]:
        """At most `MAX_MODELS`: those that are loaded, waited for or were used in the last minutes."""
        for model_id in [one for one, used_at in self._used_at.items() if used_at < now - RECENT_S]:
            del self._used_at[model_id]
        by_use = sorted(self._used_at, key=self._used_at.__getitem__, reverse=True)
        loaded = (model_id for node in nodes for model_id in node.engines)
        return itertools.islice(dict.fromkeys(itertools.chain(loaded, queued, by_use)), MAX_MODELS)

    def _count_models(self, now: float) -> dict[str, TrafficTotals]:
        """Return the growth of every model since the last sample, and note which were used."""
        growth = {
            model_id: self._take_growth(("model", model_id), self._traffic.model_totals(model_id))
            for model_id in self._traffic.models()
        }
        self._used_at.update((model_id, now) for model_id, grown in growth.items() if any(grown))
        return growth

    def _take_growth(self, key: _Key, totals: TrafficTotals) -> TrafficTotals:
        """Return the counts since the last sample."""
        before = self._totals.get(key, _NO_TRAFFIC)
        self._totals[key] = totals
        return TrafficTotals(totals.answered - before.answered, totals.tokens - before.tokens)

    def _node_point(self, node: Node, now: float, elapsed_s: float) -> ChartPoint:
        assert node.heartbeat is not None  # noqa: S101  # the caller has checked
        meters = node.heartbeat.meters
        growth = self._take_growth(("node", node.id), self._traffic.node_totals(node.id))
        return ChartPoint(
            at=now,
            requests=growth.answered,
            tokens_per_second=_tokens_per_second(growth, elapsed_s),
            active_requests=self._traffic.active_requests(node.id),
            memory_bytes=sum(engine.memory_bytes for engine in node.engines.values()),
            cpu_usage=meters.cpu_usage,
            memory_usage=meters.memory_usage,
            gpu_usage=meters.gpu_usage,
            gpu_memory_usage=meters.gpu_memory_usage,
        )

    def _model_point(
        self,
        model_id: str,
        nodes: Iterable[Node],
        now: float,
        elapsed_s: float,
        growth: TrafficTotals,
        queued: int,
    ) -> ChartPoint:
        engines = [node.engines[model_id] for node in nodes if model_id in node.engines]
        return ChartPoint(
            at=now,
            requests=growth.answered,
            tokens_per_second=_tokens_per_second(growth, elapsed_s),
            active_requests=sum(engine.busy for engine in engines),
            queued=queued,
            memory_bytes=sum(engine.memory_bytes for engine in engines),
        )

    def _record(self, key: _Key, point: ChartPoint) -> None:
        self._recent_of(key).append(point)
        self._minute.setdefault(key, []).append(point)

    async def _end_minute(self) -> None:
        rows = [
            ChartRow(kind=kind, subject=subject, point=mean_point(points))
            for (kind, subject), points in self._minute.items()
        ]
        self._minute, self._minute_started_at = {}, self._clock()
        for row in rows:
            self._day_of((row.kind, row.subject)).append(row.point)
        self._forget_old()
        try:
            async with self._db.write() as tx:
                await chart_points.put(tx, rows)
                await chart_points.remove_before(tx, self._clock() - DAY_S)
        except sqlite3.Error as error:
            if (trouble := describe_sqlite_error(error)) is None:
                raise
            # A missing minute in a chart is worth one line of the log, not a retry.
            log.warning("figures for charts could not be stored: %s", trouble)

    def _forget_old(self) -> None:
        """Drop series without recent figures: removed nodes, unused models."""
        now = self._clock()
        for found, age_s in ((self._recent, RECENT_S), (self._day, DAY_S)):
            for key in [key for key, points in found.items() if not points or points[-1].at < now - age_s]:
                del found[key]

    def _recent_of(self, key: _Key) -> deque[ChartPoint]:
        return self._recent.setdefault(key, deque(maxlen=RECENT_SAMPLES))

    def _day_of(self, key: _Key) -> deque[ChartPoint]:
        return self._day.setdefault(key, deque(maxlen=MINUTES_PER_DAY))


def _tokens_per_second(growth: TrafficTotals, elapsed_s: float) -> float:
    # Negative where tokens that were counted turned out to be too many.
    return max(0.0, growth.tokens / elapsed_s) if elapsed_s > 0 else 0.0


def samples_like(minute: ChartPoint) -> Iterator[ChartPoint]:
    """Samples whose mean is `minute`: charts of the last minutes show a gap where they are further apart."""
    for age_s in range(int(60 - SAMPLE_INTERVAL_S), -1, -int(SAMPLE_INTERVAL_S)):
        yield structs.replace(minute, at=minute.at - age_s, requests=0 if age_s else minute.requests)


def mean_point(points: list[ChartPoint]) -> ChartPoint:
    """Merge several points: sums of requests, peaks of waiting and running requests, means of the rest."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return ChartPoint(
        at=points[-1].at,
        requests=sum(point.requests for point in points),
        tokens_per_second=sum(point.tokens_per_second for point in points) / len(points),
        active_requests=max(point.active_requests for point in points),
        queued=max(point.queued for point in points),
        memory_bytes=points[-1].memory_bytes,
        cpu_usage=mean([point.cpu_usage for point in points]),
        memory_usage=mean([point.memory_usage for point in points]),
        gpu_usage=mean([point.gpu_usage for point in points]),
        gpu_memory_usage=mean([point.gpu_memory_usage for point in points]),
    )
