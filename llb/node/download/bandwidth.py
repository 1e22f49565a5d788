"""Bandwidth: the limit that all downloads share, and the transfer rate of one download."""

from __future__ import annotations

import math
import threading
import time

# How long a change of the limit may go unnoticed.
MAX_WAIT_STEP_S = 0.5


class BandwidthLimiter:
    """Limiter of the total rate of all threads to `bytes_per_s` (None: no limit).

    At most `burst_s` seconds of unused bandwidth are saved up.
    """

    def __init__(self, bytes_per_s: int | None, *, burst_s: float = 0.25) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_s
        self._lock = threading.Lock()
        self._next_free_at = 0.0
        # Set while the limit is changed, which ends the waits under the previous one.
        self._changed = threading.Event()

    @property
    def bytes_per_s(self) -> int | None:
        """The limit; None: no limit."""
        return self._bytes_per_s

    def set_limit(self, bytes_per_s: int | None) -> None:
        """Change the limit; threads that wait under the previous one continue at once."""
        with self._lock:
            if bytes_per_s == self._bytes_per_s:
                return
            self._bytes_per_s = bytes_per_s
            self._next_free_at = 0.0
            changed, self._changed = self._changed, threading.Event()
        changed.set()

    def acquire(self, size_bytes: int, cancelled: threading.Event) -> float:
        """Wait until `size_bytes` fit into the limit, or until `cancelled`; returns the seconds waited."""
        now = time.monotonic()
        with self._lock:
            if self._bytes_per_s is None:
                return 0.0
            self._next_free_at = max(self._next_free_at, now - self._burst_s) + size_bytes / self._bytes_per_s
            wait_s = self._next_free_at - now
            changed = self._changed
        if wait_s <= 0:
            return 0.0
        until = now + wait_s
        while (left_s := until - time.monotonic()) > 0 and not changed.is_set():
            if cancelled.wait(min(left_s, MAX_WAIT_STEP_S)):
                break
        return time.monotonic() - now


class TransferRate:
    """Exponential moving average of bytes per second over `window_s`.

    One thread records bytes; any thread reads without a lock.
    """

    def __init__(self, window_s: float = 3.0) -> None:
        self._window_s = window_s
        # Start, last record, rate. Replaced as a whole, so that readers need no lock.
        self._state: tuple[float, float, float] | None = None

    def record_bytes(self, size_bytes: int, now: float) -> None:
        """Record that `size_bytes` arrived at `now`, in monotonic seconds."""
        since, last, rate = self._state or (now, now, 0.0)
        decay = math.exp((last - now) / self._window_s)
        self._state = (since, now, rate * decay + size_bytes / self._window_s)

    def bytes_per_second(self, now: float) -> float:
        """Bytes per second at `now`; falls towards zero while nothing arrives."""
        state = self._state
        if state is None:
            return 0.0
        since, last, rate = state
        # A new average covers less than its window: it is scaled up by the weight that it has gathered.
        weight = 1.0 - math.exp((since - now) / self._window_s)
        return rate * math.exp((last - now) / self._window_s) / max(weight, 0.05)
