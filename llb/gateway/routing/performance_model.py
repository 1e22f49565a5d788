"""Performance model: measured throughput of nodes and models, and estimates of requests and loads from it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from llb.base.events import Topic
from llb.engine.watch_policy import EngineSpeed
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import DEFAULT_LOAD_S, RequestEstimate, Throughput
from llb.wire import EngineReport, EngineState

# Weight of the past at each new measurement: the last ten requests make up two thirds.
DECAY = 0.9
# Weight of the newest load
LOAD_EWMA_WEIGHT = 0.5
# Speed of a load from a disk, before any was measured.
LOAD_BYTES_PER_S = 300_000_000
MIN_LOAD_S = 1.0

# Before any completion was counted.
DEFAULT_COMPLETION_TOKENS = 200

# Fewer tokens take one step of the engine, at any speed.
MIN_PREFILL_TOKENS = 32
# The first tokens after a load take longer.
TRUSTED_PREFILL_TOKENS = 200
# A node that seems slow gets no requests, so a measurement at a bad moment would stay for ever.
STALE_AFTER_S = 600.0
STALE_GROWTH_FACTOR = 2**0.5


class DecayingRatio:
    """Quotient of two decaying sums: a request has weight according to its size."""

    __slots__ = ("denominator", "numerator")

    def __init__(self) -> None:
        self.numerator = self.denominator = 0.0

    def add(self, numerator: float, denominator: float) -> None:
        self.numerator = DECAY * self.numerator + numerator
        self.denominator = DECAY * self.denominator + denominator

    def value(self) -> float | None:
        """Return the quotient; None before anything was added."""
        return self.numerator / self.denominator if self.denominator > 0 else None


class MeasuredRate:
    """Tokens per second of one model on one node, from decaying sums."""

    __slots__ = ("_estimated_s", "_min_tokens", "_seconds", "_tokens")

    def __init__(self, min_tokens: float = 0.0) -> None:
        """With fewer than `min_tokens`, nothing counts as measured."""
        self._min_tokens = min_tokens
        self._tokens = self._seconds = 0.0
        # The seconds that the estimate explains the tokens with: fewer where it was raised.
        self._estimated_s = 0.0

    def add(self, tokens: float, seconds: float) -> tuple[float | None, float | None]:
        """Add a measurement; returns the rate as it was measured, and the estimate.

        None while too little was measured. The estimate has its growth while it was stale.
        """
        tokens = self._tokens = DECAY * self._tokens + tokens
        measured_s = self._seconds = DECAY * self._seconds + seconds
        estimated_s = self._estimated_s = DECAY * self._estimated_s + seconds
        if tokens < self._min_tokens or estimated_s <= 0:
            return None, None
        return tokens / measured_s, tokens / estimated_s

    def raise_towards(self, fastest: float | None) -> float | None:
        """Raise the estimate one step towards `fastest`, and keep its weight; returns it."""
        if self._estimated_s <= 0:
            return None
        rate = self._tokens / self._estimated_s
        if fastest is not None and rate < fastest:
            rate = min(fastest, rate * STALE_GROWTH_FACTOR)
            self._estimated_s = self._tokens / rate
        return rate if self._tokens >= self._min_tokens else None


_NOT_MEASURED = EngineSpeed()


class NodePerformance:
    """Measurements of one model on one node. Endpoints have thousands of models, most of them never asked."""

    __slots__ = ("_decode", "_prefill", "_updated_at", "load_s", "speed", "throughput")

    # Set with the first measurement.
    _prefill: MeasuredRate
    _decode: MeasuredRate

    def __init__(self, now: float) -> None:
        self.throughput = Throughput()
        # Measurements, without the growth of stale estimates: an object that later measurements update.
        self.speed = _NOT_MEASURED
        self.load_s: float | None = None
        self._updated_at = now

    @property
    def is_measured(self) -> bool:
        return self.speed is not _NOT_MEASURED

    def record_completion(
        self, now: float, uncached_tokens: int, usage: Usage, mean_busy_slots: float
    ) -> None:
        """Record an answered request with `uncached_tokens` prompt tokens that were not in a cache."""
        speed, throughput, decode_ms = self.speed, self.throughput, usage.decode_ms
        if speed is _NOT_MEASURED:
            speed = self.speed = EngineSpeed()
            self._prefill, self._decode = MeasuredRate(TRUSTED_PREFILL_TOKENS), MeasuredRate()
        prefill, decode = throughput.prefill_tokens_per_s, throughput.decode_tokens_per_s
        step_ms = 0.0
        # llama.cpp's clock starts with the first token: a single one gives no measurement.
        steps = (usage.completion_tokens or 0) - 1
        if steps > 0 and decode_ms:
            step_ms = decode_ms / steps
            # Slots generate in parallel: the node's rate is that of one slot times the busy slots.
            speed.decode_tokens_per_s, decode = self._decode.add(
                steps * mean_busy_slots if mean_busy_slots > 1.0 else steps, decode_ms / 1000
            )
        if uncached_tokens >= MIN_PREFILL_TOKENS and usage.prefill_ms:
            prefill_ms = max(usage.prefill_ms - step_ms, usage.prefill_ms / 2)
            speed.prefill_tokens_per_s, prefill = self._prefill.add(uncached_tokens, prefill_ms / 1000)
        self._updated_at = now
        throughput.update(prefill, decode)

    def is_stale(self, now: float) -> bool:
        """Whether nothing was measured for `STALE_AFTER_S`."""
        return now - self._updated_at >= STALE_AFTER_S

    def raise_towards(self, now: float, fastest: Throughput) -> None:
        """Raise the estimate one step towards the fastest node, until the node gets a request again."""
        if self.is_measured:
            self._updated_at = now
            self.throughput.update(
                self._prefill.raise_towards(fastest.prefill_tokens_per_s),
                self._decode.raise_towards(fastest.decode_tokens_per_s),
            )


class ModelPerformance:
    """Measurements of one model on all nodes."""

    def __init__(self) -> None:
        self.mean_completion_tokens = float(DEFAULT_COMPLETION_TOKENS)
        # prompt tokens that were not in a cache, relative to the estimate from the prompt's length
        self.uncached_ratio = DecayingRatio()


class PerformanceModel:
    """Measurements and estimates of all nodes, in memory, kept while a node is offline."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Node id, model id, duration in seconds, and whether the load has failed.
        self.load_ended: Topic[str, str, float, bool] = Topic()
        self._clock = clock
        self._nodes: defaultdict[tuple[str, str], NodePerformance] = defaultdict(
            lambda: NodePerformance(clock())
        )
        self._models: defaultdict[str, ModelPerformance] = defaultdict(ModelPerformance)
        # Measured models by node; there may be thousands of pairs.
        self._models_of_node: defaultdict[str, set[str]] = defaultdict(set)
        self._nodes_of_model: defaultdict[str, set[str]] = defaultdict(set)
        # by node and model
        self._load_started_at: dict[tuple[str, str], float] = {}

    def throughput_of(self, node_id: str, model_id: str) -> Throughput:
        """Return the throughput of a model on a node, an object that later measurements update."""
        return self._nodes[node_id, model_id].throughput

    def speed_of(self, node_id: str, model_id: str) -> EngineSpeed:
        """Return the measured speed of a model on a node."""
        return self._nodes[node_id, model_id].speed

    def estimate_request(
        self, model_id: str, prompt_tokens: int, max_completion_tokens: int | None, affinity_key: int | None
    ) -> RequestEstimate:
        """Return the expected cost of a request with about `prompt_tokens`.

        The prompt counts without its usual cached part; the completion has the usual length, up to
        `max_completion_tokens`.
        """
        model = self._models[model_id]
        uncached_ratio = model.uncached_ratio.value()
        completion_tokens = int(model.mean_completion_tokens)
        if max_completion_tokens is not None and max_completion_tokens < completion_tokens:
            completion_tokens = max_completion_tokens
        return RequestEstimate(
            prompt_tokens if uncached_ratio is None else int(prompt_tokens * uncached_ratio),
            completion_tokens,
            prompt_tokens,
            affinity_key,
        )

    def expected_completion_tokens(self, model_id: str) -> int:
        """Return the mean length of the model's completions, in tokens."""
        return int(self._models[model_id].mean_completion_tokens)

    def record_completion(
        self, node_id: str, model_id: str, request: RequestEstimate, usage: Usage, *, mean_busy_slots: float
    ) -> None:
        """Record an answered request, during which `mean_busy_slots` of the node were busy."""
        model, node = self._models[model_id], self._nodes[node_id, model_id]
        if not node.is_measured:
            self._models_of_node[node_id].add(model_id)
            self._nodes_of_model[model_id].add(node_id)
        uncached_tokens = 0
        if usage.prompt_tokens is not None:
            uncached_tokens = usage.prompt_tokens - (usage.cached_tokens or 0)
            model.uncached_ratio.add(uncached_tokens, request.context_tokens)
        if usage.completion_tokens:
            model.mean_completion_tokens = (
                DECAY * model.mean_completion_tokens + (1 - DECAY) * usage.completion_tokens
            )
        node.record_completion(self._clock(), uncached_tokens, usage, mean_busy_slots)

    def raise_stale_throughput(self, node_id: str) -> list[str]:
        """Raise the stale estimates of a node one step, and return the models that they are of.

        Called at every heartbeat of a node, and at every check of an endpoint.
        """
        now = self._clock()
        stale = [
            model_id
            for model_id in self._models_of_node.get(node_id, ())
            if self._nodes[node_id, model_id].is_stale(now)
        ]
        for model_id in stale:
            self._nodes[node_id, model_id].raise_towards(now, self._fastest_throughput(model_id))
        return stale

    def _fastest_throughput(self, model_id: str) -> Throughput:
        nodes = self._nodes_of_model[model_id]
        throughputs = [self._nodes[node_id, model_id].throughput for node_id in nodes]
        prefill_rates = [throughput.prefill_tokens_per_s for throughput in throughputs]
        decode_rates = [throughput.decode_tokens_per_s for throughput in throughputs]
        return Throughput(_max_known(prefill_rates), _max_known(decode_rates))

    # --- loads --------------------------------------------------------------------------------------

    def track_loads(self, node_id: str, reports: Mapping[str, EngineReport]) -> None:
        """Measure loads from the reports of all engines of a node: from `starting` to `ready`."""
        for model_id in [model_id for node, model_id in self._load_started_at if node == node_id]:
            report = reports.get(model_id)
            if report is None or report.state is not EngineState.STARTING:
                duration_s = self._clock() - self._load_started_at.pop((node_id, model_id))
                if report is not None and report.state in (EngineState.READY, EngineState.BUSY):
                    node = self._nodes[node_id, model_id]
                    previous_s = duration_s if node.load_s is None else node.load_s
                    node.load_s = previous_s + LOAD_EWMA_WEIGHT * (duration_s - previous_s)
                    self.load_ended.publish(node_id, model_id, duration_s, False)
                elif report is not None and report.state is EngineState.FAILED:
                    self.load_ended.publish(node_id, model_id, duration_s, True)
        for model_id, report in reports.items():
            if report.state is EngineState.STARTING:
                self._load_started_at.setdefault((node_id, model_id), self._clock())

    def estimate_load_s(
        self, node_id: str, model_id: str, *, size_bytes: int | None, progress: float | None
    ) -> float:
        """Return the seconds until a node would have a model loaded, given the progress of a running load."""
        load_s = self._nodes[node_id, model_id].load_s
        if load_s is None:
            load_s = DEFAULT_LOAD_S if size_bytes is None else MIN_LOAD_S + size_bytes / LOAD_BYTES_PER_S
        return load_s * (1 - (progress or 0.0))


def _max_known(rates: Iterable[float | None]) -> float | None:
    return max((rate for rate in rates if rate is not None), default=None)
