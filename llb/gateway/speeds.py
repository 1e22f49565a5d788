"""How fast each node runs each model, learnt from what it did; what a request will probably cost, and how long a load takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from llb.decide.routing import DEFAULT_LOAD_S, Request, Speed
from llb.gateway.usage import Usage
from llb.wire import EngineReport, EngineState

KEEP = 0.9  # of what was known, when something new is: the last ten requests make up two thirds
LOAD_WEIGHT = 0.5  # of the newest load
LOAD_BYTES_PER_S = 300_000_000  # from a disk, before any load was measured
LOAD_LEAST_S = 1.0

ANSWER_TOKENS = 200  # before any answer was counted

# Fewer tokens take as long as one step of the engine does, whatever its speed; and the first ones after a load take longer.
LEAST_PREFILL_TOKENS = 32
TRUSTED_PREFILL_TOKENS = 200
# A node that is taken for slow gets no requests, and so would stay slow for ever if it was measured at a bad moment.
FADE_S = 600.0
FADE = 2**0.5


class Ratio:
    """A quotient of two sums that forgets: each request counts as much as it was large."""

    __slots__ = ("_above", "_below")

    def __init__(self) -> None:
        self._above = self._below = 0.0

    def add(self, above: float, below: float) -> None:
        self._above = KEEP * self._above + above
        self._below = KEEP * self._below + below

    def value(self, trusted: float = 0.0) -> float | None:
        """None while its upper sum is below `trusted`."""
        return self._above / self._below if self._below > 0 and self._above >= trusted else None

    def raise_to(self, value: float) -> None:
        self._below = self._above / value


class NodeSpeed:
    """One model on one node."""

    def __init__(self, now: float) -> None:
        self.speed = Speed()
        self.prefill = Ratio()
        self.decode = Ratio()
        self.load_s: float | None = None
        self._told = now

    def add(self, now: float, computed: int, usage: Usage, busy: float) -> None:
        """Learn from an answer; `computed`: the tokens of its prompt that no cache had."""
        step_ms = 0.0
        # llama.cpp's clock starts when it has the first token: of a single one there is nothing to learn.
        steps = (usage.completion_tokens or 0) - 1
        if steps > 0 and usage.decode_ms:
            step_ms = usage.decode_ms / steps
            # All slots generate at the same time: the node does that many times what one gets.
            self.decode.add(steps * max(1.0, busy), usage.decode_ms / 1000)
        if usage.prefill_ms and computed >= LEAST_PREFILL_TOKENS:
            self.prefill.add(computed, max(usage.prefill_ms - step_ms, usage.prefill_ms / 2) / 1000)
        self._tell(now)

    def is_old(self, now: float) -> bool:
        return now - self._told >= FADE_S

    def fade(self, now: float, fastest: Speed) -> None:
        """A step towards being taken for as fast as the fastest again, which gets it a request."""
        for ratio, most in ((self.prefill, fastest.prefill), (self.decode, fastest.decode)):
            value = ratio.value()
            if value is not None and most is not None and value < most:
                ratio.raise_to(min(most, value * FADE))
        self._tell(now)

    def _tell(self, now: float) -> None:
        self._told = now
        self.speed.measured(self.prefill.value(TRUSTED_PREFILL_TOKENS), self.decode.value())


class ModelSpeed:
    """One model, wherever it is answered."""

    def __init__(self) -> None:
        self.answer_tokens = float(ANSWER_TOKENS)
        self.computed = Ratio()  # tokens of prompts that no cache had, of those that their length let expect


class Speeds:
    """What is measured lives as long as the process, also while a node is away."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_load: Callable[[str, str, float, bool], None] = lambda _node_id, _model_id, _took_s, _failed: (
            None
        )
        self._clock = clock
        self._nodes: defaultdict[tuple[str, str], NodeSpeed] = defaultdict(lambda: NodeSpeed(clock()))
        self._models: defaultdict[str, ModelSpeed] = defaultdict(ModelSpeed)
        self._loading: dict[tuple[str, str], float] = {}  # since when

    def of(self, node_id: str, model_id: str) -> Speed:
        """The speed of this node, which goes on changing as it is measured."""
        return self._nodes[node_id, model_id].speed

    def request(self, model_id: str, tokens: int, most_tokens: int | None, key: int | None) -> Request:
        """What a request of so many tokens, by its length, will probably cost: of its prompt, what the caches lack; an
        answer like those before, but not more than `most_tokens`."""
        model = self._models[model_id]
        computed = model.computed.value()
        answer_tokens = int(model.answer_tokens)
        return Request(
            prompt_tokens=tokens if computed is None else int(tokens * computed),
            completion_tokens=answer_tokens if most_tokens is None else min(answer_tokens, most_tokens),
            context_tokens=tokens,
            key=key,
        )

    def answer_tokens(self, model_id: str) -> int:
        """How long answers of this model usually are."""
        return int(self._models[model_id].answer_tokens)

    def measured(self, node_id: str, model_id: str, request: Request, usage: Usage, *, busy: float) -> None:
        """A request has been answered, while `busy` slots of the node were, on the average."""
        model = self._models[model_id]
        computed = 0
        if usage.prompt_tokens is not None:
            computed = usage.prompt_tokens - (usage.cached_tokens or 0)
            model.computed.add(computed, request.context_tokens)
        if usage.completion_tokens:
            model.answer_tokens = KEEP * model.answer_tokens + (1 - KEEP) * usage.completion_tokens
        self._nodes[node_id, model_id].add(self._clock(), computed, usage, busy)

    def fade(self, node_id: str) -> None:
        """Let what was measured of a node long ago count less; to be called from time to time."""
        now = self._clock()
        for (known, model_id), node in self._nodes.items():
            if known == node_id and node.is_old(now):
                node.fade(now, self._fastest(model_id))

    def _fastest(self, model_id: str) -> Speed:
        speeds = [node.speed for (_, known), node in self._nodes.items() if known == model_id]
        return Speed(
            max((speed.prefill for speed in speeds if speed.prefill is not None), default=None),
            max((speed.decode for speed in speeds if speed.decode is not None), default=None),
        )

    # --- loads --------------------------------------------------------------------------------------

    def engines(self, node_id: str, reports: Mapping[str, EngineReport]) -> None:
        """What all engines of a node, by model, do now: from starting to ready is a load."""
        for model_id in [model_id for node, model_id in self._loading if node == node_id]:
            report = reports.get(model_id)
            if report is None or report.state is not EngineState.STARTING:
                took_s = self._clock() - self._loading.pop((node_id, model_id))
                if report is not None and report.state in (EngineState.READY, EngineState.BUSY):
                    node = self._nodes[node_id, model_id]
                    before_s = took_s if node.load_s is None else node.load_s
                    node.load_s = before_s + LOAD_WEIGHT * (took_s - before_s)
                    self.on_load(node_id, model_id, took_s, False)
                elif report is not None and report.state is EngineState.FAILED:
                    self.on_load(node_id, model_id, took_s, True)
        for model_id, report in reports.items():
            if report.state is EngineState.STARTING:
                self._loading.setdefault((node_id, model_id), self._clock())

    def load_s(self, node_id: str, model_id: str, *, size_bytes: int | None, progress: float | None) -> float:
        """Seconds until this node would have the model loaded, from where it is now."""
        whole_s = self._nodes[node_id, model_id].load_s
        if whole_s is None:
            whole_s = DEFAULT_LOAD_S if size_bytes is None else LOAD_LEAST_S + size_bytes / LOAD_BYTES_PER_S
        return whole_s * (1 - (progress or 0.0))
