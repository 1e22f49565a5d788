"""How fast each node runs each model, learnt from what it did; what a request will probably cost, and how long a load takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import DEFAULT_LOAD_S, RequestEstimate, Throughput
from llb.wire import EngineReport, EngineState

DECAY = 0.9  # of what was known, when something new is: the last ten requests make up two thirds
LOAD_EWMA_WEIGHT = 0.5  # of the newest load
LOAD_BYTES_PER_S = 300_000_000  # from a disk, before any load was measured
MIN_LOAD_S = 1.0

DEFAULT_COMPLETION_TOKENS = 200  # before any answer was counted

# Fewer tokens take as long as one step of the engine does, whatever its speed; and the first ones after a load take longer.
MIN_PREFILL_TOKENS = 32
TRUSTED_PREFILL_TOKENS = 200
# A node that is taken for slow gets no requests, and so would stay slow for ever if it was measured at a bad moment.
STALE_AFTER_S = 600.0
STALE_GROWTH_FACTOR = 2**0.5


class DecayingRatio:
    """A quotient of two sums that forgets: each request counts as much as it was large."""

    __slots__ = ("_denominator", "_numerator")

    def __init__(self) -> None:
        self._numerator = self._denominator = 0.0

    def add(self, numerator: float, denominator: float) -> None:
        self._numerator = DECAY * self._numerator + numerator
        self._denominator = DECAY * self._denominator + denominator

    def value(self, min_numerator: float = 0.0) -> float | None:
        """None while its upper sum is below `trusted`."""
        return (
            self._numerator / self._denominator
            if self._denominator > 0 and self._numerator >= min_numerator
            else None
        )

    def raise_to(self, value: float) -> None:
        self._denominator = self._numerator / value


class NodePerformance:
    """One model on one node."""

    def __init__(self, now: float) -> None:
        self.throughput = Throughput()
        self.prefill_rate = DecayingRatio()
        self.decode_rate = DecayingRatio()
        self.load_s: float | None = None
        self._updated_at = now

    def record_completion(
        self, now: float, uncached_tokens: int, usage: Usage, mean_busy_slots: float
    ) -> None:
        """Learn from an answer; `computed`: the tokens of its prompt that no cache had."""
        step_ms = 0.0
        # llama.cpp's clock starts when it has the first token: of a single one there is nothing to learn.
        steps = (usage.completion_tokens or 0) - 1
        if steps > 0 and usage.decode_ms:
            step_ms = usage.decode_ms / steps
            # All slots generate at the same time: the node does that many times what one gets.
            self.decode_rate.add(steps * max(1.0, mean_busy_slots), usage.decode_ms / 1000)
        if usage.prefill_ms and uncached_tokens >= MIN_PREFILL_TOKENS:
            self.prefill_rate.add(
                uncached_tokens, max(usage.prefill_ms - step_ms, usage.prefill_ms / 2) / 1000
            )
        self._update_throughput(now)

    def is_stale(self, now: float) -> bool:
        return now - self._updated_at >= STALE_AFTER_S

    def raise_towards(self, now: float, fastest: Throughput) -> None:
        """A step towards being taken for as fast as the fastest again, which gets it a request."""
        for ratio, most in (
            (self.prefill_rate, fastest.prefill_tokens_per_s),
            (self.decode_rate, fastest.decode_tokens_per_s),
        ):
            value = ratio.value()
            if value is not None and most is not None and value < most:
                ratio.raise_to(min(most, value * STALE_GROWTH_FACTOR))
        self._update_throughput(now)

    def _update_throughput(self, now: float) -> None:
        self._updated_at = now
        self.throughput.update(self.prefill_rate.value(TRUSTED_PREFILL_TOKENS), self.decode_rate.value())


class ModelPerformance:
    """One model, wherever it is answered."""

    def __init__(self) -> None:
        self.mean_completion_tokens = float(DEFAULT_COMPLETION_TOKENS)
        self.uncached_ratio = (
            DecayingRatio()
        )  # tokens of prompts that no cache had, of those that their length let expect


class PerformanceModel:
    """What is measured lives as long as the process, also while a node is away."""

    def __init__(
        self,
        *,
        on_load_ended: Callable[[str, str, float, bool], None] = (
            lambda _node_id, _model_id, _duration_s, _has_failed: None
        ),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_load_ended = on_load_ended
        self._clock = clock
        self._nodes: defaultdict[tuple[str, str], NodePerformance] = defaultdict(
            lambda: NodePerformance(clock())
        )
        self._models: defaultdict[str, ModelPerformance] = defaultdict(ModelPerformance)
        self._load_started_at: dict[tuple[str, str], float] = {}  # since when

    def throughput_of(self, node_id: str, model_id: str) -> Throughput:
        """The speed of this node, which goes on changing as it is measured."""
        return self._nodes[node_id, model_id].throughput

    def estimate_request(
        self, model_id: str, prompt_tokens: int, max_completion_tokens: int | None, affinity_key: int | None
    ) -> RequestEstimate:
        """What a request of so many tokens, by its length, will probably cost: of its prompt, what the caches lack; an
        answer like those before, but not more than `most_tokens`."""
        model = self._models[model_id]
        computed = model.uncached_ratio.value()
        answer_tokens = int(model.mean_completion_tokens)
        return RequestEstimate(
            prompt_tokens=prompt_tokens if computed is None else int(prompt_tokens * computed),
            completion_tokens=answer_tokens
            if max_completion_tokens is None
            else min(answer_tokens, max_completion_tokens),
            context_tokens=prompt_tokens,
            affinity_key=affinity_key,
        )

    def expected_completion_tokens(self, model_id: str) -> int:
        """How long answers of this model usually are."""
        return int(self._models[model_id].mean_completion_tokens)

    def record_completion(
        self, node_id: str, model_id: str, request: RequestEstimate, usage: Usage, *, mean_busy_slots: float
    ) -> None:
        """A request has been answered, while `busy` slots of the node were, on the average."""
        model = self._models[model_id]
        computed = 0
        if usage.prompt_tokens is not None:
            computed = usage.prompt_tokens - (usage.cached_tokens or 0)
            model.uncached_ratio.add(computed, request.context_tokens)
        if usage.completion_tokens:
            model.mean_completion_tokens = (
                DECAY * model.mean_completion_tokens + (1 - DECAY) * usage.completion_tokens
            )
        self._nodes[node_id, model_id].record_completion(self._clock(), computed, usage, mean_busy_slots)

    def raise_stale_throughput(self, node_id: str) -> None:
        """Let what was measured of a node long ago count less; to be called from time to time."""
        now = self._clock()
        for (known, model_id), node in self._nodes.items():
            if known == node_id and node.is_stale(now):
                node.raise_towards(now, self._fastest_throughput(model_id))

    def _fastest_throughput(self, model_id: str) -> Throughput:
        speeds = [node.throughput for (_, known), node in self._nodes.items() if known == model_id]
        return Throughput(
            max(
                (speed.prefill_tokens_per_s for speed in speeds if speed.prefill_tokens_per_s is not None),
                default=None,
            ),
            max(
                (speed.decode_tokens_per_s for speed in speeds if speed.decode_tokens_per_s is not None),
                default=None,
            ),
        )

    # --- loads --------------------------------------------------------------------------------------

    def track_loads(self, node_id: str, reports: Mapping[str, EngineReport]) -> None:
        """What all engines of a node, by model, do now: from starting to ready is a load."""
        for model_id in [model_id for node, model_id in self._load_started_at if node == node_id]:
            report = reports.get(model_id)
            if report is None or report.state is not EngineState.STARTING:
                took_s = self._clock() - self._load_started_at.pop((node_id, model_id))
                if report is not None and report.state in (EngineState.READY, EngineState.BUSY):
                    node = self._nodes[node_id, model_id]
                    before_s = took_s if node.load_s is None else node.load_s
                    node.load_s = before_s + LOAD_EWMA_WEIGHT * (took_s - before_s)
                    self._on_load_ended(node_id, model_id, took_s, False)
                elif report is not None and report.state is EngineState.FAILED:
                    self._on_load_ended(node_id, model_id, took_s, True)
        for model_id, report in reports.items():
            if report.state is EngineState.STARTING:
                self._load_started_at.setdefault((node_id, model_id), self._clock())

    def estimate_load_s(
        self, node_id: str, model_id: str, *, size_bytes: int | None, progress: float | None
    ) -> float:
        """Seconds until this node would have the model loaded, from where it is now."""
        whole_s = self._nodes[node_id, model_id].load_s
        if whole_s is None:
            whole_s = DEFAULT_LOAD_S if size_bytes is None else MIN_LOAD_S + size_bytes / LOAD_BYTES_PER_S
        return whole_s * (1 - (progress or 0.0))
