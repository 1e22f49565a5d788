"""What is told of each subject: a change of state at once, a change of figures alone at most so often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")

INTERVAL_S = 0.25  # the contract: figures at most 4 times a second a model and a node


class Changes(Generic[E]):
    """Compares what there is to say of a subject with what was said last, and says it if it differs."""

    def __init__(
        self, event_of: Callable[[str], E], publish: Callable[[E], None], *, state_of: Callable[[E], object]
    ) -> None:
        """`state_of` is the part of an event that must never wait; the rest of it are figures."""
        self._event_of = event_of
        self._publish = publish
        self._state_of = state_of
        self._told: dict[str, E] = {}
        self._told_at: dict[str, float] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, subject: str) -> bool:
        """Whether anything was ever said of it."""
        return subject in self._told

    def look(self, subject: str) -> None:
        """Publish what there is to say of `subject` now if it is new: at once, or soon where only figures changed."""
        event = self._event_of(subject)
        told = self._told.get(subject)
        if event == told:
            return
        if told is not None and self._state_of(event) == self._state_of(told):
            wait_s = self._told_at[subject] + INTERVAL_S - time.monotonic()
            if wait_s > 0:
                if subject not in self._later:
                    loop = asyncio.get_running_loop()
                    self._later[subject] = loop.call_later(wait_s, self._look_again, subject)
                return
        if (later := self._later.pop(subject, None)) is not None:
            later.cancel()
        self._told[subject] = event
        self._told_at[subject] = time.monotonic()
        self._publish(event)

    def _look_again(self, subject: str) -> None:
        self._later.pop(subject, None)
        self.look(subject)

    def forget(self, subject: str) -> None:
        """There is nothing more to say of it."""
        self._told.pop(subject, None)
        self._told_at.pop(subject, None)
        if (later := self._later.pop(subject, None)) is not None:
            later.cancel()

    def close(self) -> None:
        for later in self._later.values():
            later.cancel()
        self._later.clear()
