"""Prometheus metrics of requests, loads and downloads, counted as they end.

`state_collector` adds the current state.

Names follow OpenTelemetry's conventions for generative AI where they have one. No label contains a user, a
key or an address; model names are those of the catalogue and of a bounded number of others, so that clients
cannot create series without end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from llb.base.tasks import TaskSupervisor
from llb.cluster.view import ClusterView
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.engine_routes import OPERATION_OF_PATH, Operation
from llb.gateway.observability.histogram import Histogram
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.observability.state_collector import StateCollector
from llb.gateway.spill.book import SpillBook
from llb.wire import ReplicaReport, ReplicaState

# The buckets that OpenTelemetry's conventions for generative AI recommend, in seconds.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LOAD_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

# Maximum number of endpoint models with their own series: a model takes about 40 lines of `/metrics`, and
# endpoints have thousands. All further models share this name.
MAX_ENDPOINT_MODELS = 100
OTHER_MODELS = "other"

LAG_INTERVAL_S = 0.25
SERIES_CACHE_SIZE = 1024

# They would add a second series to each, with its time of creation.
disable_created_metrics()  # type: ignore[no-untyped-call]

_OPERATION_OF_ENDPOINT = {
    **OPERATION_OF_PATH,
    "/api/chat": Operation.CHAT,
    "/api/generate": Operation.COMPLETION,
    "/api/embed": Operation.EMBEDDINGS,
    "/api/embeddings": Operation.EMBEDDINGS,
}
# Errors of requests that left the queue; a request that was rejected at once did not wait.
_QUEUE_EXIT_ERRORS = ("queue_timeout", "client_closed")
_DOWNLOADING_STATES = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


class _Observations:
    """Values of the requests of one batch with the same route, model and outcome."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "duration",
        "first_token",
        "model",
        "operation",
        "overhead",
        "per_token",
        "prompt_tokens",
        "queue_wait",
    )

    def __init__(self, operation: str, model: str) -> None:
        self.operation = operation
        # The label.
        self.model = model
        self.duration: list[float] = []
        self.first_token: list[float] = []
        self.overhead: list[float] = []
        self.per_token: list[float] = []
        self.queue_wait: list[float] = []
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0


class _RequestSeries:
    """Series of requests, counted when they have ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("gen_ai_operation_name", "gen_ai_request_model")
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer",
            (*labels, "error_type"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the arrival of a request to its first token",
            labels,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time the engine took for each token after the first",
            labels,
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        tokens = Counter(
            "llb_tokens",
            "Tokens of prompts (those that were in the cache too), from the cache, and of answers",
            ("model", "type"),
            registry=registry,
        )
        self.cost = Counter(
            "llb_cost_usd",
            "Known cost of the requests that were answered by targets that bill",
            ("model",),
            registry=registry,
        )
        self.queue_wait = Histogram(
            "llb_queue_wait_seconds",
            "Time a request waited for a slot",
            ("model",),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.overhead = Histogram(
            "llb_relay_overhead_seconds",
            "Time from the arrival of a request to its sending, "
            "the wait for a slot and for a load not counted",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # `labels()` is slow, and the same label values occur again and again.
        self.tokens_of = lru_cache(SERIES_CACHE_SIZE)(tokens.labels)


class _NodeSeries:
    """Series of nodes: their loads and their downloads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.load_duration = Histogram(
            "llb_engine_load_seconds",
            "Time until a node had a model in memory",
            ("node", "model"),
            buckets=LOAD_BUCKETS,
            registry=registry,
        )
        self.failed_loads = Counter(
            "llb_engine_load_failures",
            "Loads that ended with an engine that failed",
            ("node", "model"),
            registry=registry,
        )
        self.downloads = Counter(
            "llb_downloads",
            "Replicas that were fetched and verified (ready), or could not be (error)",
            ("node", "outcome"),
            registry=registry,
        )
        self.downloaded_bytes = Counter(
            "llb_downloaded_bytes",
            "Bytes of model files that arrived, from the Hub or from other nodes",
            ("node",),
            registry=registry,
        )


