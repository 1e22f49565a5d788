from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from llb.decide.eviction import Memory
from llb.engine import process as process_module
from llb.engine import served as served_module
from llb.engine.plan import EngineFiles, EnginePlan, ModelFacts, Planner
from llb.engine.pool import EnginePool, Lease
from llb.engine.worker import EngineSpec
from llb.errors import EngineFailed, InsufficientMemory, LlbError, ModelFailed, ModelLoading, NoNodeAvailable
from llb.hardware import Budget
from llb.tasks import TaskGroup
from llb.wire import EngineReport, EngineState
from tests.engine.conftest import eventually, fake_worker
from tests.shapes import uniform_shape

GB = 10**9
WAIT_S = 20.0
SOON_S = 0.2


SHAPE = uniform_shape(
    size_bytes=GB, layers=1, embedding_length=8, heads=1, kv_heads=1, feed_forward_length=8, vocabulary_size=8, context_length=8
)  # fmt: skip


class TablePlanner(Planner):
    """Every model needs what this table says; `smaller` ones can do with half, at half the context."""

    def __init__(self) -> None:
        super().__init__(slots=2, context=None)
        self.needs: dict[str, Memory] = {}
        self.smaller: set[str] = set()
        self.inspected: list[Path] = []
        self.bad: str | None = None
        self.broken: list[EngineFiles] = []

    def inspect(self, files: EngineFiles) -> ModelFacts:
        self.inspected.append(files.model_path)
        if self.bad is not None:
            raise ModelFailed(self.bad)
        if files in self.broken:
            raise RuntimeError("a defect")
        return ModelFacts(SHAPE)

    def plan(self, model_id: str, files: EngineFiles, facts: ModelFacts, room: Budget) -> EnginePlan | None:
        need, context_length = self.needs.get(model_id, Memory(GB)), 1024
        free = Memory(room.ram_bytes, sum(room.vram_bytes))
        if model_id in self.smaller and not free.covers(need):
            need, context_length = Memory(need.ram_bytes // 2, need.vram_bytes // 2), 512
        if not free.covers(need):
            return None
        spec = EngineSpec(
            model_path=str(files.model_path),
            alias=model_id,
            context_length=context_length,
            slots=self.slots,
            gpu_layers=0,
            batch_tokens=512,
            ubatch_tokens=512,
            prompt_cache_bytes=0,
            threads=1,
            api_key=f"key of {model_id}",
        )
        return EnginePlan(spec, need)

    def least_bytes(self, files: EngineFiles, facts: ModelFacts) -> int:
        return files.required_memory_bytes


class Rig:
    """A pool over fake workers, the planner, the clock, and what was announced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planner = TablePlanner()
        self.now = 1000.0
        self.reports: list[EngineReport] = []
        self.pools: list[EnginePool] = []

    def pool(
        self,
        *worker: str,
        keep_alive_s: float = -1.0,
        ram_bytes: int = 10 * GB,
        models: str = "abc",
        watch_s: float = 3600.0,
        check_s: float = 5.0,
    ) -> EnginePool:
        pool = EnginePool(
            slots=2,
            context=None,
            keep_alive_s=keep_alive_s,
            budget=Budget(ram_bytes),
            on_change=self.reports.append,
            clock=lambda: self.now,
            planner=self.planner,
            command=fake_worker("--journal", str(self.folder / "journal"), *worker),
            watch_s=watch_s,
            check_s=check_s,
        )
        self.pools.append(pool)
        for model_id in models:
            pool.serve(model_id, self.files(model_id))
        return pool

    def files(self, model_id: str) -> EngineFiles:
        return EngineFiles(model_path=self.folder / f"{model_id}.gguf", required_memory_bytes=16 * GB)

    @property
    def loads(self) -> list[str]:
        """The models that were loaded, in order."""
        journal = self.folder / "journal"
        return [line.split()[1] for line in journal.read_text().splitlines()] if journal.exists() else []

    def pid(self, load: int = -1) -> int:
        return int((self.folder / "journal").read_text().splitlines()[load].split()[0])

    def states(self, model_id: str) -> list[EngineState]:
        return [report.state for report in self.reports if report.model_id == model_id]


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """What a test patches stays patched until its engines are stopped: that is why `monkeypatch` is asked for."""
    made = Rig(tmp_path)
    yield made
    for pool in made.pools:
        await pool.close()
        assert not pool._tasks.crashes
        assert {report.state for report in pool.reports()} <= {EngineState.FAILED}
        assert pool.memory_used_bytes == 0


def state(pool: EnginePool, model_id: str = "a") -> EngineState:
    """STOPPED where the pool has nothing to report."""
    states = {report.model_id: report.state for report in pool.reports()}
    return states.get(model_id, EngineState.STOPPED)


async def use(pool: EnginePool, model_id: str = "a", *, keep_alive_s: float | None = None) -> None:
    async with await pool.lease(model_id, deadline_s=WAIT_S, keep_alive_s=keep_alive_s):
        pass


async def error_of(pool: EnginePool, model_id: str = "a", *, deadline_s: float = WAIT_S) -> LlbError:
    with pytest.raises(LlbError) as caught:
        await pool.lease(model_id, deadline_s=deadline_s)
    return caught.value


# --- on demand ---------------------------------------------------------------------------------------


async def test_a_request_loads_the_model_and_holds_it(rig: Rig) -> None:
    pool = rig.pool()
    assert (pool.reports(), pool.memory_used_bytes) == ((), 0)
    lease = await pool.lease("a", deadline_s=WAIT_S)
    assert (lease.host, lease.slots, lease.context_length, lease.api_key) == (
        "127.0.0.1",
        2,
        1024,
        "key of a",
    )
    (report,) = pool.reports()
    assert (report.state, report.busy, report.slots, report.memory_bytes) == ("busy", 1, 2, GB)
    assert pool.memory_used_bytes == GB
    lease.release()
    lease.release()
    assert pool.reports()[0].busy == 0
    await use(pool)
    assert rig.loads == ["a"]
    assert rig.states("a") == ["stopped", "starting", "ready", "busy", "ready", "busy", "ready"]


async def test_concurrent_first_requests_load_once(rig: Rig) -> None:
    pool = rig.pool()
    leases = await asyncio.gather(*(pool.lease("a", deadline_s=WAIT_S) for _ in range(20)))
    assert pool.reports()[0].busy == 20
    assert len({lease.port for lease in leases}) == 1
    assert rig.loads == ["a"]
    assert rig.planner.inspected == [rig.folder / "a.gguf"]
    for lease in leases:
        lease.release()
    assert state(pool) is EngineState.READY


async def test_a_caller_that_leaves_does_not_end_the_load_of_others(rig: Rig, tasks: TaskGroup) -> None:
    gate = rig.folder / "gate"
    pool = rig.pool("--gate", str(gate))
    leaving = tasks.supervise(pool.lease("a", deadline_s=WAIT_S), "leaving")
    staying = tasks.supervise(pool.lease("a", deadline_s=WAIT_S), "staying")
    await eventually(lambda: rig.loads)
    leaving.cancel()
    gate.touch()
    lease = await staying
    assert leaving.cancelled()
    assert (rig.loads, pool.reports()[0].busy) == (["a"], 1)
    lease.release()


async def test_when_all_have_left_the_load_ends_and_idles_out(rig: Rig, tasks: TaskGroup) -> None:
    gate = rig.folder / "gate"
    pool = rig.pool("--gate", str(gate), keep_alive_s=0)
    leaving = tasks.supervise(pool.lease("a", deadline_s=WAIT_S), "leaving")
    await eventually(lambda: rig.loads)
    leaving.cancel()
    gate.touch()
    await eventually(lambda: EngineState.READY in rig.states("a"))
    await eventually(lambda: state(pool) is EngineState.STOPPED)


@pytest.mark.parametrize("before_it_is_told", [True, False])
async def test_who_leaves_in_the_moment_of_being_let_in_gives_the_lease_back(
    rig: Rig, tasks: TaskGroup, before_it_is_told: bool
) -> None:
    pool = rig.pool()
    waiting: list[asyncio.Task[Lease]] = []

    def leave_when_let_in(report: EngineReport) -> None:
        if report.state is EngineState.BUSY and before_it_is_told:
            waiting[0].cancel()
        elif report.state is EngineState.BUSY:
            asyncio.get_running_loop().call_soon(waiting[0].cancel)

    pool.on_change = leave_when_let_in
    waiting.append(tasks.supervise(pool.lease("a", deadline_s=WAIT_S), "leaving"))
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert [(report.state, report.busy) for report in pool.reports()] == [("ready", 0)]


async def test_a_load_longer_than_the_callers_patience(rig: Rig) -> None:
    gate = rig.folder / "gate"
    pool = rig.pool("--gate", str(gate))
    error = await error_of(pool, deadline_s=SOON_S)
    assert isinstance(error, ModelLoading)
    assert error.message == "Model 'a' is still being loaded"
    assert error.details["loading"]["state"] == "starting"
    assert 0 <= error.details["loading"]["progress"] < 1
    gate.touch()
    await use(pool)
    assert rig.loads == ["a"]


async def test_a_model_that_is_not_served(rig: Rig) -> None:
    assert isinstance(await error_of(rig.pool(), "z"), NoNodeAvailable)


async def test_nothing_is_loaded_before_the_budget_is_known(rig: Rig) -> None:
    pool = rig.pool(models="")
    pool._budget = None
    pool.serve("a", rig.files("a"))
    assert isinstance(await error_of(pool, deadline_s=SOON_S), ModelLoading)
    assert rig.loads == []
    pool.set_budget(Budget(GB))
    await use(pool)


# --- idle --------------------------------------------------------------------------------------------


async def test_idle_engines_unload(rig: Rig) -> None:
    pool = rig.pool(keep_alive_s=60)
    lease = await pool.lease("a", deadline_s=WAIT_S)
    rig.now += 100
    pool._look()
    await use(pool, "b")
    assert state(pool) is EngineState.BUSY
    lease.release()
    rig.now += 59
    await use(pool, "b")
    assert state(pool) is EngineState.READY
    rig.now += 1
    pool._look()
    await eventually(lambda: state(pool) is EngineState.STOPPED)
    assert state(pool, "b") is EngineState.READY
    await use(pool)
    assert rig.loads == ["a", "b", "a"]


async def test_the_timer_unloads_without_any_request(rig: Rig, tmp_path: Path) -> None:
    pool = EnginePool(
        slots=2, context=None, keep_alive_s=0.05, budget=Budget(GB), planner=rig.planner, command=fake_worker()
    )  # fmt: skip
    rig.pools.append(pool)
    pool.serve("a", rig.files("a"))
    await use(pool)
    await eventually(lambda: state(pool) is EngineState.STOPPED)


@pytest.mark.parametrize(("keep_alive_s", "unloads"), [(0.0, True), (-1.0, False)])
async def test_a_request_says_how_long_the_engine_stays(rig: Rig, keep_alive_s: float, unloads: bool) -> None:
    pool = rig.pool(keep_alive_s=60)
    await use(pool, keep_alive_s=keep_alive_s)
    if unloads:
        await eventually(lambda: state(pool) is EngineState.STOPPED)
        await use(pool)  # the next load has the default again
        rig.now += 59
    else:
        rig.now += 10_000
    await use(pool, "b")
    assert state(pool) is EngineState.READY


async def test_a_pinned_engine_stays_until_it_is_unpinned(rig: Rig) -> None:
    pool = rig.pool(keep_alive_s=60)
    pool.pin("a", True)
    await use(pool)
    assert pool.reports()[0].pinned
    rig.now += 10_000
    await use(pool, "b")
    assert state(pool) is EngineState.READY
    pool.pin("a", False)
    await eventually(lambda: state(pool) is EngineState.STOPPED)


async def test_pinning_before_serving(rig: Rig) -> None:
    pool = rig.pool(models="")
    pool.pin("a", True)
    pool.serve("a", rig.files("a"))
    await use(pool)
    assert pool.reports()[0].pinned


# --- memory ------------------------------------------------------------------------------------------


async def test_the_least_recently_used_makes_room(rig: Rig) -> None:
    pool = rig.pool(ram_bytes=2 * GB)
    for model_id in "ab":
        rig.now += 1
        await use(pool, model_id)
    rig.now += 1
    await use(pool, "a")
    await use(pool, "c")
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.READY, EngineState.STOPPED)
    assert pool.memory_used_bytes == 2 * GB


async def test_memory_has_returned_before_the_next_load_begins(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "STOP_EOF_S", 0.2)
    pool = rig.pool("--ignore-eof", ram_bytes=GB)
    await use(pool)
    stubborn = rig.pid()
    alive_at_start: list[bool] = []

    def watch(report: EngineReport) -> None:
        if report.model_id == "b" and report.state is EngineState.STARTING:
            alive_at_start.append(psutil.pid_exists(stubborn))

    pool.on_change = watch
    await use(pool, "b")
    assert alive_at_start == [False]


async def test_busy_and_pinned_engines_are_never_evicted(rig: Rig) -> None:
    pool = rig.pool(ram_bytes=2 * GB)
    pool.pin("b", True)
    await use(pool, "b")
    busy = await pool.lease("a", deadline_s=WAIT_S)
    error = await error_of(pool, "c", deadline_s=SOON_S)
    assert isinstance(error, ModelLoading)
    assert error.message == "Model 'c' is not loaded yet: it needs 1GB of memory, and models in use hold it"
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.BUSY, EngineState.READY)
    busy.release()
    await use(pool, "c")
    assert (state(pool, "a"), state(pool, "b")) == (EngineState.STOPPED, EngineState.READY)


async def test_a_waiting_load_begins_when_a_request_ends(rig: Rig, tasks: TaskGroup) -> None:
    pool = rig.pool(ram_bytes=GB)
    busy = await pool.lease("a", deadline_s=WAIT_S)
    waiting = tasks.supervise(pool.lease("b", deadline_s=WAIT_S), "waiting")
    await eventually(lambda: rig.planner.inspected[-1].name == "b.gguf")
    busy.release()
    (await waiting).release()
    assert rig.loads == ["a", "b"]


async def test_small_models_pass_one_that_waits_for_busy_engines(rig: Rig, tasks: TaskGroup) -> None:
    rig.planner.needs = {"b": Memory(2 * GB)}
    pool = rig.pool(ram_bytes=2 * GB)
    busy = await pool.lease("a", deadline_s=WAIT_S)
    waiting = tasks.supervise(pool.lease("b", deadline_s=WAIT_S), "waiting")
    await use(pool, "c")
    assert rig.loads == ["a", "c"]
    busy.release()
    (await waiting).release()
    assert (state(pool, "a"), state(pool, "c")) == (EngineState.STOPPED, EngineState.STOPPED)


async def test_memory_freed_for_one_is_not_taken_by_another(
    rig: Rig, tasks: TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "STOP_EOF_S", 0.2)
    rig.planner.needs = {"a": Memory(GB), "b": Memory(2 * GB), "c": Memory(GB)}
    pool = rig.pool("--ignore-eof", ram_bytes=2 * GB)
    await use(pool, "a")
    large = tasks.supervise(pool.lease("b", deadline_s=WAIT_S), "large")
    await eventually(lambda: state(pool, "a") is EngineState.STOPPING)
    assert isinstance(await error_of(pool, "c", deadline_s=SOON_S / 4), ModelLoading)
    (await large).release()
    assert rig.loads == ["a", "b"]


async def test_a_smaller_context_rather_than_waiting(rig: Rig) -> None:
    rig.planner.needs = {"b": Memory(2 * GB)}
    rig.planner.smaller = {"b"}
    pool = rig.pool(ram_bytes=2 * GB)
    async with await pool.lease("a", deadline_s=WAIT_S), await pool.lease("b", deadline_s=WAIT_S) as lease:
        assert lease.context_length == 512


async def test_the_whole_context_rather_than_an_idle_neighbour(rig: Rig) -> None:
    rig.planner.needs = {"b": Memory(2 * GB)}
    rig.planner.smaller = {"b"}
    pool = rig.pool(ram_bytes=2 * GB)
    await use(pool, "a")
    async with await pool.lease("b", deadline_s=WAIT_S) as lease:
        assert lease.context_length == 1024
    assert state(pool, "a") is EngineState.STOPPED


async def test_what_can_never_fit_is_refused_at_once(rig: Rig) -> None:
    rig.planner.needs = {"a": Memory(16 * GB)}
    error = await error_of(rig.pool(ram_bytes=8 * GB))
    assert isinstance(error, InsufficientMemory)
    assert error.message == "Insufficient VRAM. Required: 16GB, Available: 8GB"


# --- failures ----------------------------------------------------------------------------------------


async def test_a_crash_rests_then_the_next_request_loads_again(rig: Rig) -> None:
    pool = rig.pool()
    await use(pool)
    os.kill(rig.pid(), signal.SIGKILL)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    error = await error_of(pool)
    assert isinstance(error, EngineFailed)
    assert error.message == "Model 'a': the engine was killed (out of memory?); it is tried again in 1 s"
    assert error.retry_after_s == 1
    assert pool.reports()[0].error == "the engine was killed (out of memory?)"
    rig.now += 1
    await use(pool)
    assert pool.reports()[0].error is None
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
    monkeypatch.setattr(served_module, "BACKOFF_FIRST_S", 0.0)
    pool = rig.pool()
    pool.pin("a", True)
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
    pool.serve("a", rig.files("a"))
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
    monkeypatch.setattr("llb.engine.pool.LOAD_LEAST_S", 0.2)
    monkeypatch.setattr("llb.engine.pool.LOAD_BYTES_PER_S", 10**15)
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
    pool.serve("a", rig.files("a"))
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
    lease = await pool.lease("a", deadline_s=WAIT_S)
    lease.report_broken()
    await eventually(lambda: state(pool) is EngineState.FAILED)
    lease.report_broken()
    lease.release()
    assert "stopped answering" in (await error_of(pool)).message


async def test_a_sound_engine_that_is_reported_stays(rig: Rig) -> None:
    pool = rig.pool()
    async with await pool.lease("a", deadline_s=WAIT_S) as lease:
        lease.report_broken()
        await eventually(lambda: not any("check" in task.get_name() for task in asyncio.all_tasks()))
        assert state(pool) is EngineState.BUSY


async def test_an_engine_that_hangs_at_work_is_ended(rig: Rig) -> None:
    pool = rig.pool(watch_s=0.02, check_s=0.3)
    lease = await pool.lease("a", deadline_s=WAIT_S)
    os.kill(rig.pid(), signal.SIGSTOP)
    await eventually(lambda: state(pool) is EngineState.FAILED)
    assert "stopped answering" in (await error_of(pool)).message
    lease.release()


async def test_an_engine_that_hangs_for_a_moment_stays(rig: Rig) -> None:
    pool = rig.pool(watch_s=0.02, check_s=5.0)
    async with await pool.lease("a", deadline_s=WAIT_S):
        os.kill(rig.pid(), signal.SIGSTOP)
        await asyncio.sleep(0.2)
        os.kill(rig.pid(), signal.SIGCONT)
        await asyncio.sleep(0.2)
        assert state(pool) is EngineState.BUSY


# --- leaving -----------------------------------------------------------------------------------------


async def test_withdraw_waits_for_running_requests(rig: Rig, tasks: TaskGroup) -> None:
    pool = rig.pool()
    lease = await pool.lease("a", deadline_s=WAIT_S)
    leaving = tasks.supervise(pool.withdraw("a", grace_s=WAIT_S), "leaving")
    await eventually(lambda: not pool._served.get("a"))
    assert isinstance(await error_of(pool), NoNodeAvailable)
    assert [report.state for report in pool.reports()] == ["busy"]
    lease.release()
    await leaving
    assert (pool.reports(), pool.memory_used_bytes) == ((), 0)
    await pool.withdraw("a", grace_s=0)


async def test_withdraw_cuts_what_does_not_end(rig: Rig) -> None:
    pool = rig.pool()
    lease = await pool.lease("a", deadline_s=WAIT_S)
    pid = rig.pid()
    await pool.withdraw("a", grace_s=0)
    assert not psutil.pid_exists(pid)
    lease.release()


@pytest.mark.parametrize("begun", [False, True])
async def test_withdraw_while_it_loads(rig: Rig, tasks: TaskGroup, begun: bool) -> None:
    pool = rig.pool("--gate", str(rig.folder / "never"))
    refused = tasks.supervise(error_of(pool), "waiting")
    await eventually(lambda: rig.loads if begun else pool._served["a"].plan)
    await pool.withdraw("a", grace_s=WAIT_S)
    assert isinstance(await refused, NoNodeAvailable)
    assert pool.memory_used_bytes == 0


async def test_served_again_while_it_leaves(rig: Rig, tasks: TaskGroup) -> None:
    pool = rig.pool()
    lease = await pool.lease("a", deadline_s=WAIT_S)
    leaving = tasks.supervise(pool.withdraw("a", grace_s=WAIT_S), "leaving")
    await eventually(lambda: not pool._served.get("a"))
    pool.serve("a", rig.files("a"))
    await use(pool)
    assert pool.memory_used_bytes == 2 * GB
    lease.release()
    await leaving
    assert (pool.memory_used_bytes, state(pool)) == (GB, EngineState.READY)


async def test_unload_frees_the_memory_and_the_next_request_loads(rig: Rig) -> None:
    pool = rig.pool()
    await use(pool)
    await pool.unload("a")
    assert pool.memory_used_bytes == 0
    await pool.unload("a")
    await pool.unload("z")
    await use(pool)
    assert rig.loads == ["a", "a"]


async def test_close_leaves_nothing(rig: Rig, tasks: TaskGroup) -> None:
    pool = rig.pool("--gate", str(rig.folder / "gate"))
    (rig.folder / "gate").touch()
    lease = await pool.lease("a", deadline_s=WAIT_S)
    (rig.folder / "gate").unlink()
    refused = tasks.supervise(error_of(pool, "b"), "waiting")
    await eventually(lambda: rig.loads == ["a", "b"])
    pids = [rig.pid(0), rig.pid(1)]
    await pool.close()
    await pool.close()
    assert isinstance(await refused, NoNodeAvailable)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert isinstance(await error_of(pool, "c"), NoNodeAvailable)
    lease.release()
