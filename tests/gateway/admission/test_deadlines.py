"""Deadlines: the timer cancels tasks that exceed their limit, and no others."""

from __future__ import annotations

import asyncio

import pytest

from llb.gateway.admission.deadlines import Deadline, DeadlineTimer

SOON_S, NEVER_S = 0.02, 3600.0


async def _run_with_deadline(timer: DeadlineTimer, deadlines: list[Deadline], event: asyncio.Event) -> bool:
    """Wait for `event`; return whether the deadline expired before."""
    task = asyncio.current_task()
    assert task is not None
    deadline = timer.start_deadline(task.cancel)
    deadlines.append(deadline)
    try:
        await event.wait()
    except asyncio.CancelledError:
        if not deadline.is_expired or task.uncancel():
            raise
        return True
    finally:
        timer.cancel_deadline(deadline)
    return False


async def test_one_timer_cancels_all_expired_tasks() -> None:
    timer, never = DeadlineTimer(SOON_S), asyncio.Event()
    deadlines: list[Deadline] = []
    assert await asyncio.gather(*(_run_with_deadline(timer, deadlines, never) for _ in range(3))) == [
        True,
        True,
        True,
    ]
    # The timer starts again for later tasks.
    assert await _run_with_deadline(timer, deadlines, never)
    timer.close()


async def test_a_task_that_ended_in_time_is_not_cancelled() -> None:
    timer, done, never = DeadlineTimer(SOON_S), asyncio.Event(), asyncio.Event()
    deadlines: list[Deadline] = []
    done.set()
    assert not await _run_with_deadline(timer, deadlines, done)
    assert await _run_with_deadline(timer, deadlines, never)
    assert [deadline.is_expired for deadline in deadlines] == [False, True]


async def test_another_cancellation_is_not_an_expiry() -> None:
    timer, deadlines = DeadlineTimer(NEVER_S), list[Deadline]()
    task = asyncio.ensure_future(_run_with_deadline(timer, deadlines, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines[0].is_expired
    timer.close()


async def test_expiry_and_cancellation_together_are_a_cancellation() -> None:
    timer, deadlines = DeadlineTimer(SOON_S), list[Deadline]()
    task = asyncio.ensure_future(_run_with_deadline(timer, deadlines, asyncio.Event()))
    await asyncio.sleep(0)
    deadlines[0].is_expired = True
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    timer.close()
