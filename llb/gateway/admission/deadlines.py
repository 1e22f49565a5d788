"""Deadlines of running requests, with one timer for all.

`asyncio.timeout` sets a timer for each request, which costs a twentieth of a short one. All have the same
limit here, so they expire in order of arrival, and one timer is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """Deadline of one request. `is_expired`: the timer has called `expire`."""

    __slots__ = ("due_at", "is_expired")

    def __init__(self) -> None:
        self.due_at = 0.0
        self.is_expired = False

    def expire(self) -> None:
        """Handle the end of the time."""
        raise NotImplementedError


class _CallbackDeadline(Deadline):
    __slots__ = ("_on_expired",)

    def __init__(self, on_expired: Callable[[], object]) -> None:
        super().__init__()
        self._on_expired = on_expired

    def expire(self) -> None:
        self._on_expired()


class DeadlineTimer:
    """Timer that ends requests after `timeout_s`."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        # in order of expiry
        self._deadlines: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start_deadline(self, on_expired: Callable[[], object]) -> Deadline:
        """Call `on_expired` after the time; the caller always calls `cancel_deadline`."""
        deadline = _CallbackDeadline(on_expired)
        self.add(deadline)
        return deadline

    def add(self, deadline: Deadline) -> None:
        """Start a deadline that the caller has made, like `start_deadline`."""
        deadline.due_at = self._clock() + self._timeout_s
        self._deadlines[deadline] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout_s, self._expire_due)

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
            deadline.expire()
