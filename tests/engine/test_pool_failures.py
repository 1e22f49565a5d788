"""Engines that crash, hang, or never come up, and files that cannot be loaded."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from llb.engine import model_engine as served_module
from llb.errors import EngineFailed, ModelFailed
from llb.wire import EngineState
from tests.engine.pool_fixture import WAIT_S, Rig, error_of, state, use
from tests.engine.workers import eventually


async def test_a_crash_rests_then_the_next_request_loads_again(rig: Rig) -> None:
    pool = rig.pool()
    await use(pool)
    os.kill(rig.pid(), signal.SIGKILL)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    error = await error_of(pool)
    assert isinstance(error, EngineFailed)
    assert error.message == "Model 'a': the engine was killed (out of memory?); it is tried again in 1 s"
    assert error.retry_after_s == 1
    assert pool.engine_reports()[0].error == "the engine was killed (out of memory?)"
    rig.now += 1
    await use(pool)
    assert pool.engine_reports()[0].error is None
    assert rig.loads == ["a", "a"]


async def test_the_back_off_grows_and_a_good_run_resets_it(rig: Rig) -> None:
    pool = rig.pool()
    rests: list[int | None] = []
    for ran_s in (0, 1, 59, 60, 1):
        await use(pool)
        rig.now += ran_s
        os.kill(rig.pid(), signal.SIGSEGV)
        await eventually(lambda: state(pool) is EngineState.FAILED)
        rests.append((await error_of(pool)).retry_after_s)
        rig.now += 60
    assert rests == [1, 2, 4, 1, 2]


async def test_a_pinned_engine_comes_back_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_module, "BACKOFF_INITIAL_S", 0.0)
    pool = rig.pool()
    pool.set_pinned("a", True)
    await use(pool)
    os.kill(rig.pid(), signal.SIGKILL)
    await eventually(lambda: rig.loads == ["a", "a"])
    await eventually(lambda: state(pool) is EngineState.READY)


async def test_a_file_the_engine_refuses_is_tried_once(rig: Rig) -> None:
    pool = rig.pool("--refuse-alias", "a")
    for _ in range(2):
        error = await error_of(pool)
        assert isinstance(error, ModelFailed)
        assert error.message == "Model 'a' cannot be used: refused by the engine: this one is not liked"
    assert rig.loads == ["a"]
    assert rig.reports[-1].error == "refused by the engine: this one is not liked"
    await use(pool, "b")
    pool.add_model("a", rig.files("a"))
    await error_of(pool)
    assert rig.loads == ["a", "b", "a"]


async def test_crashing_while_loading_is_held_against_the_file_in_the_end(rig: Rig) -> None:
    pool = rig.pool("--kill", str(int(signal.SIGSEGV)))
    for _ in range(2):
        assert isinstance(await error_of(pool), EngineFailed)
        rig.now += 60
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert error.message == (
        "Model 'a' cannot be used: refused by the engine: 3 times while loading, the engine crashed (SIGSEGV)"
    )


async def test_a_load_that_never_ends_is_held_against_the_file_in_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.engine.pool.MIN_LOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr("llb.engine.pool.MIN_LOAD_BYTES_PER_S", 10**15)
    pool = rig.pool("--gate", str(rig.folder / "never"))
    for _ in range(2):
        assert isinstance(await error_of(pool), EngineFailed)
        rig.now += 60
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert "3 times while loading" in error.message


async def test_a_file_that_cannot_be_read(rig: Rig) -> None:
    pool = rig.pool()
    rig.planner.bad = "file missing"
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert error.message == "Model 'a' cannot be used: file missing"
    assert rig.loads == []
    rig.planner.bad = None
    pool.add_model("a", rig.files("a"))
    await use(pool)


async def test_a_defect_of_ours_is_told_and_not_repeated(rig: Rig) -> None:
    pool = rig.pool()
    rig.planner.broken = [rig.files("a")]
    assert isinstance(await error_of(pool), EngineFailed)
    assert len(rig.planner.inspected) == 1
    await eventually(lambda: pool._tasks.crashes["engines.a.inspect"] == 1)
    pool._tasks.crashes.clear()
    await use(pool, "b")


async def test_a_broken_engine_that_is_reported_is_looked_at(rig: Rig) -> None:
    pool = rig.pool("--unhealthy")
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    lease.report_suspected_failure()
    await eventually(lambda: state(pool) is EngineState.FAILED)
    lease.report_suspected_failure()
    lease.release()
    assert "stopped answering" in (await error_of(pool)).message


async def test_a_sound_engine_that_is_reported_stays(rig: Rig) -> None:
    pool = rig.pool()
    async with await pool.acquire_lease("a", deadline_s=WAIT_S) as lease:
        lease.report_suspected_failure()
        await eventually(lambda: not any("check" in task.get_name() for task in asyncio.all_tasks()))
        assert state(pool) is EngineState.BUSY


async def test_an_engine_that_hangs_at_work_is_ended(rig: Rig) -> None:
    pool = rig.pool(watch_s=0.02, check_s=0.3)
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    os.kill(rig.pid(), signal.SIGSTOP)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    assert "stopped answering" in (await error_of(pool)).message
    lease.release()


async def test_an_engine_that_hangs_for_a_moment_stays(rig: Rig) -> None:
    pool = rig.pool(watch_s=0.02, check_s=5.0)
    async with await pool.acquire_lease("a", deadline_s=WAIT_S):
        os.kill(rig.pid(), signal.SIGSTOP)
        await asyncio.sleep(0.2)
        os.kill(rig.pid(), signal.SIGCONT)
        await asyncio.sleep(0.2)
        assert state(pool) is EngineState.BUSY
