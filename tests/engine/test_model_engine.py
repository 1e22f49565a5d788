"""Engine failures: crashes, hangs, failed starts, and files that cannot be loaded."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from llb.engine import model_engine
from llb.errors import EngineFailed, ModelFailed
from llb.policy.memory import Memory
from llb.wire import EngineState
from tests.engine.conftest import crashed_tasks
from tests.engine.pool_fixture import GB, WAIT_S, PoolFixture, error_of, state, use
from tests.engine.workers import eventually


async def test_a_crash_rests_then_the_next_request_loads_again(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    await use(pool)
    os.kill(pool_fixture.pid(), signal.SIGKILL)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    error = await error_of(pool)
    assert isinstance(error, EngineFailed)
    assert error.message == "Model 'a': the engine was killed (out of memory?); next attempt in 1 s"
    assert error.retry_after_s == 1
    assert pool.engine_reports()[0].error == "the engine was killed (out of memory?)"
    pool_fixture.now += 1
    await use(pool)
    assert pool.engine_reports()[0].error is None
    assert pool_fixture.loads == ["a", "a"]


async def test_the_back_off_grows_and_a_good_run_resets_it(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    rests: list[int | None] = []
    for ran_s in (0, 1, 59, 60, 1):
        await use(pool)
        pool_fixture.now += ran_s
        os.kill(pool_fixture.pid(), signal.SIGSEGV)
        await eventually(lambda: state(pool) is EngineState.FAILED)
        rests.append((await error_of(pool)).retry_after_s)
        pool_fixture.now += 60
    assert rests == [1, 2, 4, 1, 2]


async def test_a_pinned_engine_comes_back_by_itself(
    pool_fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_engine, "BACKOFF_INITIAL_S", 0.001)
    pool = pool_fixture.pool()
    pool.set_pinned("a", True)
    await use(pool)
    os.kill(pool_fixture.pid(), signal.SIGKILL)
    await eventually(lambda: EngineState.FAILED in pool_fixture.states("a"))
    pool_fixture.now += 1
    await eventually(lambda: pool_fixture.loads == ["a", "a"])
    await eventually(lambda: state(pool) is EngineState.READY)


async def test_a_file_the_engine_refuses_is_tried_once(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool("--refuse-alias", "a")
    for _ in range(2):
        error = await error_of(pool)
        assert isinstance(error, ModelFailed)
        assert error.message == "Model 'a' cannot be used: refused by the engine: this one is not liked"
    assert pool_fixture.loads == ["a"]
    assert pool_fixture.reports[-1].error == "refused by the engine: this one is not liked"
    await use(pool, "b")
    pool.add_model("a", pool_fixture.files("a"))
    await error_of(pool)
    assert pool_fixture.loads == ["a", "b", "a"]


async def test_crashing_while_loading_is_held_against_the_file_in_the_end(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool("--kill", str(int(signal.SIGSEGV)))
    for _ in range(2):
        assert isinstance(await error_of(pool), EngineFailed)
        pool_fixture.now += 60
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert error.message == (
        "Model 'a' cannot be used: refused by the engine: 3 times while loading, the engine crashed (SIGSEGV)"
    )


async def test_crashing_on_a_gpu_is_held_against_the_plan_first(pool_fixture: PoolFixture) -> None:
    pool_fixture.planner.required = {"a": Memory(10 * GB, (GB,))}
    pool_fixture.planner.shrinkable = {"a"}
    pool = pool_fixture.pool("--kill", str(int(signal.SIGABRT)), ram_bytes=20 * GB, vram_bytes=(GB,))
    for _ in range(3):
        assert isinstance(await error_of(pool), EngineFailed)
        pool_fixture.now += 60
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert pool_fixture.loads == ["a"] * 4


async def test_a_load_that_never_ends_is_held_against_the_file_in_the_end(
    pool_fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.engine.pool.MIN_LOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr("llb.engine.pool.MIN_LOAD_BYTES_PER_S", 10**15)
    pool = pool_fixture.pool("--gate", str(pool_fixture.folder / "never"))
    for _ in range(2):
        assert isinstance(await error_of(pool), EngineFailed)
        pool_fixture.now += 60
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert "3 times while loading" in error.message


async def test_a_file_that_cannot_be_read(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    pool_fixture.planner.rejection = "file missing"
    error = await error_of(pool)
    assert isinstance(error, ModelFailed)
    assert error.message == "Model 'a' cannot be used: file missing"
    assert pool_fixture.loads == []
    pool_fixture.planner.rejection = None
    pool.add_model("a", pool_fixture.files("a"))
    await use(pool)


async def test_a_defect_of_ours_is_told_and_not_repeated(
    pool_fixture: PoolFixture, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_fixture.pool()
    pool_fixture.planner.defective = [pool_fixture.files("a")]
    assert isinstance(await error_of(pool), EngineFailed)
    assert len(pool_fixture.planner.inspected) == 1
    await eventually(lambda: crashed_tasks(caplog) == ["task engines.a.read_metadata crashed"])
    caplog.clear()
    await use(pool, "b")


async def test_a_broken_engine_that_is_reported_is_looked_at(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool("--unhealthy")
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    lease.report_suspected_failure()
    await eventually(lambda: state(pool) is EngineState.FAILED)
    lease.report_suspected_failure()
    lease.release()
    assert "stopped answering" in (await error_of(pool)).message


async def test_a_sound_engine_that_is_reported_stays(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    async with await pool.acquire_lease("a", deadline_s=WAIT_S) as lease:
        lease.report_suspected_failure()
        await eventually(lambda: not any("check" in task.get_name() for task in asyncio.all_tasks()))
        assert state(pool) is EngineState.BUSY


async def test_an_engine_that_hangs_at_work_is_ended(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(watch_s=0.02, check_s=0.3)
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    os.kill(pool_fixture.pid(), signal.SIGSTOP)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    assert "stopped answering" in (await error_of(pool)).message
    lease.release()


async def test_an_engine_that_hangs_for_a_moment_stays(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(watch_s=0.02, check_s=5.0)
    async with await pool.acquire_lease("a", deadline_s=WAIT_S):
        os.kill(pool_fixture.pid(), signal.SIGSTOP)
        # Ten intervals of the watch without an answer, and ten with one: not being killed has no event.
        await asyncio.sleep(0.2)
        os.kill(pool_fixture.pid(), signal.SIGCONT)
        await asyncio.sleep(0.2)
        assert state(pool) is EngineState.BUSY


async def test_a_load_that_runs_out_of_memory_is_planned_smaller(pool_fixture: PoolFixture) -> None:
    """The first plan takes all of the memory; the next ones take less, and the third succeeds."""
    pool_fixture.planner.shrinkable = {"a"}
    pool_fixture.planner.required = {"a": Memory(10 * GB)}
    pool = pool_fixture.pool("--out-of-memory-above-context", "512", ram_bytes=10 * GB)
    with pytest.raises(EngineFailed, match="ran out of memory"):
        await pool.acquire_lease("a", deadline_s=WAIT_S)
    pool_fixture.now += 60
    (await pool.acquire_lease("a", deadline_s=WAIT_S)).release()
    assert pool.memory_used_bytes == 5 * GB
    # It stays so while the files are the same.
    await pool.unload("a")
    (await pool.acquire_lease("a", deadline_s=WAIT_S)).release()
    assert pool_fixture.loads == ["a", "a", "a"]
