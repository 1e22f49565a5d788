"""Events within the process: a bus with bounded queues, and topics with synchronous handlers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar, TypeVarTuple

E = TypeVar("E")
Args = TypeVarTuple("Args")

DEFAULT_QUEUE_LIMIT = 256


class Subscription(Generic[E]):
    """Queue of one subscriber; a context manager that unsubscribes at its end.

    After an overflow, and where a snapshot is required, `get()` raises `SubscriptionOverflow` once, and the
    queue starts empty again.
    """

    def __init__(self, bus: EventBus[E], limit: int) -> None:
        self._bus = bus
        self._limit = limit
        self._queue: deque[E] = deque()
        self._wake = asyncio.Event()
        self._overflowed = False

    def put(self, event: E) -> None:
        if len(self._queue) >= self._limit:
            # A silent gap would leave the subscriber with a wrong picture.
            self.require_snapshot()
        if not self._overflowed:
            self._queue.append(event)
        self._wake.set()

    def require_snapshot(self) -> None:
        """Drop what is queued, so that the subscriber starts from a new snapshot."""
        self._overflowed = True
        self._queue.clear()
        self._wake.set()

    async def get(self) -> E:
        """Return the next event. Raises `SubscriptionOverflow` when events were dropped."""
        while not self._queue and not self._overflowed:
            self._wake.clear()
            await self._wake.wait()
        if self._overflowed:
            self._overflowed = False
            raise SubscriptionOverflow
        return self._queue.popleft()

    def close(self) -> None:
        self._bus.unsubscribe(self)

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SubscriptionOverflow(Exception):
    """Events were dropped, or no event describes a change: the subscriber needs a new snapshot."""


class EventBus(Generic[E]):
    """Delivers each event to every subscription, in order, and never blocks the publisher."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription[E]] = []

    def publish(self, event: E) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.put(event)

    def require_snapshots(self) -> None:
        """Make every subscriber start from a new snapshot, after a change that no event describes."""
        for subscription in tuple(self._subscriptions):
            subscription.require_snapshot()

    def subscribe(self, limit: int = DEFAULT_QUEUE_LIMIT) -> Subscription[E]:
        """Open a subscription that holds at most `limit` events that were not read yet."""
        subscription = Subscription(self, limit)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription[E]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


class Topic(Generic[*Args]):
    """Event of one component; `publish` calls the handlers in the order of their subscription.

    A handler must be quick and must not raise, because it runs inside the publisher.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[*Args], object]] = []

    def subscribe(self, handler: Callable[[*Args], object]) -> None:
        self._handlers.append(handler)

    def publish(self, *event: *Args) -> None:
        for handler in self._handlers:
            handler(*event)
