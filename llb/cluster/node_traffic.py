"""Request counters of each node: requests in flight, requests answered, tokens per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Counters:
    active: int = 0
    answered: int = 0
    tokens: int = 0
    sampled_at: float | None = None


class NodeTraffic:
    """Counters of the requests that the gateway sends to each node."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters: dict[str, _Counters] = {}
        # Of all nodes: every request that ends asks for it.
        self._active_total = 0

    def begin_request(self, node_id: str) -> None:
        self._counters_of(node_id).active += 1
        self._active_total += 1

    def end_request(self, node_id: str) -> None:
        self._counters_of(node_id).active -= 1
        self._active_total -= 1

    def record_answer(self, node_id: str, completion_tokens: int) -> None:
        """Count a request that the node has answered."""
        counters = self._counters_of(node_id)
        counters.answered += 1
        counters.tokens += completion_tokens

    def active_requests(self, node_id: str) -> int:
        counters = self._counters.get(node_id)
        return 0 if counters is None else counters.active

    @property
    def is_idle(self) -> bool:
        """Whether no node has a request in flight."""
        return self._active_total == 0

    def sample(self, node_id: str) -> tuple[int, float]:
        """Requests answered so far, and tokens per second since the last sample."""
        now, counters = self._clock(), self._counters_of(node_id)
        rate = 0.0
        if counters.sampled_at is not None and now > counters.sampled_at:
            rate = counters.tokens / (now - counters.sampled_at)
        counters.tokens, counters.sampled_at = 0, now
        return counters.answered, rate

    def _counters_of(self, node_id: str) -> _Counters:
        counters = self._counters.get(node_id)
        if counters is None:
            counters = self._counters[node_id] = _Counters()
        return counters
