"""Change publisher: throttles events of changed figures, and publishes changes of state at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

EventT = TypeVar("EventT")

# Part of the API contract: figures at most 4 times a second for each model and node.
MIN_PUBLISH_INTERVAL_S = 0.25


class ChangePublisher(Generic[EventT]):
    """Publisher of events about many subjects; an event equal to the subject's last one is not published."""

    def __init__(
        self,
        event_of: Callable[[str], EventT],
        publish: Callable[[EventT], None],
        *,
        urgent_part_of: Callable[[EventT], object],
    ) -> None:
        """`urgent_part_of` returns the part of an event whose changes are never delayed."""
        self._event_of = event_of
        self._publish = publish
        self._urgent_part_of = urgent_part_of
        self._last_published: dict[str, EventT] = {}
        self._last_published_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, subject: str) -> bool:
        """Whether an event of `subject` was published."""
        return subject in self._last_published

    def publish_if_changed(self, subject: str) -> None:
        """Publish the event of `subject` if it has changed; with a delay if only figures changed."""
        event = self._event_of(subject)
        last = self._last_published.get(subject)
        if event == last:
            return
        if last is not None and self._urgent_part_of(event) == self._urgent_part_of(last):
            delay_s = self._last_published_at[subject] + MIN_PUBLISH_INTERVAL_S - time.monotonic()
            if delay_s > 0:
                if subject not in self._timers:
                    loop = asyncio.get_running_loop()
                    self._timers[subject] = loop.call_later(delay_s, self._publish_delayed, subject)
                return
        self._cancel_timer(subject)
        self._last_published[subject] = event
        self._last_published_at[subject] = time.monotonic()
        self._publish(event)

    def _publish_delayed(self, subject: str) -> None:
        self._timers.pop(subject, None)
        self.publish_if_changed(subject)

    def forget(self, subject: str) -> None:
        """Drop the state of a subject that no longer exists."""
        self._last_published.pop(subject, None)
        self._last_published_at.pop(subject, None)
        self._cancel_timer(subject)

    def close(self) -> None:
        """Cancel delayed events."""
        for subject in tuple(self._timers):
            self._cancel_timer(subject)

    def _cancel_timer(self, subject: str) -> None:
        if (timer := self._timers.pop(subject, None)) is not None:
            timer.cancel()
