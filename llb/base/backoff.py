"""Exponential back-off."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """Growing delays between the attempts of one retried action.

    `jitter` is the largest share by which a delay is shortened at random, so that clients that failed
    together do not return together: 0.5 gives delays between half and all of the nominal one.
    With `reset_after_s`, an attempt that lasted at least that long counts as a success, and the delays start
    again at `first_s`. An attempt starts when the previous delay ends.
    """

    def __init__(
        self,
        first_s: float,
        max_s: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.0,
        reset_after_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not 0.0 < first_s <= max_s:
            raise ValueError(f"first_s must be positive and at most max_s, not {first_s} of {max_s}")
        if factor < 1.0:
            raise ValueError(f"factor must be at least 1, not {factor}")
        if not 0.0 <= jitter <= 1.0:
            raise ValueError(f"jitter must be between 0 and 1, not {jitter}")
        self._first_s = first_s
        self._max_s = max_s
        self._factor = factor
        self._jitter = jitter
        self._reset_after_s = reset_after_s
        self._clock = clock
        self._uniform = uniform
        self._nominal_s = first_s
        self._attempt_started_at = clock()

    def next_delay_s(self) -> float:
        """Return the delay before the next attempt, in seconds, and lengthen the one that follows."""
        now = self._clock()
        if self._reset_after_s is not None and now - self._attempt_started_at >= self._reset_after_s:
            self.reset()
        delay_s = self._nominal_s
        if self._jitter:
            delay_s *= self._uniform(1.0 - self._jitter, 1.0)
        self._nominal_s = min(self._max_s, self._nominal_s * self._factor)
        self._attempt_started_at = now + delay_s
        return delay_s

    def reset(self) -> None:
        """Start again at `first_s`, after a success."""
        self._nominal_s = self._first_s
