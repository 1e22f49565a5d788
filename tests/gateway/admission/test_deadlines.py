"""The limit of a request's time: it ends who is over it, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from llb.gateway.admission.deadlines import Deadline, DeadlineTimer

SOON_S, NEVER_S = 0.02, 3600.0


async def _stay(overdue: DeadlineTimer, stays: list[Deadline], for_: asyncio.Event) -> bool:
    """Whether the limit has ended it."""
    stay = overdue.start_deadline()
    stays.append(stay)
    try:
        await for_.wait()
    except asyncio.CancelledError:
        if not stay.is_expired or stay.task.uncancel():
            raise
        return True
    finally:
        overdue.cancel_deadline(stay)
    return False


async def test_all_that_are_over_are_ended_by_one_timer() -> None:
    overdue, never = DeadlineTimer(SOON_S), asyncio.Event()
    stays: list[Deadline] = []
    assert await asyncio.gather(*(_stay(overdue, stays, never) for _ in range(3))) == [True, True, True]
    # The timer is set anew for who comes later.
    assert await _stay(overdue, stays, never)
    overdue.close()


async def test_who_has_ended_is_left_alone() -> None:
    overdue, done, never = DeadlineTimer(SOON_S), asyncio.Event(), asyncio.Event()
    stays: list[Deadline] = []
    done.set()
    assert not await _stay(overdue, stays, done)
    assert await _stay(overdue, stays, never)  # later, by the timer that the first one has set
    assert [stay.is_expired for stay in stays] == [False, True]


async def test_a_cancellation_of_somebody_else_is_not_the_limit() -> None:
    overdue, stays = DeadlineTimer(NEVER_S), list[Deadline]()
    task = asyncio.ensure_future(_stay(overdue, stays, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not stays[0].is_expired
    overdue.close()


async def test_both_at_once_is_a_cancellation() -> None:
    overdue, stays = DeadlineTimer(SOON_S), list[Deadline]()
    task = asyncio.ensure_future(_stay(overdue, stays, asyncio.Event()))
    await asyncio.sleep(0)
    stays[0].is_expired = True
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    overdue.close()
