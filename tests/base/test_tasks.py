"""Background tasks: a crash is logged, and a stop leaves no task."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from llb.base.logs import log_setup
from llb.base.tasks import TaskSupervisor, run_to_completion, run_together


async def test_a_crash_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    group = TaskSupervisor("t")

    async def crash() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        await asyncio.wait([group.spawn(crash(), "one")])
    assert "task t.one crashed" in caplog.text
    assert len(group) == 0


async def test_close_ends_all_and_waits_for_their_cleanup() -> None:
    group = TaskSupervisor("t")
    cleaned = asyncio.Event()
    running = asyncio.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    group.spawn(work(), "one")
    await running.wait()
    await group.close()
    await group.close()
    assert cleaned.is_set()
    assert len(group) == 0


async def test_a_closed_group_starts_nothing() -> None:
    group = TaskSupervisor("t")
    await group.close()

    async def work() -> None: ...

    with pytest.raises(RuntimeError, match=r"t\.late"):
        group.spawn(work(), "late")


async def test_what_must_be_finished_goes_on_without_its_caller() -> None:
    group = TaskSupervisor("t")
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        done.set()

    caller = asyncio.ensure_future(group.run_shielded(work(), "one"))
    await begun.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    go.set()
    await asyncio.wait_for(done.wait(), 5)


async def test_its_errors_are_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    group = TaskSupervisor("t")

    async def work() -> None:
        raise ValueError("expected")

    with pytest.raises(ValueError, match="expected"):
        await group.run_shielded(work(), "one")
    assert caplog.text == ""


async def test_what_goes_on_by_itself_is_not_logged_as_the_request_that_began_it() -> None:
    group = TaskSupervisor("t")

    async def told() -> str | None:
        return log_setup.request_id.get()

    token = log_setup.request_id.set("r1")
    try:
        assert await group.spawn(told(), "background") is None
        assert await group.run_shielded(told(), "of-the-request") == "r1"
        assert log_setup.request_id.get() == "r1"
    finally:
        log_setup.request_id.reset(token)


async def test_what_cannot_be_stopped_is_waited_for_however_often_its_caller_is_cancelled() -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    asked_to_end: list[None] = []

    async def work() -> None:
        begun.set()
        await go.wait()

    caller = asyncio.ensure_future(run_to_completion(work(), on_cancelled=lambda: asked_to_end.append(None)))
    await begun.wait()
    for count in (1, 2):
        caller.cancel()
        await asyncio.sleep(0)
        assert len(asked_to_end) == count
    assert not caller.done()
    go.set()
    await asyncio.wait([caller])
    assert caller.cancelled()


async def sleep_for_ever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        ended.append("cleaned up")


async def fail() -> None:
    raise ZeroDivisionError


async def test_tasks_that_run_together_end_with_the_first_that_fails() -> None:
    ended: list[str] = []
    tasks = [asyncio.create_task(each) for each in (sleep_for_ever(ended), asyncio.sleep(0), fail())]
    with pytest.raises(ExceptionGroup) as caught:
        await run_together(*tasks)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert ended == ["cleaned up"]
    assert all(task.done() for task in tasks)


async def test_tasks_that_run_together_may_all_come_to_their_end() -> None:
    await run_together(*(asyncio.create_task(asyncio.sleep(0)) for _ in range(3)))


@pytest.mark.parametrize("is_failing", [False, True])
async def test_the_cancellation_of_those_who_run_together_is_never_forgotten(is_failing: bool) -> None:
    """`TaskGroup` forgets one that comes as a task of it fails: the loop around it would go on."""
    ended: list[str] = []

    async def be_stopped() -> None:
        await asyncio.sleep(0)
        loop.cancel()
        if is_failing:
            raise ZeroDivisionError

    async def run() -> None:
        while len(ended) < 9:
            with contextlib.suppress(ExceptionGroup):
                await run_together(*map(asyncio.create_task, (sleep_for_ever(ended), be_stopped())))

    loop = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert ended == ["cleaned up"]
