"""The engines of this node: loaded on demand, unloaded when idle or when another needs the memory.

One synchronous function, `_step`, looks at everything and decides; what it starts (a load, a stop) runs as a task, and
its end makes `_step` look again. So nothing is decided on a state that an `await` has made old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.engine.model_engine import Lease, LeaseRequest, ModelEngine
from llb.engine.plan import EngineFiles, EnginePlan, EnginePlanner
from llb.engine.process import EngineProcess
from llb.errors import EngineFailed, InsufficientMemory, ModelFailed, NoNodeAvailable, format_gigabytes
from llb.hardware import MemoryBudget
from llb.policy.eviction import select_victims
from llb.policy.memory import Memory
from llb.wire import EngineReport, EngineState

__all__ = ["EngineFiles", "EnginePool", "Lease"]

log = logging.getLogger(__name__)

MIN_LOAD_TIMEOUT_S = 120.0
MIN_LOAD_BYTES_PER_S = 20_000_000  # a slow disk; what takes longer hangs
HEALTH_CHECK_TIMEOUT_S = 5.0
# An engine that is at work is asked whether it is there as often as this; one that says nothing so many times in a row hangs.
WATCHDOG_INTERVAL_S = 10.0
WATCHDOG_MAX_MISSES = 3
PROGRESS_INTERVAL_S = 0.5
UNLOAD_GRACE_S = 30.0


class EnginePool:
    """Owns every engine of this node. Use it from one event loop; `close()` is idempotent."""

    def __init__(
        self,
        *,
        slots: int,
        context: int | None,
        keep_alive_s: float,
        budget: MemoryBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        planner: EnginePlanner | None = None,
        command: Sequence[str] | None = None,
        watchdog_interval_s: float = WATCHDOG_INTERVAL_S,
        health_check_timeout_s: float = HEALTH_CHECK_TIMEOUT_S,
    ) -> None:
        self.engine_changed: Topic[EngineReport] = Topic()
        self._slots = slots
        self._keep_alive_s = keep_alive_s
        self._budget = budget
        self._clock = clock
        self._planner = planner if planner is not None else EnginePlanner(slots=slots, context=context)
        self._command = command
        self._watchdog_interval_s = watchdog_interval_s
        self._health_check_timeout_s = health_check_timeout_s
        self._watchdog_task: asyncio.Task[None] | None = None
        self._tasks = TaskSupervisor("engines")
        self._engines: dict[str, ModelEngine] = {}
        self._withdrawn: list[ModelEngine] = []  # withdrawn, but not gone yet
        self._pinned_ids: set[str] = set()
        self._reconcile_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # --- what may be loaded --------------------------------------------------------------------------

    def set_budget(self, budget: MemoryBudget) -> None:
        """What engines may use in all. Until it is known nothing is loaded."""
        self._budget = budget
        self._schedule()

    def add_model(self, model_id: str, files: EngineFiles) -> None:
        """This model may be loaded on demand from now on; a file that was refused before gets a new chance."""
        if self._watchdog_task is None:
            self._watchdog_task = self._tasks.spawn(self._run_watchdog(), "watch")
        engine = self._engines.get(model_id)
        if engine is None:
            engine = self._engines[model_id] = ModelEngine(
                model_id,
                files,
                keep_alive_s=self._keep_alive_s,
                clock=self._clock,
                make_process=lambda moved: EngineProcess(
                    model_id, tasks=self._tasks, on_transition=moved, command=self._command
                ),
                on_changed=self._on_engine_changed,
                on_suspected_failure=self._on_suspected_failure,
            )
            engine.pinned = model_id in self._pinned_ids
        if engine.files != files:
            engine.files, engine.metadata = files, None
        engine.reset_failures()
        self._schedule()

    async def remove_model(self, model_id: str, *, grace_s: float) -> None:
        """No new requests, running ones get up to `grace_s`, then the engine is gone. Unknown ids are fine."""
        engine = self._engines.pop(model_id, None)
        if engine is not None:
            self._withdrawn.append(engine)
            engine.reject_lease_requests(lambda: NoNodeAvailable(f"Model '{model_id}' is being removed"))
            await self._drain_uncancelled(engine, grace_s)

    async def unload(self, model_id: str, *, grace_s: float = UNLOAD_GRACE_S) -> None:
        """Free the model's memory; the next request loads it again. Running requests get up to `grace_s`."""
        engine = self._engines.get(model_id)
        if engine is not None:
            await self._drain_uncancelled(engine, grace_s)

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """A pinned engine is neither unloaded when idle nor evicted, and comes back after a crash."""
        if pinned == (model_id in self._pinned_ids):
            return
        (self._pinned_ids.add if pinned else self._pinned_ids.discard)(model_id)
        engine = self._engines.get(model_id)
        if engine is not None:
            engine.pinned = pinned
            self._on_engine_changed(engine)

    # --- what is loaded ------------------------------------------------------------------------------

    async def acquire_lease(
        self, model_id: str, *, deadline_s: float, keep_alive_s: float | None = None
    ) -> Lease:
        """A ready engine, loaded first if need be; `keep_alive_s` holds for that engine from then on.

        Raises `ModelLoading` (not ready within `deadline_s`), `EngineFailed` (it failed, and rests before the next try),
        `ModelFailed` (llama.cpp will never load this file), `InsufficientMemory`, `NoNodeAvailable` (not served here).
        """
        engine = self._engines.get(model_id)
        if engine is None or self._closed:
            raise NoNodeAvailable(f"Model '{model_id}' is not served by this node")
        if engine.is_leasable:
            return engine.grant_lease(keep_alive_s)
        waiter = LeaseRequest(asyncio.get_running_loop().create_future(), self._clock(), keep_alive_s)
        engine.lease_requests.append(waiter)
        self._schedule()
        try:
            async with asyncio.timeout(deadline_s):
                return await waiter.lease
        except TimeoutError:
            waiter.abandon()
            raise engine.loading_error() from None
        except asyncio.CancelledError:
            waiter.abandon()
            raise
        finally:
            if waiter in engine.lease_requests:
                engine.lease_requests.remove(waiter)

    def engine_reports(self) -> tuple[EngineReport, ...]:
        """Every engine that is not simply stopped."""
        reports = (engine.report(self._slots) for engine in self._all_engines())
        return tuple(report for report in reports if report.state is not EngineState.STOPPED)

    @property
    def memory_used_bytes(self) -> int:
        """What the engines that live were planned to need."""
        return self._used_memory().total_bytes

    async def close(self) -> None:
        """Stop every engine at once; requests that still run are cut."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for engine in self._all_engines():
            engine.reject_lease_requests(lambda: NoNodeAvailable("This node is shutting down"))
        alive = [engine for engine in self._all_engines() if engine.process.is_alive]
        stops = [self._tasks.spawn(self._stop(engine), f"{engine.model_id}.stop") for engine in alive]
        if stops:
            await asyncio.wait(stops)
        await self._tasks.close()

    # --- deciding ------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Have `_step` run soon, once for however many reasons."""
        if not self._reconcile_scheduled and not self._closed:
            self._reconcile_scheduled = True
            asyncio.get_running_loop().call_soon(self._reconcile)

    def _reconcile(self) -> None:
        self._reconcile_scheduled = False
        if self._closed:
            return
        now = self._clock()
        for engine in self._engines.values():
            engine.resolve_lease_requests(now)
        for engine in self._engines.values():
            if engine.unload_at is not None and engine.unload_at <= now:
                self._start_stop(engine)
        if self._budget is not None:
            self._start_loads(self._budget, now)
        self._set_timer(now)

    def _start_loads(self, budget: MemoryBudget, now: float) -> None:
        """Start what fits, evict for what does not, in the order in which it was first asked for."""
        free = Memory(budget.ram_bytes, sum(budget.vram_bytes)) - self._used_memory()
        returning = sum(
            (engine.memory for engine in self._all_engines() if engine.is_releasing_memory), Memory()
        )
        wanting = [engine for engine in self._engines.values() if engine.needs_load(now)]
        for engine in sorted(
            wanting,
            key=lambda engine: engine.lease_requests[0].requested_at if engine.lease_requests else now,
        ):
            if engine.metadata is None:
                engine.is_task_running = True
                self._tasks.spawn(self._read_metadata(engine), f"{engine.model_id}.inspect")
                continue
            loaded = [
                each.loaded_engine for each in self._engines.values() if each.plan and not each.is_stopping
            ]
            room = sum((each.memory for each in loaded if each.is_evictable), free + returning)
            plan = self._planner.plan_engine(engine.model_id, engine.files, engine.metadata, budget)
            if plan is None:
                needed_bytes = self._planner.min_memory_bytes(engine.files, engine.metadata)
                engine.reject_lease_requests(partial(InsufficientMemory, needed_bytes, budget.total_bytes))
                continue
            if not room.covers(plan.memory):
                # Rather a smaller context than waiting for models in use, rather waiting than nothing.
                plan = (
                    self._planner.plan_engine(
                        engine.model_id, engine.files, engine.metadata, _limit_budget(budget, room)
                    )
                    or plan
                )
            if free.covers(plan.memory):
                free -= plan.memory
                self._start_load(engine, plan)
                continue
            chosen = select_victims(plan.memory, free + returning, loaded)
            if chosen is None:
                engine.waiting_reason = f"it needs {format_gigabytes(plan.memory.total_bytes)} of memory, and models in use hold it"
                continue
            for model_id in chosen:
                returning += self._engines[model_id].memory
                self._start_stop(self._engines[model_id])
            engine.waiting_reason = "memory is being freed for it"
            # Promised: whoever comes later in the order must not take it.
            free -= plan.memory

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [at for engine in self._engines.values() if (at := engine.unload_at) is not None]
        due += [at for engine in self._engines.values() if (at := engine.reload_at) is not None and at > now]
        if due:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, min(due) - now), self._schedule)

    # --- acting --------------------------------------------------------------------------------------

    def _start_load(self, engine: ModelEngine, plan: EnginePlan) -> None:
        engine.begin_load(plan)
        engine.is_task_running = True
        self._tasks.spawn(self._load(engine, plan), f"{engine.model_id}.load")

    def _start_stop(self, engine: ModelEngine) -> None:
        engine.is_stopping = True
        self._tasks.spawn(self._stop(engine), f"{engine.model_id}.stop")

    async def _read_metadata(self, engine: ModelEngine) -> None:
        files = engine.files
        try:
            facts = await asyncio.to_thread(self._planner.read_metadata, files)
            if engine.files == files:
                engine.metadata = facts
        except ModelFailed as refused:
            engine.rejection_reason = refused.message
        except Exception:
            # A defect of ours: those who wait must not make it happen again and again.
            engine.reject_lease_requests(
                lambda: EngineFailed(f"Model '{engine.model_id}': its header could not be understood")
            )
            raise
        finally:
            engine.is_task_running = False
            self._on_engine_changed(engine)

    async def _load(self, engine: ModelEngine, plan: EnginePlan) -> None:
        deadline_s = max(MIN_LOAD_TIMEOUT_S, plan.memory.total_bytes / MIN_LOAD_BYTES_PER_S)
        telling = self._tasks.spawn(self._report_progress(engine), f"{engine.model_id}.progress")
        try:
            await engine.process.start(plan.spec, deadline_s=deadline_s)
        except EngineFailed as failed:
            log.info("model %s was not loaded: %s", engine.model_id, failed.message)
        finally:
            telling.cancel()
            engine.is_task_running = False
            if not engine.process.is_alive:
                engine.plan = None
            self._schedule()

    async def _report_progress(self, engine: ModelEngine) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            if engine.process.state is EngineState.STARTING:
                self._publish_report(engine)

    async def _drain_uncancelled(self, engine: ModelEngine, grace_s: float) -> None:
        """Let no new request in, wait for the running ones, stop it. Who gives up waiting leaves no engine behind."""
        engine.is_stopping = True
        ending = self._tasks.spawn(self._drain_and_stop(engine, grace_s), f"{engine.model_id}.drain")
        await asyncio.wait([ending])

    async def _drain_and_stop(self, engine: ModelEngine, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                while engine.process.active_requests:
                    engine.state_changed.clear()
                    await engine.state_changed.wait()
        except TimeoutError:
            log.info("model %s: %d running requests are cut", engine.model_id, engine.process.active_requests)
        await self._stop(engine)

    async def _stop(self, engine: ModelEngine) -> None:
        """Stop the child and wait until it is gone; unless it was withdrawn it may then be loaded again."""
        engine.is_stopping = True
        try:
            await engine.process.stop()
        except EngineFailed as failed:
            log.error("model %s: %s", engine.model_id, failed.message)
        if engine in self._withdrawn and not engine.process.is_alive:
            self._withdrawn.remove(engine)
        engine.is_stopping = engine in self._withdrawn
        self._schedule()

    def _on_suspected_failure(self, engine: ModelEngine) -> None:
        if not self._closed and engine.is_leasable:
            self._tasks.spawn(
                engine.process.kill_if_unresponsive(deadline_s=self._health_check_timeout_s),
                f"{engine.model_id}.check",
            )

    async def _run_watchdog(self) -> None:
        """End engines that hang: their requests would hold a slot, and their clients wait, for as long as an answer may take."""
        missed: dict[tuple[str, int], int] = {}  # by model and generation
        while True:
            await asyncio.sleep(self._watchdog_interval_s)
            busy = [engine for engine in self._all_engines() if engine.process.state is EngineState.BUSY]
            asked = {(engine.model_id, engine.process.generation): engine.process for engine in busy}
            answers = await asyncio.gather(
                *(
                    process.is_responsive(deadline_s=self._health_check_timeout_s)
                    for process in asked.values()
                )
            )
            missed = {
                which: missed.get(which, 0) + 1
                for which, answered in zip(asked, answers, strict=True)
                if not answered
            }
            for which, times in missed.items():
                if times >= WATCHDOG_MAX_MISSES:
                    log.error("model %s: its engine hangs, and is ended", which[0])
                    await asked[which].kill_if_unresponsive(deadline_s=self._health_check_timeout_s)

    # --- what there is -------------------------------------------------------------------------------

    def _on_engine_changed(self, engine: ModelEngine) -> None:
        self._publish_report(engine)
        self._schedule()

    def _publish_report(self, engine: ModelEngine) -> None:
        self.engine_changed.publish(engine.report(self._slots))

    def _all_engines(self) -> Iterator[ModelEngine]:
        yield from self._engines.values()
        yield from self._withdrawn

    def _used_memory(self) -> Memory:
        return sum((engine.memory for engine in self._all_engines()), Memory())


def _limit_budget(budget: MemoryBudget, available: Memory) -> MemoryBudget:
    """`room` as a budget: its VRAM spread over the GPUs in proportion to their sizes."""
    vram_bytes = sum(budget.vram_bytes)
    return MemoryBudget(
        ram_bytes=max(0, available.ram_bytes),
        vram_bytes=tuple(size * max(0, available.vram_bytes) // vram_bytes for size in budget.vram_bytes),
    )
