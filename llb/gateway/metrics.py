"""What Prometheus may read: what requests took, counted as they end, and how the cluster stands when it is asked.

Names are OpenTelemetry's for generative AI where it has one. No user, key or address is in a label; a model name is one of
the catalogue's, so that whoever makes up names cannot make up series.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tallied
from collections.abc import Iterable, Iterator
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from llb import __version__
from llb.cluster.view import ClusterView
from llb.gateway.admission import Admission
from llb.gateway.history import Tally
from llb.gateway.operations import OPERATIONS
from llb.tasks import TaskGroup
from llb.wire import EngineState, NodeStatus, ReplicaState

# The buckets that OpenTelemetry's conventions for generative AI recommend, in seconds.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
SHORT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

LAG_EVERY_S = 0.25
KEPT_SERIES = 1024

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that says when it began


class Metrics:
    """One registry of this process. `ended` is told of requests in batches; `text()` is what is read."""

    def __init__(self, view: ClusterView, admission: Admission) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        labels = ("gen_ai_operation_name", "gen_ai_request_model")
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer",
            (*labels, "error_type"),
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the arrival of a request to its first token",
            labels,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time the engine took for each token after the first",
            labels,
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "llb_tokens",
            "Tokens of prompts (those that were in the cache too), from the cache, and of answers",
            ("model", "type"),
            registry=self.registry,
        )
        self._queued = Histogram(
            "llb_queue_wait_seconds",
            "Time a request waited for a slot",
            ("model",),
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._overhead = Histogram(
            "llb_relay_overhead_seconds",
            "Time from the arrival of a request to its sending, the wait for a slot and for a load not counted",
            buckets=SHORT_BUCKETS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "llb_event_loop_lag_seconds",
            "How late the event loop wakes up",
            buckets=SHORT_BUCKETS,
            registry=self.registry,
        )
        # A series is found by its labels' values again and again.
        self._duration_of = lru_cache(KEPT_SERIES)(self._duration.labels)
        self._first_token_of = lru_cache(KEPT_SERIES)(self._first_token.labels)
        self._per_token_of = lru_cache(KEPT_SERIES)(self._per_token.labels)
        self._tokens_of = lru_cache(KEPT_SERIES)(self._tokens.labels)
        self._queued_of = lru_cache(KEPT_SERIES)(self._queued.labels)
        self.registry.register(_Standing(view, admission))
        ProcessCollector(registry=self.registry)
        self._tasks = TaskGroup("metrics")

    def start(self) -> None:
        self._tasks.supervise(self._watch_the_loop(), "lag")

    async def close(self) -> None:
        await self._tasks.close()

    def ended(self, tallies: Iterable[Tally]) -> None:
        """Count requests that have ended."""
        for tally in tallies:
            self._count(tally)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _count(self, tally: Tally) -> None:
        model = tally.model_id or ""
        operation = OPERATIONS.get(tally.endpoint, tally.endpoint.removeprefix("/v1/"))
        usage = tally.usage
        self._duration_of(operation, model, tally.error_code or "").observe(tally.ended_at - tally.began_at)
        if tally.node_id is None:
            return
        self._queued_of(model).observe(tally.queued_s)
        if (ttft_s := tally.ttft_s()) is not None:
            self._first_token_of(operation, model).observe(ttft_s)
        if usage.decode_ms is not None and (usage.completion_tokens or 0) > 1:
            self._per_token_of(operation, model).observe(
                usage.decode_ms / 1000 / ((usage.completion_tokens or 0) - 1)
            )
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ):
            if tokens:
                self._tokens_of(model, kind).inc(tokens)
        if tally.sent_at is not None:
            self._overhead.observe(max(0.0, tally.sent_at - tally.began_at - tally.queued_s - tally.loaded_s))

    async def _watch_the_loop(self) -> None:
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(0.0, time.monotonic() - due))


class _Standing(Collector):
    """How queues, slots, nodes, engines and replicas stand at the moment of the question; nothing is kept."""

    def __init__(self, view: ClusterView, admission: Admission) -> None:
        self._view = view
        self._admission = admission

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("llb_build_info", "The version that runs", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        yield from self._queues()
        yield from self._nodes()
        yield from self._models()

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("llb_queue_depth", "Requests that wait for a slot", labels=("model",))
        slots = GaugeMetricFamily("llb_slots", "Slots for requests", labels=("node", "model"))
        busy = GaugeMetricFamily("llb_slots_busy", "Slots in use", labels=("node", "model"))
        for queue in self._admission.snapshot():
            depth.add_metric((queue.model_id,), queue.waiting)
            for count in queue.nodes:
                labels = (self._name(count.node_id), queue.model_id)
                slots.add_metric(labels, count.slots)
                busy.add_metric(labels, count.busy)
        yield from (depth, slots, busy)

    def _nodes(self) -> Iterator[Metric]:
        by_node = ("node",)
        status = GaugeMetricFamily(
            "llb_node_status", "1 for the status a node has", labels=("node", "status")
        )
        draining = GaugeMetricFamily(
            "llb_node_draining", "Whether a node gets no new requests", labels=by_node
        )
        budget = GaugeMetricFamily("llb_node_memory_budget_bytes", "Memory a node offers", labels=by_node)
        used = GaugeMetricFamily("llb_node_memory_used_bytes", "Memory its engines use", labels=by_node)
        disk = GaugeMetricFamily("llb_node_disk_free_bytes", "Disk a node offers", labels=by_node)
        active = GaugeMetricFamily("llb_node_active_requests", "Requests at a node", labels=by_node)
        engines = GaugeMetricFamily("llb_engines", "Engines of a node by state", labels=("node", "state"))
        for node in self._view.nodes.values():
            name = node.hello.name
            for each in NodeStatus:
                status.add_metric((name, each.value), node.status is each)
            draining.add_metric((name,), node.draining)
            budget.add_metric((name,), node.hello.memory_budget_bytes)
            active.add_metric((name,), self._view.active_requests(node.id))
            if node.heartbeat is not None and node.online:
                used.add_metric((name,), node.heartbeat.memory_used_bytes)
                disk.add_metric((name,), node.heartbeat.disk_free_bytes)
            states = Tallied(engine.state for engine in node.engines.values()) if node.online else {}
            for state in EngineState:
                engines.add_metric((name, state.value), states.get(state, 0))
        yield from (status, draining, budget, used, disk, active, engines)

    def _models(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily("llb_replicas", "Replicas on a node by state", labels=("node", "state"))
        progress = GaugeMetricFamily(
            "llb_download_progress", "Share of a replica that has arrived, 0-1", labels=("node", "model")
        )
        for node in self._view.nodes.values():
            states = Tallied(report.state for report in node.replicas.values())
            for state in ReplicaState:
                replicas.add_metric((node.hello.name, state.value), states.get(state, 0))
            for model_id, report in node.replicas.items():
                if report.state in (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING):
                    progress.add_metric((node.hello.name, model_id), report.progress)
        yield from (replicas, progress)

    def _name(self, node_id: str) -> str:
        node = self._view.nodes.get(node_id)
        return node_id if node is None else node.hello.name
