"""What Prometheus may read: what requests, loads and downloads took, counted as they end, and how the cluster stands when it is
asked (`standing`).

Names are OpenTelemetry's for generative AI where it has one. No user, key or address is in a label; a model name is one of
the catalogue's, so that whoever makes up names cannot make up series.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from llb.cluster.view import ClusterView
from llb.gateway.admission import Admission
from llb.gateway.history import Tally
from llb.gateway.operations import OPERATIONS, Operation
from llb.gateway.standing import Standing
from llb.tasks import TaskGroup
from llb.wire import ReplicaReport, ReplicaState

# The buckets that OpenTelemetry's conventions for generative AI recommend, in seconds.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LOAD_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
SHORT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

LAG_EVERY_S = 0.25
KEPT_SERIES = 1024

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that says when it began

_OPERATIONS = {
    **OPERATIONS,
    "/api/chat": Operation.CHAT,
    "/api/generate": Operation.COMPLETION,
    "/api/embed": Operation.EMBEDDINGS,
    "/api/embeddings": Operation.EMBEDDINGS,
}
_GAVE_UP_WAITING = ("queue_timeout", "client_closed")  # whoever was refused at once did not wait
_COMING = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


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
        self._loads = Histogram(
            "llb_engine_load_seconds",
            "Time until a node had a model in memory",
            ("node", "model"),
            buckets=LOAD_BUCKETS,
            registry=self.registry,
        )
        self._failed_loads = Counter(
            "llb_engine_load_failures",
            "Loads that ended with an engine that failed",
            ("node", "model"),
            registry=self.registry,
        )
        self._downloads = Counter(
            "llb_downloads",
            "Replicas that were fetched and verified (ready), or could not be (error)",
            ("node", "outcome"),
            registry=self.registry,
        )
        self._downloaded = Counter(
            "llb_downloaded_bytes",
            "Bytes of model files that arrived, from the Hub or from other nodes",
            ("node",),
            registry=self.registry,
        )
        # A series is found by its labels' values again and again.
        self._duration_of = lru_cache(KEPT_SERIES)(self._duration.labels)
        self._first_token_of = lru_cache(KEPT_SERIES)(self._first_token.labels)
        self._per_token_of = lru_cache(KEPT_SERIES)(self._per_token.labels)
        self._tokens_of = lru_cache(KEPT_SERIES)(self._tokens.labels)
        self._queued_of = lru_cache(KEPT_SERIES)(self._queued.labels)
        self._view = view
        self._replicas: dict[tuple[str, str], ReplicaReport] = {}  # as each was last told of
        self.registry.register(Standing(view, admission))
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

    def loaded(self, node_id: str, model_id: str, took_s: float, failed: bool) -> None:
        """Count a load that has ended."""
        labels = (self._view.name_of(node_id), model_id)
        if failed:
            self._failed_loads.labels(*labels).inc()
        else:
            self._loads.labels(*labels).observe(took_s)

    def replica(self, node_id: str, report: ReplicaReport) -> None:
        """Count what this report of a replica adds to the one before; the first tells only where it stands."""
        key = (node_id, report.model_id)
        before = self._replicas.get(key)
        if report.state is ReplicaState.GONE:
            self._replicas.pop(key, None)
        else:
            self._replicas[key] = report
        if before is None or before.state not in _COMING:
            return
        name = self._view.name_of(node_id)
        # Fewer than before: they were thrown away, and come again.
        self._downloaded.labels(name).inc(max(0, report.downloaded_bytes - before.downloaded_bytes))
        if report.state in (ReplicaState.READY, ReplicaState.ERROR):
            self._downloads.labels(name, report.state.value).inc()

    def node_removed(self, node_id: str) -> None:
        """Its replicas are no longer followed; what was counted stays."""
        for key in [key for key in self._replicas if key[0] == node_id]:
            del self._replicas[key]

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _count(self, tally: Tally) -> None:
        model = tally.model_id or ""
        operation = _OPERATIONS.get(tally.endpoint, tally.endpoint.removeprefix("/v1/"))
        usage = tally.usage
        self._duration_of(operation, model, tally.error_code or "").observe(tally.ended_at - tally.began_at)
        if tally.node_id is not None or (tally.queued_s and tally.error_code in _GAVE_UP_WAITING):
            self._queued_of(model).observe(tally.queued_s)
        if tally.node_id is None:
            return
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
