"""The longest that a request may take. `asyncio.timeout` sets a timer for each, which costs a twentieth of a short request; all
have the same limit here, so they are due in the order in which they came, and one timer is enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Stay:
    """One task's time. `over` says that the limit has ended it."""

    __slots__ = ("due_at", "over", "task")

    def __init__(self, task: asyncio.Task[object], due_at: float) -> None:
        self.task = task
        self.due_at = due_at
        self.over = False


class Overdue:
    """Cancels tasks that go on for longer than `limit_s`."""

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._stays: dict[Stay, None] = {}  # in the order in which they are due
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Stay:
        """The current task's time begins. `end` it, whatever happens."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # only coroutines that run in one call this
        stay = Stay(task, self._clock() + self._limit_s)
        self._stays[stay] = None
        if self._timer is None:
            self._timer = task.get_loop().call_later(self._limit_s, self._look)
        return stay

    def end(self, stay: Stay) -> None:
        """The task has done what it was timed for."""
        self._stays.pop(stay, None)

    def close(self) -> None:
        """Forget the timer; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        while self._stays:
            stay = next(iter(self._stays))
            if stay.due_at > now:
                self._timer = asyncio.get_running_loop().call_later(stay.due_at - now, self._look)
                return
            del self._stays[stay]
            stay.over = True
            stay.task.cancel()
