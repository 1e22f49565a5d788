"""The longest that a request may take. `asyncio.timeout` sets a timer for each, which costs a twentieth of a short request; all
have the same limit here, so they are due in the order in which they came, and one timer is enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Deadline:
    """One task's time. `over` says that the limit has ended it."""

    __slots__ = ("due_at", "is_expired", "task")

    def __init__(self, task: asyncio.Task[object], due_at: float) -> None:
        self.task = task
        self.due_at = due_at
        self.is_expired = False


class DeadlineTimer:
    """Cancels tasks that go on for longer than `limit_s`."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadlines: dict[Deadline, None] = {}  # in the order in which they are due
        self._timer: asyncio.TimerHandle | None = None

    def start_deadline(self) -> Deadline:
        """The current task's time begins. `end` it, whatever happens."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # only coroutines that run in one call this
        stay = Deadline(task, self._clock() + self._timeout_s)
        self._deadlines[stay] = None
        if self._timer is None:
            self._timer = task.get_loop().call_later(self._timeout_s, self._expire_due)
        return stay

    def cancel_deadline(self, deadline: Deadline) -> None:
        """The task has done what it was timed for."""
        self._deadlines.pop(deadline, None)

    def close(self) -> None:
        """Forget the timer; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire_due(self) -> None:
        self._timer = None
        now = self._clock()
        while self._deadlines:
            stay = next(iter(self._deadlines))
            if stay.due_at > now:
                self._timer = asyncio.get_running_loop().call_later(stay.due_at - now, self._expire_due)
                return
            del self._deadlines[stay]
            stay.is_expired = True
            stay.task.cancel()
