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

from llb.decide.eviction import Memory, victims
from llb.engine.plan import EngineFiles, EnginePlan, Planner
from llb.engine.process import EngineProcess
from llb.engine.served import Lease, Served, Waiter
from llb.errors import EngineFailed, InsufficientMemory, ModelFailed, NoNodeAvailable, gigabytes
from llb.hardware import Budget
from llb.tasks import TaskGroup
from llb.wire import EngineReport, EngineState

__all__ = ["EngineFiles", "EnginePool", "Lease"]

log = logging.getLogger(__name__)

LOAD_LEAST_S = 120.0
LOAD_BYTES_PER_S = 20_000_000  # a slow disk; what takes longer hangs
CHECK_S = 5.0
# An engine that is at work is asked whether it is there as often as this; one that says nothing so many times in a row hangs.
WATCH_S = 10.0
WATCH_MISSES = 3
PROGRESS_S = 0.5
UNLOAD_GRACE_S = 30.0


class EnginePool:
    """Owns every engine of this node. Use it from one event loop; `close()` is idempotent."""

    def __init__(
        self,
        *,
        slots: int,
        context: int | None,
        keep_alive_s: float,
        budget: Budget | None = None,
        on_change: Callable[[EngineReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
        planner: Planner | None = None,
        command: Sequence[str] | None = None,
        watch_s: float = WATCH_S,
        check_s: float = CHECK_S,
    ) -> None:
        self.on_change = on_change
        self._slots = slots
        self._keep_alive_s = keep_alive_s
        self._budget = budget
        self._clock = clock
        self._planner = planner if planner is not None else Planner(slots=slots, context=context)
        self._command = command
        self._watch_s = watch_s
        self._check_s = check_s
        self._watching: asyncio.Task[None] | None = None
        self._tasks = TaskGroup("engines")
        self._served: dict[str, Served] = {}
        self._leaving: list[Served] = []  # withdrawn, but not gone yet
        self._pinned: set[str] = set()
        self._step_asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # --- what may be loaded --------------------------------------------------------------------------

    def set_budget(self, budget: Budget) -> None:
        """What engines may use in all. Until it is known nothing is loaded."""
        self._budget = budget
        self._look()

    def serve(self, model_id: str, files: EngineFiles) -> None:
        """This model may be loaded on demand from now on; a file that was refused before gets a new chance."""
        if self._watching is None:
            self._watching = self._tasks.supervise(self._watch(), "watch")
        engine = self._served.get(model_id)
        if engine is None:
            engine = self._served[model_id] = Served(
                model_id,
                files,
                keep_alive_s=self._keep_alive_s,
                clock=self._clock,
                make_process=lambda moved: EngineProcess(
                    model_id, tasks=self._tasks, on_move=moved, command=self._command
                ),
                changed=self._changed,
                suspected=self._suspected,
            )
            engine.pinned = model_id in self._pinned
        if engine.files != files:
            engine.files, engine.facts = files, None
        engine.forgive()
        self._look()

    async def withdraw(self, model_id: str, *, grace_s: float) -> None:
        """No new requests, running ones get up to `grace_s`, then the engine is gone. Unknown ids are fine."""
        engine = self._served.pop(model_id, None)
        if engine is not None:
            self._leaving.append(engine)
            engine.send_away(lambda: NoNodeAvailable(f"Model '{model_id}' is being removed"))
            await self._wind_down(engine, grace_s)

    async def unload(self, model_id: str, *, grace_s: float = UNLOAD_GRACE_S) -> None:
        """Free the model's memory; the next request loads it again. Running requests get up to `grace_s`."""
        engine = self._served.get(model_id)
        if engine is not None:
            await self._wind_down(engine, grace_s)

    def pin(self, model_id: str, pinned: bool) -> None:
        """A pinned engine is neither unloaded when idle nor evicted, and comes back after a crash."""
        if pinned == (model_id in self._pinned):
            return
        (self._pinned.add if pinned else self._pinned.discard)(model_id)
        engine = self._served.get(model_id)
        if engine is not None:
            engine.pinned = pinned
            self._changed(engine)

    # --- what is loaded ------------------------------------------------------------------------------

    async def lease(self, model_id: str, *, deadline_s: float, keep_alive_s: float | None = None) -> Lease:
        """A ready engine, loaded first if need be; `keep_alive_s` holds for that engine from then on.

        Raises `ModelLoading` (not ready within `deadline_s`), `EngineFailed` (it failed, and rests before the next try),
        `ModelFailed` (llama.cpp will never load this file), `InsufficientMemory`, `NoNodeAvailable` (not served here).
        """
        engine = self._served.get(model_id)
        if engine is None or self._closed:
            raise NoNodeAvailable(f"Model '{model_id}' is not served by this node")
        if engine.leasable:
            return engine.grant(keep_alive_s)
        waiter = Waiter(asyncio.get_running_loop().create_future(), self._clock(), keep_alive_s)
        engine.waiters.append(waiter)
        self._look()
        try:
            async with asyncio.timeout(deadline_s):
                return await waiter.granted
        except TimeoutError:
            waiter.leave()
            raise engine.still_loading() from None
        except asyncio.CancelledError:
            waiter.leave()
            raise
        finally:
            if waiter in engine.waiters:
                engine.waiters.remove(waiter)

    def reports(self) -> tuple[EngineReport, ...]:
        """Every engine that is not simply stopped."""
        reports = (engine.report(self._slots) for engine in self._all())
        return tuple(report for report in reports if report.state is not EngineState.STOPPED)

    @property
    def memory_used_bytes(self) -> int:
        """What the engines that live were planned to need."""
        return self._used().total_bytes

    async def close(self) -> None:
        """Stop every engine at once; requests that still run are cut."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for engine in self._all():
            engine.send_away(lambda: NoNodeAvailable("This node is shutting down"))
        alive = [engine for engine in self._all() if engine.process.alive]
        stops = [self._tasks.supervise(self._stop(engine), f"{engine.model_id}.stop") for engine in alive]
        if stops:
            await asyncio.wait(stops)
        await self._tasks.close()

    # --- deciding ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Have `_step` run soon, once for however many reasons."""
        if not self._step_asked and not self._closed:
            self._step_asked = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._step_asked = False
        if self._closed:
            return
        now = self._clock()
        for engine in self._served.values():
            engine.answer_waiters(now)
        for engine in self._served.values():
            if engine.idle_at is not None and engine.idle_at <= now:
                self._begin_stop(engine)
        if self._budget is not None:
            self._begin_loads(self._budget, now)
        self._set_timer(now)

    def _begin_loads(self, budget: Budget, now: float) -> None:
        """Start what fits, evict for what does not, in the order in which it was first asked for."""
        free = Memory(budget.ram_bytes, sum(budget.vram_bytes)) - self._used()
        returning = sum((engine.memory for engine in self._all() if engine.memory_returns), Memory())
        wanting = [engine for engine in self._served.values() if engine.wants_load(now)]
        for engine in sorted(wanting, key=lambda engine: engine.waiters[0].since if engine.waiters else now):
            if engine.facts is None:
                engine.at_work = True
                self._tasks.supervise(self._inspect(engine), f"{engine.model_id}.inspect")
                continue
            loaded = [each.loaded for each in self._served.values() if each.plan and not each.closing]
            room = sum((each.memory for each in loaded if each.evictable), free + returning)
            plan = self._planner.plan(engine.model_id, engine.files, engine.facts, budget)
            if plan is None:
                needed_bytes = self._planner.least_bytes(engine.files, engine.facts)
                engine.send_away(partial(InsufficientMemory, needed_bytes, budget.total_bytes))
                continue
            if not room.covers(plan.memory):
                # Rather a smaller context than waiting for models in use, rather waiting than nothing.
                plan = (
                    self._planner.plan(engine.model_id, engine.files, engine.facts, _part(budget, room))
                    or plan
                )
            if free.covers(plan.memory):
                free -= plan.memory
                self._begin_load(engine, plan)
                continue
            chosen = victims(plan.memory, free + returning, loaded)
            if chosen is None:
                engine.waits_for = (
                    f"it needs {gigabytes(plan.memory.total_bytes)} of memory, and models in use hold it"
                )
                continue
            for model_id in chosen:
                returning += self._served[model_id].memory
                self._begin_stop(self._served[model_id])
            engine.waits_for = "memory is being freed for it"
            # Promised: whoever comes later in the order must not take it.
            free -= plan.memory

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [at for engine in self._served.values() if (at := engine.idle_at) is not None]
        due += [
            at for engine in self._served.values() if (at := engine.comes_back_at) is not None and at > now
        ]
        if due:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, min(due) - now), self._look)

    # --- acting --------------------------------------------------------------------------------------

    def _begin_load(self, engine: Served, plan: EnginePlan) -> None:
        engine.begin(plan)
        engine.at_work = True
        self._tasks.supervise(self._load(engine, plan), f"{engine.model_id}.load")

    def _begin_stop(self, engine: Served) -> None:
        engine.closing = True
        self._tasks.supervise(self._stop(engine), f"{engine.model_id}.stop")

    async def _inspect(self, engine: Served) -> None:
        files = engine.files
        try:
            facts = await asyncio.to_thread(self._planner.inspect, files)
            if engine.files == files:
                engine.facts = facts
        except ModelFailed as refused:
            engine.refused = refused.message
        except Exception:
            # A defect of ours: those who wait must not make it happen again and again.
            engine.send_away(
                lambda: EngineFailed(f"Model '{engine.model_id}': its header could not be understood")
            )
            raise
        finally:
            engine.at_work = False
            self._changed(engine)

    async def _load(self, engine: Served, plan: EnginePlan) -> None:
        deadline_s = max(LOAD_LEAST_S, plan.memory.total_bytes / LOAD_BYTES_PER_S)
        telling = self._tasks.supervise(self._tell_progress(engine), f"{engine.model_id}.progress")
        try:
            await engine.process.start(plan.spec, deadline_s=deadline_s)
        except EngineFailed as failed:
            log.info("model %s was not loaded: %s", engine.model_id, failed.message)
        finally:
            telling.cancel()
            engine.at_work = False
            if not engine.process.alive:
                engine.plan = None
            self._look()

    async def _tell_progress(self, engine: Served) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            if engine.process.state is EngineState.STARTING:
                self._announce(engine)

    async def _wind_down(self, engine: Served, grace_s: float) -> None:
        """Let no new request in, wait for the running ones, stop it. Who gives up waiting leaves no engine behind."""
        engine.closing = True
        ending = self._tasks.supervise(self._drain(engine, grace_s), f"{engine.model_id}.drain")
        await asyncio.wait([ending])

    async def _drain(self, engine: Served, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                while engine.process.busy:
                    engine.quiet.clear()
                    await engine.quiet.wait()
        except TimeoutError:
            log.info("model %s: %d running requests are cut", engine.model_id, engine.process.busy)
        await self._stop(engine)

    async def _stop(self, engine: Served) -> None:
        """Stop the child and wait until it is gone; unless it was withdrawn it may then be loaded again."""
        engine.closing = True
        try:
            await engine.process.stop()
        except EngineFailed as failed:
            log.error("model %s: %s", engine.model_id, failed.message)
        if engine in self._leaving and not engine.process.alive:
            self._leaving.remove(engine)
        engine.closing = engine in self._leaving
        self._look()

    def _suspected(self, engine: Served) -> None:
        if not self._closed and engine.leasable:
            self._tasks.supervise(engine.process.check(deadline_s=self._check_s), f"{engine.model_id}.check")

    async def _watch(self) -> None:
        """End engines that hang: their requests would hold a slot, and their clients wait, for as long as an answer may take."""
        missed: dict[tuple[str, int], int] = {}  # by model and generation
        while True:
            await asyncio.sleep(self._watch_s)
            busy = [engine for engine in self._all() if engine.process.state is EngineState.BUSY]
            asked = {(engine.model_id, engine.process.generation): engine.process for engine in busy}
            answers = await asyncio.gather(
                *(process.answers(deadline_s=self._check_s) for process in asked.values())
            )
            missed = {
                which: missed.get(which, 0) + 1
                for which, answered in zip(asked, answers, strict=True)
                if not answered
            }
            for which, times in missed.items():
                if times >= WATCH_MISSES:
                    log.error("model %s: its engine hangs, and is ended", which[0])
                    await asked[which].check(deadline_s=self._check_s)

    # --- what there is -------------------------------------------------------------------------------

    def _changed(self, engine: Served) -> None:
        self._announce(engine)
        self._look()

    def _announce(self, engine: Served) -> None:
        self.on_change(engine.report(self._slots))

    def _all(self) -> Iterator[Served]:
        yield from self._served.values()
        yield from self._leaving

    def _used(self) -> Memory:
        return sum((engine.memory for engine in self._all()), Memory())


def _part(budget: Budget, room: Memory) -> Budget:
    """`room` as a budget: its VRAM spread over the GPUs in proportion to their sizes."""
    vram_bytes = sum(budget.vram_bytes)
    return Budget(
        ram_bytes=max(0, room.ram_bytes),
        vram_bytes=tuple(size * max(0, room.vram_bytes) // vram_bytes for size in budget.vram_bytes),
    )