class Metrics:
    """Metrics registry of this process."""

    def __init__(
        self,
        view: ClusterView,
        admission: AdmissionController,
        endpoints: EndpointRegistry,
        spill_book: SpillBook,
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = _RequestSeries(self.registry)
        self._nodes = _NodeSeries(self.registry)
        self._loop_lag = Histogram(
            "llb_event_loop_lag_seconds",
            "How late the event loop wakes up",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._view = view
        self._endpoint_models: set[str] = set()
        # by node and model
        self._last_reports: dict[tuple[str, str], ReplicaReport] = {}
        self.registry.register(StateCollector(view, admission, endpoints, spill_book))
        ProcessCollector(registry=self.registry)
        self._tasks = TaskSupervisor("metrics")

    def start(self) -> None:
        """Start measuring the lag of the event loop."""
        self._tasks.spawn(self._measure_loop_lag(), "lag")

    async def close(self) -> None:
        """Stop measuring; idempotent."""
        await self._tasks.close()

    def record_requests(self, records: Iterable[RequestRecord]) -> None:
        """Count requests that have ended."""
        found: dict[tuple[str, str | None, str | None], _Observations] = {}
        for record in records:
            key = (record.endpoint, record.model_id, record.error_code)
            observed = found.get(key)
            if observed is None:
                observed = found[key] = self._new_observations(record.endpoint, record.model_id)
            self._add_request(record, observed)
        for (_, _, error_code), observed in found.items():
            self._observe(observed, error_code or "")

    def record_load(self, node_id: str, model_id: str, duration_s: float, failed: bool) -> None:
        """Count a load that has ended."""
        labels = (self._view.node_name_of(node_id), model_id)
        if failed:
            self._nodes.failed_loads.labels(*labels).inc()
        else:
            self._nodes.load_duration.series(*labels).observe(duration_s)

    def record_replica(self, node_id: str, report: ReplicaReport) -> None:
        """Count the progress of a replica since its previous report; the first report is the baseline."""
        key = (node_id, report.model_id)
        previous = self._last_reports.get(key)
        if report.state is ReplicaState.GONE:
            self._last_reports.pop(key, None)
        else:
            self._last_reports[key] = report
        if previous is None or previous.state not in _DOWNLOADING_STATES:
            return
        name = self._view.node_name_of(node_id)
        # Fewer bytes than before were discarded, and will be downloaded again.
        self._nodes.downloaded_bytes.labels(name).inc(
            max(0, report.downloaded_bytes - previous.downloaded_bytes)
        )
        if report.state in (ReplicaState.READY, ReplicaState.ERROR):
            self._nodes.downloads.labels(name, report.state.value).inc()

    def forget_node(self, node_id: str) -> None:
        """Forget the last reports of a node's replicas; counters stay."""
        for key in [key for key in self._last_reports if key[0] == node_id]:
            del self._last_reports[key]

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _add_request(self, record: RequestRecord, observed: _Observations) -> None:
        """Add a request to `observed`."""
        usage = record.usage
        observed.duration.append(record.ended_at - record.started_at)
        is_placed = record.node_id is not None or record.endpoint_id is not None
        if is_placed or (record.queued_s and record.error_code in _QUEUE_EXIT_ERRORS):
            observed.queue_wait.append(record.queued_s)
        if record.cost_usd:
            self._requests.cost.labels(observed.model).inc(record.cost_usd)
        if not is_placed:
            return
        if (ttft_s := record.ttft_s()) is not None:
            observed.first_token.append(ttft_s)
        completion_tokens = usage.completion_tokens or 0
        if usage.decode_ms is not None and completion_tokens > 1:
            observed.per_token.append(usage.decode_ms / 1000 / (completion_tokens - 1))
        observed.prompt_tokens += usage.prompt_tokens or 0
        observed.cached_tokens += usage.cached_tokens or 0
        observed.completion_tokens += completion_tokens
        if record.sent_at is not None:
            waited_s = record.sent_at - record.started_at - record.queued_s - record.load_s
            observed.overhead.append(waited_s if waited_s > 0 else 0.0)

    def _observe(self, observed: _Observations, error_code: str) -> None:
        """Count the observed values, without creating a series that has none."""
        series = self._requests
        labels = (observed.operation, observed.model)
        series.duration.series(*labels, error_code).observe_all(observed.duration)
        if observed.queue_wait:
            series.queue_wait.series(observed.model).observe_all(observed.queue_wait)
        if observed.first_token:
            series.first_token.series(*labels).observe_all(observed.first_token)
        if observed.per_token:
            series.per_token.series(*labels).observe_all(observed.per_token)
        series.overhead.series().observe_all(observed.overhead)
        for kind, tokens in (
            ("prompt", observed.prompt_tokens),
            ("cached", observed.cached_tokens),
            ("completion", observed.completion_tokens),
        ):
            if tokens:
                series.tokens_of(observed.model, kind).inc(tokens)

    def _new_observations(self, endpoint: str, model_id: str | None) -> _Observations:
        operation = _OPERATION_OF_ENDPOINT.get(endpoint, endpoint.removeprefix("/v1/"))
        return _Observations(operation, self._model_label(model_id))

    def _model_label(self, model_id: str | None) -> str:
        """Return the label of a model; empty for a request that named none that exists."""
        if model_id is None:
            return ""
        if model_id in self._endpoint_models or self._view.get_model(model_id) is not None:
            return model_id
        if len(self._endpoint_models) >= MAX_ENDPOINT_MODELS:
            return OTHER_MODELS
        self._endpoint_models.add(model_id)
        return model_id

    async def _measure_loop_lag(self) -> None:
        while True:
            due_at = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._loop_lag.series().observe(max(0.0, time.monotonic() - due_at))
