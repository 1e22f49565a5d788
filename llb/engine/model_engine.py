"""Engine of one model: its process, its leases, and its back-off after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from llb.base.backoff import Backoff
from llb.engine.diagnosis import FailureKind
from llb.engine.lease import EngineLeases
from llb.engine.planning.engine_plan import EngineFiles, EnginePlan, ModelMetadata
from llb.engine.process import EngineProcess
from llb.engine.request_watch import RequestWatch
from llb.errors import EngineFailed, ModelFailed, ModelLoading
from llb.policy.eviction import LoadedEngine
from llb.policy.memory import FreeMemory, Memory
from llb.policy.memory.free_memory import MAX_FAILED_GPU_LOADS
from llb.wire import DraftReport, EngineReport, EngineState, LoadOptions, Speculation

BACKOFF_INITIAL_S = 1.0
BACKOFF_MAX_S = 60.0
# An engine that was ready for at least this long before it failed starts again at the initial back-off.
BACKOFF_RESET_AFTER_S = 60.0
# After this many crashes while loading, the file counts as the cause.
MAX_LOAD_CRASHES = 3
# A load is complete only when the worker reports it.
MAX_LOAD_PROGRESS = 0.99


class ModelEngine:
    """Engine of one model, changed by its pool and its process only, without an await in between."""

    def __init__(
        self,
        model_id: str,
        files: EngineFiles,
        *,
        keep_alive_s: float,
        clock: Callable[[], float],
        make_process: Callable[[Callable[[EngineState, EngineState], None]], EngineProcess],
        on_changed: Callable[[ModelEngine], None],
        on_suspected_failure: Callable[[ModelEngine], None],
    ) -> None:
        self.model_id = model_id
        self.files = files
        self.metadata: ModelMetadata | None = None
        # Its memory counts from the decision to load until the process has ended.
        self.plan: EnginePlan | None = None
        # Whether a task reads the header or loads the model.
        self.is_task_running = False
        self.pinned = False
        self.options: LoadOptions | None = None
        # Model that the catalogue names to draft for this one.
        self.draft_id: str | None = None
        # How the model drafts for itself, by the catalogue.
        self.speculation: Speculation | None = None
        # Whether the vocabulary of that model is the same; None before it was read.
        self.is_draft_compatible: bool | None = None
        # Whether an engine with drafts has failed; later engines then have none.
        self.has_draft_failed = False
        # Whether the present plan is younger than the draft, so that its failure is that of the draft.
        self._is_draft_planned = False
        # Result for the draft model in the present plan, even if another draft is set meanwhile.
        self.draft_report: DraftReport | None = None
        # Why these files can never be loaded.
        self.rejection_reason: str | None = None
        # Why the load has not started.
        self.waiting_reason: str | None = None
        self.retry_at = 0.0
        # Set at each transition; a drain waits for it.
        self.state_changed = asyncio.Event()
        self._host_keep_alive_s = keep_alive_s
        self._clock = clock
        self._on_changed = on_changed
        self._ready_at = 0.0
        self._backoff = Backoff(BACKOFF_INITIAL_S, BACKOFF_MAX_S, clock=clock)
        self._load_crashes = 0
        # Loads that ran out of memory, or crashed on a GPU; each makes the next plan smaller. Kept after a
        # successful load.
        self.plan_failures = 0
        # Planned memory of the last of them.
        self._failed_memory = Memory()
        self._load_progress = 0.0
        self._used_bytes: int | None = None
        # Memory that the present worker reports, relative to its plan.
        self.memory_ratio: float | None = None
        self.process = make_process(self._on_transition)
        self.watch = RequestWatch(self.process, clock)
        self.leases = EngineLeases(
            self.process,
            self.watch,
            keep_alive_s=keep_alive_s,
            clock=clock,
            on_suspected_failure=partial(on_suspected_failure, self),
        )

    # --- input of the pool's decisions ---------------------------------------------------------------

    @property
    def memory(self) -> Memory:
        """Memory that the plan reserves, none without a plan."""
        return self.plan.memory if self.plan is not None else Memory()

    @property
    def is_releasing_memory(self) -> bool:
        """Whether the engine stops without waiting for a request, so that its memory is free soon."""
        return self.leases.is_closed and self.process.active_requests == 0

    @property
    def loaded_engine(self) -> LoadedEngine:
        """Snapshot for the eviction policy."""
        return LoadedEngine(
            self.model_id,
            self.memory,
            is_busy=self.process.state is not EngineState.READY,
            is_pinned=self.pinned,
            last_used=self.leases.last_used,
        )

    @property
    def unload_at(self) -> float | None:
        """Time at which the keep-alive ends; None for an engine that is not idle, is pinned, or never
        unloads.
        """
        return None if self.pinned else self.leases.unload_at

    @property
    def reload_at(self) -> float | None:
        """Time of the next load of a pinned engine that failed; None for all others."""
        has_failed = self.process.state is EngineState.FAILED and self.rejection_reason is None
        return self.retry_at if has_failed and self.pinned else None

    def needs_load(self, now: float) -> bool:
        """Return whether a request or a pin requires a load, and it may start now."""
        if (
            self.leases.is_closed
            or self.is_task_running
            or self.process.is_alive
            or self.rejection_reason is not None
            or now < self.retry_at
        ):
            return False
        return bool(self.leases.pending) or self.reload_at is not None

    def set_options(self, options: LoadOptions | None) -> None:
        """Set how the model is loaded next; the keep-alive applies at once."""
        self.options = options
        keep_alive_s = None if options is None else options.keep_alive
        self.leases.set_keep_alive(self._host_keep_alive_s if keep_alive_s is None else keep_alive_s)

    def set_draft(self, draft_id: str | None, speculation: Speculation | None = None) -> None:
        """Set which model drafts for this one, or how it drafts for itself, from the next load on."""
        if (draft_id, speculation) != (self.draft_id, self.speculation):
            self.draft_id, self.speculation = draft_id, speculation
            self.forget_draft()

    def forget_draft(self) -> None:
        """Forget the results for the draft model: another one is set, or its files have changed."""
        self.is_draft_compatible, self.has_draft_failed = None, False
        self._is_draft_planned = False

    def set_host_keep_alive(self, keep_alive_s: float) -> None:
        """Set the keep-alive of models without an own one; applies at once."""
        self._host_keep_alive_s = keep_alive_s
        self.set_options(self.options)

    # --- leases --------------------------------------------------------------------------------------

    def resolve_lease_requests(self, now: float) -> None:
        """Grant the pending leases if the engine is ready, or reject them if it cannot be loaded now."""
        if self.rejection_reason is not None:
            self.leases.reject_pending(
                lambda: ModelFailed.from_unusable_files(self.model_id, self.rejection_reason or "")
            )
        elif self.process.state is EngineState.FAILED and now < self.retry_at:
            self.leases.reject_pending(lambda: self._backoff_error(now))
        elif self.leases.is_open:
            self.leases.grant_pending()

    def _backoff_error(self, now: float) -> EngineFailed:
        failure = self.process.failure
        seconds = max(1, round(self.retry_at - now))
        reason = failure.message if failure is not None else "its engine failed"
        error = EngineFailed(f"Model '{self.model_id}': {reason}; next attempt in {seconds} s")
        error.retry_after_s = seconds
        return error

    def loading_error(self) -> ModelLoading:
        """Return the error of a request whose deadline passed before the engine was ready."""
        loading = {"state": str(self.process.state), "progress": self.load_progress()}
        reason = (
            f"is not loaded yet: {self.waiting_reason}"
            if self.waiting_reason is not None
            else "is still being loaded"
        )
        return ModelLoading(f"Model '{self.model_id}' {reason}", loading=loading)

    # --- transitions and failures --------------------------------------------------------------------

    def begin_load(self, plan: EnginePlan) -> None:
        """Reserve the memory of `plan` for a load that starts now."""
        self.plan, self.waiting_reason, self._load_progress = plan, None, 0.0
        self._is_draft_planned = plan.spec.has_drafts
        self.memory_ratio = None

    def reduce(self, free: FreeMemory) -> FreeMemory:
        """Return the part of `free` that the next load may use, after those that failed."""
        return free.reduced(self.plan_failures, self._failed_memory)

    def reset_failures(self) -> None:
        """Forget all failures, for new files or a manual retry."""
        self.rejection_reason, self._load_crashes, self.retry_at = None, 0, 0.0
        self.plan_failures = 0
        self._failed_memory = Memory()
        self.watch.reset_failures()
        self.forget_draft()
        self._backoff.reset()

    def _on_transition(self, old_state: EngineState, new_state: EngineState) -> None:
        now = self._clock()
        if old_state is EngineState.STARTING and new_state is EngineState.READY:
            self._ready_at = now
            self._load_crashes = 0
            self.leases.on_loaded(now)
            self.watch.on_worker_ready()
        if new_state is EngineState.FAILED:
            self._record_failure(now, while_loading=old_state is EngineState.STARTING)
        if new_state in (EngineState.STOPPED, EngineState.FAILED):
            self.plan = None
            self.watch.on_worker_ended()
        self.state_changed.set()
        self._on_changed(self)

    def _record_failure(self, now: float, *, while_loading: bool) -> None:
        failure = self.process.failure
        if failure is None:
            return
        if not while_loading and now - self._ready_at >= BACKOFF_RESET_AFTER_S:
            self._backoff.reset()
        if self.plan is not None and self.plan.spec.has_drafts:
            # Drafts must not cost a failure: whatever the cause, the next engine has none.
            self.has_draft_failed = self._is_draft_planned
            if while_loading:
                self.retry_at = now
                return
        if not while_loading and self.watch.blame_requests(failure, now):
            # A request, not the load, is to blame, so other requests need not wait.
            self.retry_at = now
            return
        self.retry_at = now + self._backoff.next_delay_s()
        # Timeouts count, too: a chat template that never ends would occupy a core in each further attempt.
        has_crashed = failure.kind in (FailureKind.CRASHED, FailureKind.TIMEOUT)
        # A GPU or its driver may not support the plan, such as large tensors. A smaller plan and then the CPU
        # are tried before the file counts as the cause.
        uses_gpu = self.plan is not None and any(self.plan.spec.gpu_layers)
        blames_plan = has_crashed and uses_gpu and self.plan_failures < MAX_FAILED_GPU_LOADS
        if while_loading and (failure.kind is FailureKind.MEMORY or blames_plan):
            self.plan_failures += 1
            self._failed_memory = self.memory
        elif while_loading and has_crashed:
            self._load_crashes += 1
        if failure.kind is FailureKind.REJECTED:
            self.rejection_reason = failure.message
        elif self._load_crashes >= MAX_LOAD_CRASHES:
            self.rejection_reason = (
                f"refused by the engine: {MAX_LOAD_CRASHES} times while loading, {failure.message}"
            )

    # --- reports -------------------------------------------------------------------------------------

    def report(self, slots: int) -> EngineReport:
        """Return the report of this engine; `slots` is what a load gives it without options of its own."""
        slots = (self.options.slots if self.options is not None else None) or slots
        process = self.process
        failure = process.failure if process.state is EngineState.FAILED else None
        if process.ready is not None and self._used_bytes is None:
            # The first report of a loaded model has it, too.
            self.measure_memory()
        spec = process.spec
        return EngineReport(
            model_id=self.model_id,
            state=process.state,
            slots=process.ready.slots if process.ready is not None else slots,
            busy=process.active_requests,
            context_length=process.ready.context_length if process.ready is not None else None,
            kv_cache_type=spec.kv_cache_type if spec is not None and process.ready is not None else None,
            memory_bytes=self.memory.total_bytes,
            used_bytes=self._used_bytes if process.ready is not None else None,
            memory_ratio=self.memory_ratio if process.ready is not None else None,
            progress=self.load_progress(),
            error=self.rejection_reason or (failure.message if failure is not None else None),
            pinned=self.pinned,
            draft=self.draft_report if process.ready is not None else None,
            template=process.ready.template if process.ready is not None else None,
        )

    def measure_memory(self) -> None:
        """Measure what the process occupies, for the next reports. Memory of a GPU cannot be measured."""
        spec = self.process.spec
        uses_gpu = spec is not None and any(spec.gpu_layers)
        self._used_bytes = None if uses_gpu else self.process.rss_bytes() or None

    def load_progress(self) -> float | None:
        """Estimate the progress of a load (0–1) from the worker's resident memory; None when not loading.

        llama.cpp reports no progress while it loads.
        """
        if self.process.state is not EngineState.STARTING:
            return None
        share = self.process.rss_bytes() / max(1, self.memory.total_bytes)
        self._load_progress = max(self._load_progress, min(MAX_LOAD_PROGRESS, share))
        return self._load_progress
