"""Deadlines of running requests, with one timer for all.

`asyncio.timeout` sets a timer for each request, which costs a twentieth of a short one. All have the same
limit here, so they expire in order of arrival, and one timer is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """Deadline of one task. `is_expired`: the timer has cancelled the task."""

    __slots__ = ("due_at", "is_expired", "task")

    def __init__(self, task: asyncio.Task[object], due_at: float) -> None:
        self.task = task
        self.due_at = due_at
        self.is_expired = False


class DeadlineTimer:
    """Timer that cancels tasks after `timeout_s`."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        # in order of expiry
        self._deadlines: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start_deadline(self) -> Deadline:
        """Start the current task's deadline; the caller always calls `cancel_deadline`."""
        task = asyncio.current_task()
        # Only coroutines call this.
        assert task is not None  # noqa: S101
        deadline = Deadline(task, self._clock() + self._timeout_s)
        self._deadlines[deadline] = None
        if self._timer is None:
            self._timer = task.get_loop().call_later(self._timeout_s, self._expire_due)
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
            deadline.task.cancel()
