"""One timer for the alarms of all connections."""

from __future__ import annotations

import asyncio
import weakref

from llb.gateway.http.read_timer import MIN_CANCELLED, ReadTimer


class Clock:
    """Connection that notes when it was called."""

    def __init__(self, name: str, called: list[str], *, fails: bool = False) -> None:
        self.name = name
        self.called = called
        self.fails = fails
        self.is_called = asyncio.Event()

    def on_alarm(self) -> None:
        self.called.append(self.name)
        self.is_called.set()
        if self.fails:
            raise ValueError("failed")


async def test_alarms_are_called_in_the_order_of_their_times() -> None:
    timer, called, now = ReadTimer(), list[str](), asyncio.get_running_loop().time()
    clocks = [Clock(name, called, fails=name == "b") for name in "cab"]
    for clock, delay_s in zip(clocks, (0.03, 0.0, 0.01), strict=True):
        timer.set_alarm(now + delay_s, clock)
    cancelled = Clock("x", called)
    alarm = timer.set_alarm(now + 0.005, cancelled)
    timer.cancel(alarm)
    timer.cancel(alarm)
    async with asyncio.timeout(20):
        await clocks[0].is_called.wait()
    # The failure of one is not that of another.
    assert called == ["a", "b", "c"]
    gone = weakref.ref(cancelled)
    del cancelled
    assert gone() is None


async def test_an_alarm_may_be_set_and_cancelled_by_another() -> None:
    timer, called, loop = ReadTimer(), list[str](), asyncio.get_running_loop()
    first, second, third = (Clock(name, called) for name in "abc")

    class Setting(Clock):
        def on_alarm(self) -> None:
            super().on_alarm()
            timer.cancel(alarm)
            timer.set_alarm(loop.time(), first)

    timer.set_alarm(loop.time(), Setting("s", called))
    # Due at the same time.
    alarm = timer.set_alarm(loop.time(), second)
    async with asyncio.timeout(20):
        await first.is_called.wait()
    assert called == ["s", "a"]
    timer.set_alarm(loop.time(), third)
    timer.close()
    # The absence of a call has no event.
    await asyncio.sleep(0.01)
    assert not third.is_called.is_set()


async def test_cancelled_alarms_do_not_accumulate() -> None:
    timer, called = ReadTimer(), list[str]()
    later = asyncio.get_running_loop().time() + 3600
    kept = [timer.set_alarm(later + number, Clock("k", called)) for number in range(3)]
    for number in range(5 * MIN_CANCELLED):
        timer.cancel(timer.set_alarm(later - number, Clock("x", called)))
        assert len(timer._alarms) <= len(kept) + MIN_CANCELLED
    assert [alarm for alarm in sorted(timer._alarms) if alarm.connection is not None] == kept
    timer.close()
    assert not timer._alarms
