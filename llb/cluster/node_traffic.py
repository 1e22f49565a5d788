"""Request counters of each node and model: requests in flight, requests answered, tokens per second."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple


class TrafficTotals(NamedTuple):
    """Requests answered and tokens generated since the start."""

    answered: int
    tokens: int


class _Counters:
    """Counters of a node or a model. Not a Struct, whose fields take three times as long to set."""

    __slots__ = ("active", "answered", "sampled_at", "sampled_tokens", "tokens")

    def __init__(self) -> None:
        self.active = self.answered = self.tokens = 0
        # Count at the last sample.
        self.sampled_tokens = 0
        self.sampled_at: float | None = None


class StreamedTokens:
    """Counter of the tokens of one answer while it is generated."""

    __slots__ = ("_model", "_node", "count")

    def __init__(self, node: _Counters, model: _Counters) -> None:
        self.count = 0
        self._node = node
        self._model = model

    def add(self, tokens: int) -> None:
        """Count more tokens; each of a stream is an event of its own."""
        self.count += tokens
        self._node.tokens += tokens
        self._model.tokens += tokens


class NodeTraffic:
    """Counters of the requests that the gateway sends to each node, and of each model."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters: defaultdict[str, _Counters] = defaultdict(_Counters)
        self._model_counters: defaultdict[str, _Counters] = defaultdict(_Counters)
        # Requests in flight of all nodes; a field, because every request reads it at its end.
        self.active_total = 0

    def begin_request(self, node_id: str) -> None:
        self._counters[node_id].active += 1
        self.active_total += 1

    def end_request(self, node_id: str) -> None:
        self._counters[node_id].active -= 1
        self.active_total -= 1

    def begin_stream(self, node_id: str, model_id: str) -> StreamedTokens:
        """Return a counter for the tokens of an answer that is being generated."""
        return StreamedTokens(self._counters[node_id], self._model_counters[model_id])

    def record_answer(self, node_id: str, model_id: str, tokens: int = 0) -> None:
        """Count a request that the node has answered, and the `tokens` that were not counted before.

        They are negative if too many were counted.
        """
        # Inlined, because every answer passes here.
        of_node, of_model = self._counters[node_id], self._model_counters[model_id]
        of_node.answered += 1
        of_node.tokens += tokens
        of_model.answered += 1
        of_model.tokens += tokens

    def active_requests(self, node_id: str) -> int:
        counters = self._counters.get(node_id)
        return 0 if counters is None else counters.active

    @property
    def is_idle(self) -> bool:
        """Whether no node has a request in flight."""
        return self.active_total == 0

    def sample(self, node_id: str) -> tuple[int, float]:
        """Requests answered so far, and tokens per second since the last sample."""
        now, counters = self._clock(), self._counters[node_id]
        rate = 0.0
        if counters.sampled_at is not None and now > counters.sampled_at:
            rate = max(0, counters.tokens - counters.sampled_tokens) / (now - counters.sampled_at)
        counters.sampled_tokens, counters.sampled_at = counters.tokens, now
        return counters.answered, rate

    def node_totals(self, node_id: str) -> TrafficTotals:
        return _totals(self._counters.get(node_id))

    def model_totals(self, model_id: str) -> TrafficTotals:
        return _totals(self._model_counters.get(model_id))

    def models(self) -> frozenset[str]:
        """Models with requests since the start."""
        return frozenset(self._model_counters)


def _totals(counters: _Counters | None) -> TrafficTotals:
    return TrafficTotals(0, 0) if counters is None else TrafficTotals(counters.answered, counters.tokens)
