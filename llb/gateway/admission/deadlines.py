"""Deadlines of running requests, with one timer for all.

`asyncio.timeout` sets a timer for each request, which costs a twentieth of a short one. All have the same
limit here, so they expire in order of arrival, and one timer is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """Deadline of one request. `is_expired`: the timer has called `on_expired`."""

    __slots__ = ("due_at", "is_expired", "on_expired")

    def __init__(self, on_expired: Callable[[], object], due_at: float) -> None:
        self.on_expired = on_expired
        self.due_at = due_at
        self.is_expired = False


class DeadlineTimer:
    """Timer that ends requests after `timeout_s`."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        # in order of expiry
        self._deadlines: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start_deadline(self, on_expired: Callable[[], object]) -> Deadline:
        """Have `on_expired` called after the time; the caller always calls `cancel_deadline`."""
        deadline = Deadline(on_expired, self._clock() + self._timeout_s)
        self._deadlines[deadline] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s, self._expire_due)
        return deadline

    def cancel_deadline(self, deadline: Deadline) -> None:
        """End a deadline; idempotent."""
        self._deadlines.pop(deadline, None)

    def close(self) -> None:
        """Cancel the timer; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_due(self) -> None:
        self._timer = None
        now = self._clock()
        while self._deadlines:
            deadline = next(iter(self._deadlines))
            if deadline.due_at > now:
                self._timer = asyncio.get_running_loop().call_later(deadline.due_at - now, self._expire_due)
                return
            del self._deadlines[deadline]
            deadline.is_expired = True
            deadline.on_expired()
