"""One model that this node may load: its process, who waits for it, how it failed, and the leases of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from llb.engine.diagnosis import FailureKind
from llb.engine.plan import EngineFiles, EnginePlan, ModelMetadata
from llb.engine.process import EngineProcess
from llb.errors import EngineFailed, LlbError, ModelFailed, ModelLoading
from llb.policy.eviction import LoadedEngine
from llb.policy.memory import Memory
from llb.wire import EngineReport, EngineState

BACKOFF_INITIAL_S = 1.0
BACKOFF_MAX_S = 60.0
BACKOFF_RESET_AFTER_S = 60.0  # an engine that lived so long before it failed begins its back-off anew
MAX_LOAD_CRASHES = 3  # crashes while loading after which the file is held for the cause
MAX_LOAD_PROGRESS = 0.99  # a load is complete only when the engine says so


@dataclass(eq=False, slots=True)
class LeaseRequest:
    """A caller of `lease` who waits for the engine to become ready."""

    lease: asyncio.Future[Lease]
    requested_at: float
    keep_alive_s: float | None

    def abandon(self) -> None:
        """Give back what was granted at the very moment in which the caller went away."""
        granted = self.lease
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()


class Lease:
    """One request's hold on a loaded engine. Release it once, in `finally` or as a context manager; more is harmless."""

    def __init__(self, engine: ModelEngine) -> None:
        ready, spec = engine.process.ready, engine.process.spec
        if ready is None or spec is None:
            raise RuntimeError("a lease of an engine that is not ready")
        self.host = ready.host
        self.port = ready.port
        self.slots = ready.slots
        self.context_length = ready.context_length
        self.api_key = spec.api_key
        self._engine = engine
        self._generation = engine.process.begin_request()
        self._is_held = True

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._engine.end_lease(self._generation)

    def report_suspected_failure(self) -> None:
        """Have the pool look whether the engine still answers, and end it if not."""
        self._engine.on_suspected_failure(self._engine)

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ModelEngine:
    """What the pool knows of one model. It changes only between awaits, by the pool and its process."""

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
        self.plan: EnginePlan | None = (
            None  # its memory counts from the decision to load until the child is gone
        )
        self.lease_requests: list[LeaseRequest] = []
        self.is_task_running = False  # a task reads its header or loads it
        self.is_stopping = False  # no new leases: it is about to stop
        self.pinned = False
        self.rejection_reason: str | None = None  # why the engine will never load these files
        self.waiting_reason: str | None = None
        self.retry_at = 0.0
        self.state_changed = asyncio.Event()  # set at every move, for who waits until no request runs
        self.on_suspected_failure = on_suspected_failure
        self._default_keep_alive_s = self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._on_changed = on_changed
        self._last_used = self._ready_at = 0.0
        self._failures = 0
        self._load_crashes = 0
        self._load_progress = 0.0
        self.process = make_process(self._on_transition)

    # --- what the pool decides on --------------------------------------------------------------------

    @property
    def is_leasable(self) -> bool:
        return not self.is_stopping and self.process.state in (EngineState.READY, EngineState.BUSY)

    @property
    def memory(self) -> Memory:
        return self.plan.memory if self.plan is not None else Memory()

    @property
    def is_releasing_memory(self) -> bool:
        """Whether its memory comes back without anybody's doing."""
        return self.is_stopping and self.process.active_requests == 0

    @property
    def loaded_engine(self) -> LoadedEngine:
        return LoadedEngine(
            self.model_id,
            self.memory,
            is_busy=self.process.state is not EngineState.READY,
            is_pinned=self.pinned,
            last_used=self._last_used,
        )

    @property
    def unload_at(self) -> float | None:
        """When it will have been idle for long enough; None if it may stay, or is not idle."""
        idle = self.process.state is EngineState.READY and not self.is_stopping
        if not idle or self.pinned or self._keep_alive_s < 0:
            return None
        return self._last_used + self._keep_alive_s

    @property
    def reload_at(self) -> float | None:
        """When it is to be loaded again though nobody asks: pinned and crashed."""
        failed = self.process.state is EngineState.FAILED and self.rejection_reason is None
        return self.retry_at if failed and self.pinned else None

    def needs_load(self, now: float) -> bool:
        if (
            self.is_stopping
            or self.is_task_running
            or self.process.is_alive
            or self.rejection_reason is not None
            or now < self.retry_at
        ):
            return False
        return bool(self.lease_requests) or self.reload_at is not None

    # --- who waits -----------------------------------------------------------------------------------

    def grant_lease(self, keep_alive_s: float | None) -> Lease:
        if keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        self._last_used = self._clock()
        return Lease(self)

    def end_lease(self, generation: int) -> None:
        if generation == self.process.generation:
            self._last_used = self._clock()
        self.process.end_request(generation)

    def resolve_lease_requests(self, now: float) -> None:
        """Let those in who can be let in, and send away those for whom waiting is pointless."""
        if self.rejection_reason is not None:
            self.reject_lease_requests(
                lambda: ModelFailed.from_unusable_files(self.model_id, self.rejection_reason or "")
            )
        elif self.process.state is EngineState.FAILED and now < self.retry_at:
            self.reject_lease_requests(lambda: self._backoff_error(now))
        elif self.is_leasable:
            for waiter in self._pop_lease_requests():
                lease = self.grant_lease(waiter.keep_alive_s)
                # Granting announces, and whoever hears it may have made the waiter leave.
                if waiter.lease.done():
                    lease.release()
                else:
                    waiter.lease.set_result(lease)

    def reject_lease_requests(self, make_error: Callable[[], LlbError]) -> None:
        """Every waiter gets an error of its own: a traceback belongs to one task."""
        for waiter in self._pop_lease_requests():
            waiter.lease.set_exception(make_error())

    def _pop_lease_requests(self) -> list[LeaseRequest]:
        waiters, self.lease_requests = self.lease_requests, []
        return [waiter for waiter in waiters if not waiter.lease.done()]

    def _backoff_error(self, now: float) -> EngineFailed:
        failure = self.process.failure
        seconds = max(1, round(self.retry_at - now))
        reason = failure.message if failure is not None else "its engine failed"
        error = EngineFailed(f"Model '{self.model_id}': {reason}; it is tried again in {seconds} s")
        error.retry_after_s = seconds
        return error

    def loading_error(self) -> ModelLoading:
        """What a caller gets who waited as long as it wanted to."""
        loading = {"state": str(self.process.state), "progress": self.load_progress()}
        reason = (
            f"is not loaded yet: {self.waiting_reason}"
            if self.waiting_reason is not None
            else "is still being loaded"
        )
        return ModelLoading(f"Model '{self.model_id}' {reason}", loading=loading)

    # --- what happened to it -------------------------------------------------------------------------

    def begin_load(self, plan: EnginePlan) -> None:
        self.plan, self.waiting_reason, self._load_progress = plan, None, 0.0

    def reset_failures(self) -> None:
        """Forget how it failed: its files are new, or somebody wants to try again."""
        self.rejection_reason, self._failures, self._load_crashes, self.retry_at = None, 0, 0, 0.0

    def _on_transition(self, old_state: EngineState, new_state: EngineState) -> None:
        now = self._clock()
        if old_state is EngineState.STARTING and new_state is EngineState.READY:
            self._ready_at = self._last_used = now
            self._load_crashes = 0
            self._keep_alive_s = self._default_keep_alive_s
        if new_state is EngineState.FAILED:
            self._record_failure(now, while_loading=old_state is EngineState.STARTING)
        if new_state in (EngineState.STOPPED, EngineState.FAILED):
            self.plan = None
        self.state_changed.set()
        self._on_changed(self)

    def _record_failure(self, now: float, *, while_loading: bool) -> None:
        failure = self.process.failure
        if failure is None:
            return
        if not while_loading and now - self._ready_at >= BACKOFF_RESET_AFTER_S:
            self._failures = 0
        self.retry_at = now + min(BACKOFF_MAX_S, BACKOFF_INITIAL_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # A chat template that never ends is no crash, and would keep a core busy for as long as it is tried again.
        if while_loading and failure.kind in (FailureKind.CRASHED, FailureKind.TIMEOUT):
            self._load_crashes += 1
        if failure.kind is FailureKind.REJECTED:
            self.rejection_reason = failure.message
        elif self._load_crashes >= MAX_LOAD_CRASHES:
            self.rejection_reason = (
                f"refused by the engine: {MAX_LOAD_CRASHES} times while loading, {failure.message}"
            )

    # --- what is told of it --------------------------------------------------------------------------

    def report(self, slots: int) -> EngineReport:
        """The engine as others see it; `slots` is what it would get if it were loaded."""
        process = self.process
        failure = process.failure if process.state is EngineState.FAILED else None
        return EngineReport(
            model_id=self.model_id,
            state=process.state,
            slots=process.ready.slots if process.ready is not None else slots,
            busy=process.active_requests,
            context_length=process.ready.context_length if process.ready is not None else None,
            memory_bytes=self.memory.total_bytes,
            progress=self.load_progress(),
            error=self.rejection_reason or (failure.message if failure is not None else None),
            pinned=self.pinned,
        )

    def load_progress(self) -> float | None:
        """How far a load is, from what the child has in memory of what it was planned to need: llama.cpp tells no more."""
        if self.process.state is not EngineState.STARTING:
            return None
        share = self.process.rss_bytes() / max(1, self.memory.total_bytes)
        self._load_progress = max(self._load_progress, min(MAX_LOAD_PROGRESS, share))
        return self._load_progress
