"""Change publisher: throttles events of changed figures, and publishes changes of state at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

EventT = TypeVar("EventT")

# Part of the API contract: figures at most 4 times a second for each model and node.
MIN_PUBLISH_INTERVAL_S = 0.25


class PublishThrottle:
    """Throttle of several publishers: publishes all changed figures together, so that they agree."""

    def __init__(self) -> None:
        self._last_published_at = -math.inf
        # Changes to publish, in their order.
        self._pending: dict[tuple[Callable[[str], None], str], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self, publish: Callable[[str], None], subject: str) -> None:
        """Call `publish(subject)` once the interval has passed, and not before the running callback ends."""
        self._pending[publish, subject] = None
        if self._timer is None:
            delay_s = max(0.0, self._last_published_at + MIN_PUBLISH_INTERVAL_S - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._publish_pending)

    def cancel(self, publish: Callable[[str], None], subject: str) -> None:
        """Drop a scheduled call; without one, do nothing."""
        self._pending.pop((publish, subject), None)

    def begin_interval(self) -> None:
        """Begin an interval, because an event was published."""
        self._last_published_at = time.monotonic()

    def close(self) -> None:
        """Cancel all scheduled calls; idempotent."""
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _publish_pending(self) -> None:
        self._timer = None
        pending, self._pending = self._pending, {}
        for publish, subject in pending:
            publish(subject)


class ChangePublisher(Generic[EventT]):
    """Publisher of events about many subjects; an event equal to the subject's last one is not published."""

    def __init__(
        self,
        event_of: Callable[[str], EventT],
        publish: Callable[[EventT], None],
        throttle: PublishThrottle,
        *,
        urgent_part_of: Callable[[EventT], object],
    ) -> None:
        """`urgent_part_of` returns the part of an event whose changes are never delayed."""
        self._event_of = event_of
        self._publish = publish
        self._throttle = throttle
        self._urgent_part_of = urgent_part_of
        self._last_published: dict[str, EventT] = {}

    def __contains__(self, subject: str) -> bool:
        """Whether an event of `subject` was published."""
        return subject in self._last_published

    def publish_if_changed(self, subject: str) -> None:
        """Publish the event of `subject` if it has changed; by the throttle if only figures changed."""
        event = self._event_of(subject)
        last = self._last_published.get(subject)
        if event == last:
            return
        if last is not None and self._urgent_part_of(event) == self._urgent_part_of(last):
            self._throttle.schedule(self._publish_scheduled, subject)
        else:
            self._throttle.cancel(self._publish_scheduled, subject)
            self._publish_event(subject, event)

    def forget(self, subject: str) -> None:
        """Drop the state of a subject that no longer exists."""
        self._last_published.pop(subject, None)
        self._throttle.cancel(self._publish_scheduled, subject)

    def _publish_scheduled(self, subject: str) -> None:
        event = self._event_of(subject)
        if event != self._last_published.get(subject):
            self._publish_event(subject, event)

    def _publish_event(self, subject: str, event: EventT) -> None:
        self._throttle.begin_interval()
        self._last_published[subject] = event
        self._publish(event)
