"""Engine pool: loads on demand, keep-alive, memory and removal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from llb.base.tasks import TaskSupervisor
from llb.engine import process as process_module
from llb.engine.lease import Lease
from llb.engine.pool import EnginePool
from llb.errors import InsufficientMemory, ModelLoading, NoNodeAvailable
from llb.hardware import MemoryBudget
from llb.policy.keep_alive import KeepAlive
from llb.policy.memory import Memory
from llb.wire import EngineReport, EngineState, LoadOptions
from tests.engine.pool_fixture import GB, SOON_S, WAIT_S, PoolFixture, error_of, state, use
from tests.engine.workers import eventually, fake_worker

# --- on demand ---------------------------------------------------------------------------------------


async def test_a_request_loads_the_model_and_holds_it(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    assert (pool.engine_reports(), pool.memory_used_bytes) == ((), 0)
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    assert (lease.worker.host, lease.worker.slots, lease.worker.context_length, lease.api_key) == (
        "127.0.0.1",
        2,
        1024,
        "key of a",
    )
    (report,) = pool.engine_reports()
    assert (report.state, report.busy, report.slots, report.memory_bytes) == ("busy", 1, 2, GB)
    assert pool.memory_used_bytes == GB
    lease.release()
    lease.release()
    assert pool.engine_reports()[0].busy == 0
    await use(pool)
    assert pool_fixture.loads == ["a"]
    assert pool_fixture.states("a") == ["stopped", "starting", "ready", "busy", "ready", "busy", "ready"]


async def test_concurrent_first_requests_load_once(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    leases = await asyncio.gather(*(pool.acquire_lease("a", deadline_s=WAIT_S) for _ in range(20)))
    assert pool.engine_reports()[0].busy == 20
    assert len({lease.worker.port for lease in leases}) == 1
    assert pool_fixture.loads == ["a"]
    assert pool_fixture.planner.inspected == [pool_fixture.folder / "a.gguf"]
    for lease in leases:
        lease.release()
    assert state(pool) is EngineState.READY


async def test_a_caller_that_leaves_does_not_end_the_load_of_others(
    pool_fixture: PoolFixture, tasks: TaskSupervisor
) -> None:
    gate = pool_fixture.folder / "gate"
    pool = pool_fixture.pool("--gate", str(gate))
    leaving = tasks.spawn(pool.acquire_lease("a", deadline_s=WAIT_S), "leaving")
    staying = tasks.spawn(pool.acquire_lease("a", deadline_s=WAIT_S), "staying")
    await eventually(lambda: pool_fixture.loads)
    leaving.cancel()
    gate.touch()
    lease = await staying
    assert leaving.cancelled()
    assert (pool_fixture.loads, pool.engine_reports()[0].busy) == (["a"], 1)
    lease.release()


async def test_when_all_have_left_the_load_ends_and_idles_out(
    pool_fixture: PoolFixture, tasks: TaskSupervisor
) -> None:
    gate = pool_fixture.folder / "gate"
    pool = pool_fixture.pool("--gate", str(gate), keep_alive_s=0)
    leaving = tasks.spawn(pool.acquire_lease("a", deadline_s=WAIT_S), "leaving")
    await eventually(lambda: pool_fixture.loads)
    leaving.cancel()
    gate.touch()
    await eventually(lambda: EngineState.READY in pool_fixture.states("a"))
    await eventually(lambda: state(pool) is EngineState.STOPPED)


@pytest.mark.parametrize("before_it_is_told", [True, False])
async def test_who_leaves_in_the_moment_of_being_let_in_gives_the_lease_back(
    pool_fixture: PoolFixture, tasks: TaskSupervisor, before_it_is_told: bool
) -> None:
    pool = pool_fixture.pool()
    waiting: list[asyncio.Task[Lease]] = []

    def leave_when_let_in(report: EngineReport) -> None:
        if report.state is EngineState.BUSY and before_it_is_told:
            waiting[0].cancel()
        elif report.state is EngineState.BUSY:
            asyncio.get_running_loop().call_soon(waiting[0].cancel)

    pool.engine_changed.subscribe(leave_when_let_in)
    waiting.append(tasks.spawn(pool.acquire_lease("a", deadline_s=WAIT_S), "leaving"))
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert [(report.state, report.busy) for report in pool.engine_reports()] == [("ready", 0)]


async def test_a_load_longer_than_the_callers_patience(pool_fixture: PoolFixture) -> None:
    gate = pool_fixture.folder / "gate"
    pool = pool_fixture.pool("--gate", str(gate))
    error = await error_of(pool, deadline_s=SOON_S)
    assert isinstance(error, ModelLoading)
    assert error.message == "Model 'a' is still being loaded"
    assert error.details["loading"]["state"] == "starting"
    assert 0 <= error.details["loading"]["progress"] < 1
    gate.touch()
    await use(pool)
    assert pool_fixture.loads == ["a"]


async def test_a_model_that_is_not_served(pool_fixture: PoolFixture) -> None:
    assert isinstance(await error_of(pool_fixture.pool(), "z"), NoNodeAvailable)


async def test_nothing_is_loaded_before_the_budget_is_known(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(models="")
    pool._budget = None
    pool.add_model("a", pool_fixture.files("a"))
    assert isinstance(await error_of(pool, deadline_s=SOON_S), ModelLoading)
    assert pool_fixture.loads == []
    pool.set_budget(MemoryBudget(GB))
    await use(pool)


# --- idle --------------------------------------------------------------------------------------------


async def test_idle_engines_unload(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(keep_alive_s=60)
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    pool_fixture.now += 100
    pool._schedule()
    await use(pool, "b")
    assert state(pool) is EngineState.BUSY
    lease.release()
    pool_fixture.now += 59
    await use(pool, "b")
    assert state(pool) is EngineState.READY
    pool_fixture.now += 1
    pool._schedule()
    await eventually(lambda: state(pool) is EngineState.STOPPED)
    assert state(pool, "b") is EngineState.READY
    await use(pool)
    assert pool_fixture.loads == ["a", "b", "a"]


async def test_the_timer_unloads_without_any_request(pool_fixture: PoolFixture, tmp_path: Path) -> None:
    pool = EnginePool(
        slots=2, context=None, keep_alive_s=0.05, budget=MemoryBudget(GB), planner=pool_fixture.planner,
        command=fake_worker(),
    )  # fmt: skip
    pool_fixture.pools.append(pool)
    pool.add_model("a", pool_fixture.files("a"))
    await use(pool)
    await eventually(lambda: state(pool) is EngineState.STOPPED)


@pytest.mark.parametrize(("keep_alive_s", "unloads"), [(0.0, True), (-1.0, False)])
async def test_a_request_says_how_long_the_engine_stays(
    pool_fixture: PoolFixture, keep_alive_s: float, unloads: bool
) -> None:
    pool = pool_fixture.pool(keep_alive_s=60)
    await use(pool, keep_alive=KeepAlive(keep_alive_s))
    if unloads:
        await eventually(lambda: state(pool) is EngineState.STOPPED)
        await use(pool)  # the next load has the default again
        pool_fixture.now += 59
    else:
        pool_fixture.now += 10_000
    await use(pool, "b")
    assert state(pool) is EngineState.READY


async def test_a_pinned_engine_stays_until_it_is_unpinned(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(keep_alive_s=60)
    pool.set_pinned("a", True)
    await use(pool)
    assert pool.engine_reports()[0].pinned
    pool_fixture.now += 10_000
    await use(pool, "b")
    assert state(pool) is EngineState.READY
    pool.set_pinned("a", False)
    await eventually(lambda: state(pool) is EngineState.STOPPED)


async def test_pinning_before_serving(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(models="")
    pool.set_pinned("a", True)
    pool.add_model("a", pool_fixture.files("a"))
    await use(pool)
    assert pool.engine_reports()[0].pinned


async def test_options_of_a_model_apply_to_its_next_load(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(keep_alive_s=60)
    await use(pool)
    assert not pool.is_loaded_otherwise("a")
    pool.set_options("a", LoadOptions(context_length=2048, slots=1, keep_alive=7200))
    assert pool.is_loaded_otherwise("a")
    await pool.unload("a")
    await use(pool)
    [report] = pool.engine_reports()
    assert (report.context_length, report.slots) == (2048, 1)
    assert not pool.is_loaded_otherwise("a")
    pool_fixture.now += 7000
    await use(pool, "b")
    assert state(pool) is EngineState.READY
    pool.set_options("a", None)
    await eventually(lambda: state(pool) is EngineState.STOPPED)
    assert not pool.is_loaded_otherwise("a")


async def test_memory_in_use_is_measured(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(keep_alive_s=60)
    await use(pool)
    [report] = pool.engine_reports()
    assert report.memory_bytes == GB
    assert report.used_bytes is not None
    assert 1_000_000 < report.used_bytes < GB


# --- memory ------------------------------------------------------------------------------------------


async def test_the_least_recently_used_makes_room(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(ram_bytes=2 * GB)
    for model_id in "ab":
        pool_fixture.now += 1
        await use(pool, model_id)
    pool_fixture.now += 1
    await use(pool, "a")
    await use(pool, "c")
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.READY, EngineState.STOPPED)
    assert pool.memory_used_bytes == 2 * GB


async def test_memory_has_returned_before_the_next_load_begins(
    pool_fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "STOP_EOF_S", 0.2)
    pool = pool_fixture.pool("--ignore-eof", ram_bytes=GB)
    await use(pool)
    stubborn = pool_fixture.pid()
    alive_at_start: list[bool] = []

    def watch(report: EngineReport) -> None:
        if report.model_id == "b" and report.state is EngineState.STARTING:
            alive_at_start.append(psutil.pid_exists(stubborn))

    pool.engine_changed.subscribe(watch)
    await use(pool, "b")
    # A slow start publishes more than one report.
    assert set(alive_at_start) == {False}


async def test_busy_and_pinned_engines_are_never_evicted(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(ram_bytes=2 * GB)
    pool.set_pinned("b", True)
    await use(pool, "b")
    busy = await pool.acquire_lease("a", deadline_s=WAIT_S)
    error = await error_of(pool, "c", deadline_s=SOON_S)
    assert isinstance(error, ModelLoading)
    assert error.message == "Model 'c' is not loaded yet: it needs 1GB of memory that models in use occupy"
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.BUSY, EngineState.READY)
    busy.release()
    await use(pool, "c")
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.STOPPED, EngineState.READY)


async def test_a_waiting_load_begins_when_a_request_ends(
    pool_fixture: PoolFixture, tasks: TaskSupervisor
) -> None:
    pool = pool_fixture.pool(ram_bytes=GB)
    busy = await pool.acquire_lease("a", deadline_s=WAIT_S)
    waiting = tasks.spawn(pool.acquire_lease("b", deadline_s=WAIT_S), "waiting")
    await eventually(lambda: pool_fixture.planner.inspected[-1].name == "b.gguf")
    busy.release()
    (await waiting).release()
    assert pool_fixture.loads == ["a", "b"]


async def test_small_models_pass_one_that_waits_for_busy_engines(
    pool_fixture: PoolFixture, tasks: TaskSupervisor
) -> None:
    pool_fixture.planner.required = {"b": Memory(2 * GB)}
    pool = pool_fixture.pool(ram_bytes=2 * GB)
    busy = await pool.acquire_lease("a", deadline_s=WAIT_S)
    waiting = tasks.spawn(pool.acquire_lease("b", deadline_s=WAIT_S), "waiting")
    await use(pool, "c")
    assert pool_fixture.loads == ["a", "c"]
    busy.release()
    (await waiting).release()
    assert (state(pool, "a"), state(pool, "c")) == (EngineState.STOPPED, EngineState.STOPPED)


async def test_memory_freed_for_one_is_not_taken_by_another(
    pool_fixture: PoolFixture, tasks: TaskSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "STOP_EOF_S", 0.2)
    pool_fixture.planner.required = {"a": Memory(GB), "b": Memory(2 * GB), "c": Memory(GB)}
    pool = pool_fixture.pool("--ignore-eof", ram_bytes=2 * GB)
    await use(pool, "a")
    large = tasks.spawn(pool.acquire_lease("b", deadline_s=WAIT_S), "large")
    await eventually(lambda: state(pool, "a") is EngineState.STOPPING)
    assert isinstance(await error_of(pool, "c", deadline_s=SOON_S / 4), ModelLoading)
    (await large).release()
    assert pool_fixture.loads == ["a", "b"]


async def test_a_smaller_context_rather_than_waiting(pool_fixture: PoolFixture) -> None:
    pool_fixture.planner.required = {"b": Memory(2 * GB)}
    pool_fixture.planner.shrinkable = {"b"}
    pool = pool_fixture.pool(ram_bytes=2 * GB)
    async with (
        await pool.acquire_lease("a", deadline_s=WAIT_S),
        await pool.acquire_lease("b", deadline_s=WAIT_S) as lease,
    ):
        assert lease.worker.context_length == 512


async def test_the_whole_context_rather_than_an_idle_neighbour(pool_fixture: PoolFixture) -> None:
    pool_fixture.planner.required = {"b": Memory(2 * GB)}
    pool_fixture.planner.shrinkable = {"b"}
    pool = pool_fixture.pool(ram_bytes=2 * GB)
    await use(pool, "a")
    async with await pool.acquire_lease("b", deadline_s=WAIT_S) as lease:
        assert lease.worker.context_length == 1024
    assert state(pool, "a") is EngineState.STOPPED


async def test_what_can_never_fit_is_refused_at_once(pool_fixture: PoolFixture) -> None:
    pool_fixture.planner.required = {"a": Memory(16 * GB)}
    error = await error_of(pool_fixture.pool(ram_bytes=8 * GB))
    assert isinstance(error, InsufficientMemory)
    assert error.message == "Insufficient VRAM. Required: 16GB, Available: 8GB"


# --- leaving -----------------------------------------------------------------------------------------


async def test_withdraw_waits_for_running_requests(pool_fixture: PoolFixture, tasks: TaskSupervisor) -> None:
    pool = pool_fixture.pool()
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    leaving = tasks.spawn(pool.remove_model("a", grace_s=WAIT_S), "leaving")
    await eventually(lambda: not pool._engines.get("a"))
    assert isinstance(await error_of(pool), NoNodeAvailable)
    assert [report.state for report in pool.engine_reports()] == ["busy"]
    lease.release()
    await leaving
    assert (pool.engine_reports(), pool.memory_used_bytes) == ((), 0)
    await pool.remove_model("a", grace_s=0)


async def test_withdraw_cuts_what_does_not_end(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    pid = pool_fixture.pid()
    await pool.remove_model("a", grace_s=0)
    assert not psutil.pid_exists(pid)
    lease.release()


@pytest.mark.parametrize("begun", [False, True])
async def test_withdraw_while_it_loads(pool_fixture: PoolFixture, tasks: TaskSupervisor, begun: bool) -> None:
    pool = pool_fixture.pool("--gate", str(pool_fixture.folder / "never"))
    refused = tasks.spawn(error_of(pool), "waiting")
    await eventually(lambda: pool_fixture.loads if begun else pool._engines["a"].plan)
    await pool.remove_model("a", grace_s=WAIT_S)
    assert isinstance(await refused, NoNodeAvailable)
    assert pool.memory_used_bytes == 0


async def test_served_again_while_it_leaves(pool_fixture: PoolFixture, tasks: TaskSupervisor) -> None:
    pool = pool_fixture.pool()
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    leaving = tasks.spawn(pool.remove_model("a", grace_s=WAIT_S), "leaving")
    await eventually(lambda: not pool._engines.get("a"))
    pool.add_model("a", pool_fixture.files("a"))
    await use(pool)
    assert pool.memory_used_bytes == 2 * GB
    lease.release()
    await leaving
    assert (pool.memory_used_bytes, state(pool)) == (GB, EngineState.READY)


async def test_unload_frees_the_memory_and_the_next_request_loads(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    await use(pool)
    await pool.unload("a")
    assert pool.memory_used_bytes == 0
    await pool.unload("a")
    await pool.unload("z")
    await use(pool)
    assert pool_fixture.loads == ["a", "a"]


async def test_close_leaves_nothing(pool_fixture: PoolFixture, tasks: TaskSupervisor) -> None:
    pool = pool_fixture.pool("--gate", str(pool_fixture.folder / "gate"))
    (pool_fixture.folder / "gate").touch()
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    (pool_fixture.folder / "gate").unlink()
    refused = tasks.spawn(error_of(pool, "b"), "waiting")
    await eventually(lambda: pool_fixture.loads == ["a", "b"])
    pids = [pool_fixture.pid(0), pool_fixture.pid(1)]
    await pool.close()
    await pool.close()
    assert isinstance(await refused, NoNodeAvailable)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert isinstance(await error_of(pool, "c"), NoNodeAvailable)
    lease.release()
