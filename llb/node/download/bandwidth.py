"""Bytes over time: a limit that all downloads share, and the smoothed speed of one."""

from __future__ import annotations

import math
import threading
import time


class BandwidthLimiter:
    """Lets `bytes_per_s` pass, all threads together (None: everything). Time unused is kept for `burst_s` only."""

    def __init__(self, bytes_per_s: int | None, *, burst_s: float = 0.25) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_s
        self._lock = threading.Lock()
        self._next_free_at = 0.0

    def acquire(self, size_bytes: int, cancelled: threading.Event) -> float:
        """Wait until `size_bytes` may have passed, or until `cancelled`; returns the seconds waited."""
        if self._bytes_per_s is None:
            return 0.0
        now = time.monotonic()
        with self._lock:
            self._next_free_at = max(self._next_free_at, now - self._burst_s) + size_bytes / self._bytes_per_s
            wait_s = self._next_free_at - now
        if wait_s <= 0:
            return 0.0
        cancelled.wait(wait_s)
        return wait_s


class TransferRate:
    """Bytes a second, exponentially averaged over `window_s`; one thread adds, any thread reads without a lock."""

    def __init__(self, window_s: float = 3.0) -> None:
        self._window_s = window_s
        self._state: tuple[float, float, float] | None = None  # since, last, rate; replaced as a whole

    def record_bytes(self, size_bytes: int, now: float) -> None:
        """`size_bytes` arrived at `now` (monotonic seconds)."""
        since, last, rate = self._state or (now, now, 0.0)
        decay = math.exp((last - now) / self._window_s)
        self._state = (since, now, rate * decay + size_bytes / self._window_s)

    def reset(self) -> None:
        self._state = None

    def bytes_per_second(self, now: float) -> float:
        """Bytes a second at `now`; falls towards zero while nothing arrives."""
        state = self._state
        if state is None:
            return 0.0
        since, last, rate = state
        # A young average has seen less than its window: scale it up by the weight it has gathered so far.
        weight = 1.0 - math.exp((since - now) / self._window_s)
        return rate * math.exp((last - now) / self._window_s) / max(weight, 0.05)
