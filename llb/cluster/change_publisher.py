"""What is told of each subject: a change of state at once, a change of figures alone at most so often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

EventT = TypeVar("EventT")

MIN_PUBLISH_INTERVAL_S = 0.25  # the contract: figures at most 4 times a second a model and a node


class ChangePublisher(Generic[EventT]):
    """Compares what there is to say of a subject with what was said last, and says it if it differs."""

    def __init__(
        self,
        event_of: Callable[[str], EventT],
        publish: Callable[[EventT], None],
        *,
        urgent_part_of: Callable[[EventT], object],
    ) -> None:
        """`state_of` is the part of an event that must never wait; the rest of it are figures."""
        self._event_of = event_of
        self._publish = publish
        self._urgent_part_of = urgent_part_of
        self._last_published: dict[str, EventT] = {}
        self._last_published_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, subject: str) -> bool:
        """Whether anything was ever said of it."""
        return subject in self._last_published

    def publish_if_changed(self, subject: str) -> None:
        """Publish what there is to say of `subject` now if it is new: at once, or soon where only figures changed."""
        event = self._event_of(subject)
        told = self._last_published.get(subject)
        if event == told:
            return
        if told is not None and self._urgent_part_of(event) == self._urgent_part_of(told):
            wait_s = self._last_published_at[subject] + MIN_PUBLISH_INTERVAL_S - time.monotonic()
            if wait_s > 0:
                if subject not in self._timers:
                    loop = asyncio.get_running_loop()
                    self._timers[subject] = loop.call_later(wait_s, self._publish_delayed, subject)
                return
        if (later := self._timers.pop(subject, None)) is not None:
            later.cancel()
        self._last_published[subject] = event
        self._last_published_at[subject] = time.monotonic()
        self._publish(event)

    def _publish_delayed(self, subject: str) -> None:
        self._timers.pop(subject, None)
        self.publish_if_changed(subject)

    def forget(self, subject: str) -> None:
        """There is nothing more to say of it."""
        self._last_published.pop(subject, None)
        self._last_published_at.pop(subject, None)
        if (later := self._timers.pop(subject, None)) is not None:
            later.cancel()

    def close(self) -> None:
        for later in self._timers.values():
            later.cancel()
        self._timers.clear()
