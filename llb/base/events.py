"""Event bus with a bounded queue per reader, and topics whose handlers run at once. Both in-process and synchronous."""

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
    """One reader's queue. After an overflow `get()` raises `Overflow` once and the queue starts empty again."""

    def __init__(self, bus: EventBus[E], limit: int) -> None:
        self._bus = bus
        self._limit = limit
        self._queue: deque[E] = deque()
        self._wake = asyncio.Event()
        self._overflowed = False

    def put(self, event: E) -> None:
        if len(self._queue) >= self._limit:
            # A gap the reader cannot see would be a lie: throw all away and make it begin anew.
            self._overflowed = True
            self._queue.clear()
        if not self._overflowed:
            self._queue.append(event)
        self._wake.set()

    async def get(self) -> E:
        """The next event; raises `Overflow` when the reader was too slow and must take a snapshot."""
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
    """More events waited for a reader than its limit; it must take a new snapshot."""


class EventBus(Generic[E]):
    """Publishes each event to every subscription, in order, without ever blocking the publisher."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription[E]] = []

    def publish(self, event: E) -> None:
        for reader in tuple(self._subscriptions):
            reader.put(event)

    def subscribe(self, limit: int = DEFAULT_QUEUE_LIMIT) -> Subscription[E]:
        reader = Subscription(self, limit)
        self._subscriptions.append(reader)
        return reader

    def unsubscribe(self, subscription: Subscription[E]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


class Topic(Generic[*Args]):
    """Typed event of one component. Composition roots subscribe; handlers run within `publish`, in that order.

    A handler must be quick and must not raise: it runs in the publisher's step.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[*Args], object]] = []

    def subscribe(self, handler: Callable[[*Args], object]) -> None:
        self._handlers.append(handler)

    def publish(self, *event: *Args) -> None:
        for handler in self._handlers:
            handler(*event)
