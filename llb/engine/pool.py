"""Engine pool: loads the engines of a node on demand, and unloads them when idle or for the memory of another
one.

One synchronous function, `_reconcile`, makes all decisions. The loads and stops that it starts run as tasks,
and the end of each schedules `_reconcile` again. So no decision is based on a state that an `await` has made
stale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.engine.drafts import Drafts
from llb.engine.lease import Lease, LeaseRequest
from llb.engine.model_engine import ModelEngine
from llb.engine.planning.buffer_report import EngineBuffer
from llb.engine.planning.calibration import CalibrationStore, compare_with_plan
from llb.engine.planning.engine_plan import EngineFiles, EnginePlan, EnginePlanner, ModelMetadata
from llb.engine.process import EngineProcess
from llb.engine.watchdog import HEALTH_CHECK_TIMEOUT_S, HEALTH_INTERVAL_S, PROGRESS_INTERVAL_S, EngineWatchdog
from llb.errors import EngineFailed, InsufficientMemory, ModelFailed, NoNodeAvailable, format_gigabytes
from llb.hardware import EngineBuild, MemoryBudget
from llb.policy.eviction import select_victims
from llb.policy.keep_alive import KeepAlive
from llb.policy.memory import NEUTRAL, FreeMemory, Memory, MemoryCalibration, ModelShape
from llb.wire import EngineReport, EngineState, LoadOptions, Speculation

__all__ = ["EngineFiles", "EnginePool", "KeepAlive", "Lease"]

log = logging.getLogger(__name__)

MIN_LOAD_TIMEOUT_S = 120.0
# Drivers compile what a build has no code for, at the first load and without a word.
MIN_GPU_LOAD_TIMEOUT_S = 600.0
# A slow disk; a load that takes longer is considered to hang.
MIN_LOAD_BYTES_PER_S = 20_000_000
REPORT_INTERVAL_S = 0.5
UNLOAD_GRACE_S = 30.0


class EnginePool:
    """Owner of all engines of this node, for use in one event loop; `close()` is idempotent.

    `engine_changed` publishes a report after each change. Nothing is loaded before the memory budget is
    known.
    """

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
        get_build: Callable[[], EngineBuild] = EngineBuild,
        calibrations: CalibrationStore | None = None,
        on_log_line: Callable[[str, str], None] = lambda model_id, line: None,
        health_interval_s: float = HEALTH_INTERVAL_S,
        health_check_timeout_s: float = HEALTH_CHECK_TIMEOUT_S,
        progress_interval_s: float = PROGRESS_INTERVAL_S,
    ) -> None:
        self.engine_changed: Topic[EngineReport] = Topic()
        self._slots = slots
        self._keep_alive_s = keep_alive_s
        self._budget = budget
        self._clock = clock
        self._planner = planner if planner is not None else EnginePlanner(slots=slots, context=context)
        self._command = command
        self._get_build = get_build
        self._calibrations = calibrations if calibrations is not None else CalibrationStore()
        self._on_log_line = on_log_line
        self._tasks = TaskSupervisor("engines")
        self._watchdog = EngineWatchdog(
            self._all_engines,
            self._tasks,
            on_looping=self._restart,
            health_interval_s=health_interval_s,
            health_check_timeout_s=health_check_timeout_s,
            progress_interval_s=progress_interval_s,
        )
        self._engines: dict[str, ModelEngine] = {}
        # Removed, but their processes have not ended yet.
        self._removed: list[ModelEngine] = []
        self._pinned_ids: set[str] = set()
        self._options: dict[str, LoadOptions] = {}
        self._drafts = Drafts(self._engines, self._planner)
        self._reconcile_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # --- models --------------------------------------------------------------------------------------

    @property
    def budget(self) -> MemoryBudget | None:
        """Memory that all engines together may use; None before the hardware was probed."""
        return self._budget

    def set_budget(self, budget: MemoryBudget) -> None:
        """Set the memory that all engines together may use."""
        if budget != self._budget:
            self._budget = budget
            self._schedule()

    def set_keep_alive(self, keep_alive_s: float) -> None:
        """Set after how many seconds an idle engine is unloaded, unless its model has a time of its own."""
        self._keep_alive_s = keep_alive_s
        for engine in self._engines.values():
            engine.set_host_keep_alive(keep_alive_s)
        self._schedule()

    def set_load_defaults(self, *, slots: int, context: int | None) -> None:
        """Set slots and context length of the models without own ones; engines in memory keep theirs."""
        self._slots = slots
        self._planner.set_defaults(slots=slots, context=context)

    def add_model(self, model_id: str, files: EngineFiles) -> None:
        """Allow loading this model on demand; forgets earlier failures of its files."""
        self._watchdog.start()
        engine = self._engines.get(model_id)
        if engine is None:
            engine = self._engines[model_id] = ModelEngine(
                model_id,
                files,
                keep_alive_s=self._keep_alive_s,
                clock=self._clock,
                make_process=lambda on_transition: EngineProcess(
                    model_id,
                    tasks=self._tasks,
                    on_transition=on_transition,
                    command=self._command,
                    get_build=self._get_build,
                    on_log_line=self._on_log_line,
                    on_buffers=partial(self._calibrate, model_id),
                ),
                on_changed=self._on_engine_changed,
                on_suspected_failure=self._on_suspected_failure,
            )
            engine.pinned = model_id in self._pinned_ids
            engine.set_options(self._options.get(model_id))
            engine.set_draft(*self._drafts.drafting_of(model_id))
        if engine.files != files:
            engine.files, engine.metadata = files, None
        for other in self._drafts.engines_drafted_by(model_id):
            other.forget_draft()
        engine.reset_failures()
        self._schedule()

    async def remove_model(self, model_id: str, *, grace_s: float) -> None:
        """Remove a model: reject new requests, and stop after at most `grace_s`. Unknown ids are ignored."""
        engine = self._engines.pop(model_id, None)
        if engine is not None:
            self._removed.append(engine)
            engine.leases.reject_pending(lambda: NoNodeAvailable(f"Model '{model_id}' is being removed"))
            # Engines for which it drafts have its file open. Their own requests have the usual time to end.
            path = str(engine.files.model_path)
            users = [
                other
                for other in self._all_engines()
                if other.plan is not None and other.plan.spec.draft_path == path
            ]
            await asyncio.gather(
                self._drain_uncancelled(engine, grace_s),
                *(self._drain_uncancelled(user, max(grace_s, UNLOAD_GRACE_S)) for user in users),
            )

    async def unload(self, model_id: str, *, grace_s: float = UNLOAD_GRACE_S) -> None:
        """Unload a model after its running requests, at most `grace_s`; the next request loads it again."""
        engine = self._engines.get(model_id)
        if engine is not None:
            await self._drain_uncancelled(engine, grace_s)

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Pin or unpin a model; a pinned one is not unloaded when idle, not evicted, and reloaded after a
        crash.
        """
        if pinned == (model_id in self._pinned_ids):
            return
        (self._pinned_ids.add if pinned else self._pinned_ids.discard)(model_id)
        engine = self._engines.get(model_id)
        if engine is not None:
            engine.pinned = pinned
            self._on_engine_changed(engine)

    def set_options(self, model_id: str, options: LoadOptions | None) -> None:
        """Set how a model is loaded next; None for the settings of this host."""
        if options == self._options.get(model_id):
            return
        if options is None:
            del self._options[model_id]
        else:
            self._options[model_id] = options
        engine = self._engines.get(model_id)
        if engine is not None:
            engine.set_options(options)
            self._schedule()

    def set_draft(self, model_id: str, draft_id: str | None, speculation: Speculation | None = None) -> None:
        """Set which model drafts for this one, or how it drafts for itself, from its next load on."""
        self._drafts.set_draft(model_id, draft_id, speculation)

    def is_loaded_otherwise(self, model_id: str) -> bool:
        """Whether a model is in memory with other slots or another context than its options ask for."""
        engine, options = self._engines.get(model_id), self._options.get(model_id) or LoadOptions()
        spec = None if engine is None or engine.plan is None else engine.plan.spec
        if spec is None:
            return False
        slots = options.slots or self._slots
        requested = options.context_length or self._planner.context
        return spec.slots != slots or (requested is not None and spec.context_length != requested)

    # --- leases and reports --------------------------------------------------------------------------

    async def acquire_lease(
        self, model_id: str, *, deadline_s: float, keep_alive: KeepAlive | None = None
    ) -> Lease:
        """Return a lease of a ready engine, which is loaded first if necessary.

        `keep_alive` is applied to the engine. Raises `ModelLoading` if it is not ready within
        `deadline_s`, `EngineFailed` during the back-off after a failure, `ModelFailed` if llama.cpp cannot
        load the file, `InsufficientMemory`, and `NoNodeAvailable` for a model that this node does not serve.
        """
        lease = self.lease_loaded(model_id, keep_alive)
        if lease is not None:
            return lease
        engine = self._engines[model_id]
        request = LeaseRequest(asyncio.get_running_loop().create_future(), self._clock(), keep_alive)
        engine.leases.pending.append(request)
        self._schedule()
        try:
            async with asyncio.timeout(deadline_s):
                return await request.lease
        except TimeoutError:
            request.abandon()
            raise engine.loading_error() from None
        except asyncio.CancelledError:
            request.abandon()
            raise
        finally:
            if request in engine.leases.pending:
                engine.leases.pending.remove(request)

    def lease_loaded(self, model_id: str, keep_alive: KeepAlive | None = None) -> Lease | None:
        """Like `acquire_lease`, without a wait: None if the model is not loaded."""
        engine = self._engines.get(model_id)
        if engine is None or self._closed:
            raise NoNodeAvailable(f"Model '{model_id}' is not served by this node")
        return engine.leases.grant(keep_alive)

    def engine_reports(self) -> tuple[EngineReport, ...]:
        """Return the reports of all engines that are not stopped, after measuring their memory."""
        for engine in self._all_engines():
            engine.measure_memory()
        reports = (engine.report(self._slots) for engine in self._all_engines())
        return tuple(report for report in reports if report.state is not EngineState.STOPPED)

    @property
    def memory_used_bytes(self) -> int:
        """Memory that the plans of all engines reserve."""
        return self.used_memory().total_bytes

    async def close(self) -> None:
        """Stop all engines at once; running requests are aborted."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for engine in self._all_engines():
            engine.leases.reject_pending(lambda: NoNodeAvailable("This node is shutting down"))
        alive = [engine for engine in self._all_engines() if engine.process.is_alive]
        stop_tasks = [self._tasks.spawn(self._stop(engine), f"{engine.model_id}.stop") for engine in alive]
        if stop_tasks:
            await asyncio.wait(stop_tasks)
        await self._tasks.close()

    # --- decisions -----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Run `_reconcile` in the next step of the event loop, once for all calls until then."""
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
        """Start the loads that fit, and evict engines for those that do not, oldest request first."""
        waiting = [engine for engine in self._engines.values() if engine.needs_load(now)]
        if not waiting:
            # The usual case: each request passes here twice.
            return
        total = budget.free_memory()
        free = total - self.used_memory()
        releasing = sum(
            (engine.memory for engine in self._all_engines() if engine.is_releasing_memory), Memory()
        )
        for engine in sorted(
            waiting,
            key=lambda engine: engine.leases.pending[0].requested_at if engine.leases.pending else now,
        ):
            if engine.metadata is None:
                engine.is_task_running = True
                self._tasks.spawn(self._read_metadata(engine), f"{engine.model_id}.read_metadata")
                continue
            if self._drafts.is_unread(engine):
                engine.is_task_running = True
                self._tasks.spawn(self._read_draft(engine), f"{engine.model_id}.read_draft")
                continue
            loaded = [
                each.loaded_engine
                for each in self._engines.values()
                if each.plan and not each.leases.is_closed
            ]
            obtainable = free.with_released(releasing, *(each.memory for each in loaded if each.is_evictable))
            plan = self._plan(engine, engine.reduce(total)) or (
                self._plan(engine, total) if engine.plan_failures else None
            )
            if plan is None:
                metadata = self._calibrated(engine, engine.metadata)
                required_bytes = self._planner.min_memory_bytes(engine.files, metadata, engine.options)
                engine.leases.reject_pending(partial(InsufficientMemory, required_bytes, budget.total_bytes))
                continue
            if not free.covers(plan.memory):
                # Another GPU is better than an eviction, a smaller context better than waiting for busy
                # engines, and waiting better than an error.
                plan = (
                    self._plan_elsewhere(engine, plan, free)
                    or self._plan(engine, engine.reduce(obtainable))
                    or plan
                )
            if free.covers(plan.memory):
                plan = self._drafts.add_drafts(engine, self._calibrated(engine, engine.metadata), plan, free)
                free -= plan.memory
                self._start_load(engine, plan)
                continue
            victims = select_victims(plan.memory, free.with_released(releasing), loaded)
            if victims is None:
                size = format_gigabytes(plan.memory.total_bytes)
                engine.waiting_reason = f"it needs {size} of memory that models in use occupy"
                continue
            for model_id in victims:
                releasing += self._engines[model_id].memory
                self._start_stop(self._engines[model_id])
            engine.waiting_reason = "memory is being freed for it"
            # Reserved: later requests must not take this memory.
            free -= plan.memory

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [at for engine in self._engines.values() if (at := engine.unload_at) is not None]
        times += [
            at for engine in self._engines.values() if (at := engine.reload_at) is not None and at > now
        ]
        if times:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, min(times) - now), self._schedule)

    # --- tasks ---------------------------------------------------------------------------------------

    def _start_load(self, engine: ModelEngine, plan: EnginePlan) -> None:
        if engine.plan_failures:
            log.warning(
                "model %s could not be loaded as planned; loading it with %d tokens for each slot, "
                "a KV cache in %s and %d layers on GPUs",
                engine.model_id,
                plan.spec.context_length,
                plan.spec.kv_cache_type,
                sum(plan.spec.gpu_layers),
            )
        engine.begin_load(plan)
        engine.is_task_running = True
        self._tasks.spawn(self._load(engine, plan), f"{engine.model_id}.load")

    def calibration(self, model_id: str, shape: ModelShape) -> MemoryCalibration:
        """Return what engines of this model, with the present build, took beyond their plans."""
        return self._calibrations.get(self._calibration_key(model_id, shape))

    @property
    def llama_build(self) -> int | None:
        """Build of llama.cpp that the next engines have; None if its number is not known."""
        return self._get_build().llama_build

    def _calibration_key(self, model_id: str, shape: ModelShape) -> str:
        build = self._get_build()
        return f"{model_id} {shape.weight_bytes} {build.variant} {build.version}"

    def _calibrate(self, model_id: str, buffers: tuple[EngineBuffer, ...]) -> None:
        """Compare the buffers of an engine with its plan; the larger of both holds for the next plans."""
        engine = self._engines.get(model_id)
        if engine is None or engine.metadata is None or engine.plan is None or engine.plan.estimate is None:
            return
        measured, engine.memory_ratio = compare_with_plan(engine.plan.estimate, buffers)
        self._publish_report(engine)
        # The buffers of an engine with drafts are not those of the model alone.
        if measured != NEUTRAL and not engine.plan.spec.has_drafts:
            key = self._calibration_key(model_id, engine.metadata.shape)
            self._calibrations.put(key, self._calibrations.get(key).after(measured))
            self._tasks.spawn(asyncio.to_thread(self._calibrations.save), "calibrations.save")
            log.info(
                "model %s takes more memory than planned (%.2f times); its next plans count that",
                model_id,
                engine.memory_ratio or 1.0,
            )

    def _start_stop(self, engine: ModelEngine) -> None:
        engine.leases.is_closed = True
        self._tasks.spawn(self._stop(engine), f"{engine.model_id}.stop")

    async def _read_metadata(self, engine: ModelEngine) -> None:
        files = engine.files
        try:
            metadata = await asyncio.to_thread(self._planner.read_metadata, files)
            if engine.files == files:
                engine.metadata = metadata
        except ModelFailed as error:
            engine.rejection_reason = error.text
        except Exception:
            # A defect of llb: without the rejection, the pending requests would repeat it at once.
            engine.leases.reject_pending(
                lambda: EngineFailed(f"Model '{engine.model_id}': its header could not be read")
            )
            raise
        finally:
            engine.is_task_running = False
            self._publish_report(engine)
            self._schedule()

    async def _read_draft(self, engine: ModelEngine) -> None:
        try:
            await self._drafts.read(engine)
        finally:
            engine.is_task_running = False
            self._schedule()

    async def _load(self, engine: ModelEngine, plan: EnginePlan) -> None:
        least_s = MIN_GPU_LOAD_TIMEOUT_S if any(plan.spec.gpu_layers) else MIN_LOAD_TIMEOUT_S
        deadline_s = max(least_s, plan.memory.total_bytes / MIN_LOAD_BYTES_PER_S)
        progress_task = self._tasks.spawn(self._report_progress(engine), f"{engine.model_id}.progress")
        try:
            await engine.process.start(plan.spec, deadline_s=deadline_s)
        except EngineFailed as error:
            log.info("model %s was not loaded: %s", engine.model_id, error.message)
        finally:
            progress_task.cancel()
            engine.is_task_running = False
            if not engine.process.is_alive:
                engine.plan = None
            self._schedule()

    async def _report_progress(self, engine: ModelEngine) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            if engine.process.state is EngineState.STARTING:
                self._publish_report(engine)

    async def _drain_uncancelled(self, engine: ModelEngine, grace_s: float) -> None:
        """Stop an engine after its running requests; cancelling the caller does not cancel the stop."""
        engine.leases.is_closed = True
        drain_task = self._tasks.spawn(self._drain_and_stop(engine, grace_s), f"{engine.model_id}.drain")
        await asyncio.wait([drain_task])

    async def _drain_and_stop(self, engine: ModelEngine, grace_s: float) -> None:
        engine.leases.is_closed = True
        try:
            async with asyncio.timeout(grace_s):
                while engine.process.active_requests:
                    engine.state_changed.clear()
                    await engine.state_changed.wait()
        except TimeoutError:
            log.info(
                "model %s: %d running requests are aborted", engine.model_id, engine.process.active_requests
            )
        await self._stop(engine)

    async def _stop(self, engine: ModelEngine) -> None:
        """Stop the process and wait for its end; unless the model was removed, it may be loaded again."""
        engine.leases.is_closed = True
        try:
            await engine.process.stop()
        except EngineFailed as error:
            log.error("model %s: %s", engine.model_id, error.message)
        if engine in self._removed and not engine.process.is_alive:
            self._removed.remove(engine)
        engine.leases.is_closed = engine in self._removed
        self._schedule()

    def _on_suspected_failure(self, engine: ModelEngine) -> None:
        if not self._closed and engine.leases.is_open:
            self._watchdog.check_health(engine)

    def _restart(self, engine: ModelEngine) -> None:
        """Stop an engine after its other requests; the next request loads it again."""
        self._tasks.spawn(self._drain_and_stop(engine, UNLOAD_GRACE_S), f"{engine.model_id}.restart")

    # --- state ---------------------------------------------------------------------------------------

    def _on_engine_changed(self, engine: ModelEngine) -> None:
        self._publish_report(engine)
        if engine.process.state is not EngineState.BUSY:
            # An engine that has become busy makes nothing else possible. For a single client, each request
            # comes here twice.
            self._schedule()

    def _publish_report(self, engine: ModelEngine) -> None:
        self.engine_changed.publish(engine.report(self._slots))

    def _all_engines(self) -> Iterator[ModelEngine]:
        yield from self._engines.values()
        yield from self._removed

    def _plan(self, engine: ModelEngine, free: FreeMemory) -> EnginePlan | None:
        """Return the best plan within `free`; None if the model does not fit, or its header was not read."""
        if engine.metadata is None:
            return None
        metadata = self._calibrated(engine, engine.metadata)
        return self._planner.plan_engine(engine.model_id, engine.files, metadata, free, engine.options)

    def _calibrated(self, engine: ModelEngine, metadata: ModelMetadata) -> ModelMetadata:
        return replace(
            metadata,
            calibration=self.calibration(engine.model_id, metadata.shape),
            llama_build=self.llama_build,
        )

    def _plan_elsewhere(self, engine: ModelEngine, best: EnginePlan, free: FreeMemory) -> EnginePlan | None:
        """Return a plan as good as `best` within `free`, which is on other GPUs; None if there is none."""
        plan = self._plan(engine, engine.reduce(free))
        return plan if plan is not None and plan.spec.is_equivalent(best.spec) else None

    def used_memory(self) -> Memory:
        """Return what the plans of all engines reserve, those that are ending included."""
        return sum((engine.memory for engine in self._all_engines()), Memory())
