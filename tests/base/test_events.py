"""Event bus: events in order, a publisher that never blocks, and no unreported gap."""

from __future__ import annotations

import asyncio

import pytest

from llb.base.events import EventBus, SubscriptionOverflow, Topic


async def test_every_reader_gets_every_event_in_order() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as one, bus.subscribe() as two:
        for number in range(5):
            bus.publish(number)
        assert [await one.get() for _ in range(5)] == list(range(5))
        assert [await two.get() for _ in range(5)] == list(range(5))


async def test_a_slow_reader_is_told_of_its_gap_once_and_goes_on() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe(limit=3) as reader:
        for number in range(10):
            bus.publish(number)
        with pytest.raises(SubscriptionOverflow):
            await reader.get()
        bus.publish(10)
        assert await reader.get() == 10


async def test_every_reader_starts_again_where_a_snapshot_is_required() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as one, bus.subscribe() as two:
        bus.publish(1)
        waiting = asyncio.ensure_future(two.get())
        assert await waiting == 1
        waiting = asyncio.ensure_future(two.get())
        await asyncio.sleep(0)
        bus.require_snapshots()
        bus.publish(2)
        for reading in (one.get(), waiting):
            with pytest.raises(SubscriptionOverflow):
                await reading
        bus.publish(3)
        assert [await one.get(), await two.get()] == [3, 3]


async def test_a_waiting_reader_wakes() -> None:
    bus: EventBus[str] = EventBus()
    with bus.subscribe() as reader:
        waiting = asyncio.ensure_future(reader.get())
        await asyncio.sleep(0)
        bus.publish("x")
        assert await waiting == "x"


async def test_a_closed_reader_gets_nothing_more() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as reader:
        pass
    bus.publish(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.get(), 0.01)


def test_a_topic_calls_its_handlers_in_the_order_of_subscription() -> None:
    topic: Topic[str, int] = Topic()
    calls: list[tuple[str, str, int]] = []
    topic.publish("nobody listens", 0)
    topic.subscribe(lambda name, count: calls.append(("first", name, count)))
    topic.subscribe(lambda name, count: calls.append(("second", name, count)))
    topic.publish("a", 1)
    assert calls == [("first", "a", 1), ("second", "a", 1)]
