"""One model that this node may load: its process, who waits for it, how it failed, and the leases of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from llb.decide.eviction import Loaded, Memory
from llb.engine.failure import FailureKind
from llb.engine.plan import EngineFiles, EnginePlan, ModelFacts
from llb.engine.process import EngineProcess
from llb.errors import EngineFailed, LlbError, ModelFailed, ModelLoading
from llb.wire import EngineReport, EngineState

BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 60.0
RAN_WELL_S = 60.0  # an engine that lived so long before it failed begins its back-off anew
LOAD_CRASHES = 3  # crashes while loading after which the file is held for the cause
ALMOST = 0.99  # a load is complete only when the engine says so


@dataclass(eq=False, slots=True)
class Waiter:
    """A caller of `lease` who waits for the engine to become ready."""

    granted: asyncio.Future[Lease]
    since: float
    keep_alive_s: float | None

    def leave(self) -> None:
        """Give back what was granted at the very moment in which the caller went away."""
        granted = self.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            granted.result().release()


class Lease:
    """One request's hold on a loaded engine. Release it once, in `finally` or as a context manager; more is harmless."""

    def __init__(self, served: Served) -> None:
        ready, spec = served.process.ready, served.process.spec
        if ready is None or spec is None:
            raise RuntimeError("a lease of an engine that is not ready")
        self.host = ready.host
        self.port = ready.port
        self.slots = ready.slots
        self.context_length = ready.context_length
        self.api_key = spec.api_key
        self._served = served
        self._generation = served.process.acquire()
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._served.released(self._generation)

    def report_broken(self) -> None:
        """Have the pool look whether the engine still answers, and end it if not."""
        self._served.suspected(self._served)

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Served:
    """What the pool knows of one model. It changes only between awaits, by the pool and its process."""

    def __init__(
        self,
        model_id: str,
        files: EngineFiles,
        *,
        keep_alive_s: float,
        clock: Callable[[], float],
        make_process: Callable[[Callable[[EngineState, EngineState], None]], EngineProcess],
        changed: Callable[[Served], None],
        suspected: Callable[[Served], None],
    ) -> None:
        self.model_id = model_id
        self.files = files
        self.facts: ModelFacts | None = None
        self.plan: EnginePlan | None = (
            None  # its memory counts from the decision to load until the child is gone
        )
        self.waiters: list[Waiter] = []
        self.at_work = False  # a task reads its header or loads it
        self.closing = False  # no new leases: it is about to stop
        self.pinned = False
        self.refused: str | None = None  # why the engine will never load these files
        self.waits_for: str | None = None
        self.retry_at = 0.0
        self.quiet = asyncio.Event()  # set at every move, for who waits until no request runs
        self.suspected = suspected
        self._default_keep_alive_s = self._keep_alive_s = keep_alive_s
        self._clock = clock
        self._changed = changed
        self._last_used = self._ready_at = 0.0
        self._failures = 0
        self._load_crashes = 0
        self._progress = 0.0
        self.process = make_process(self._moved)

    # --- what the pool decides on --------------------------------------------------------------------

    @property
    def leasable(self) -> bool:
        return not self.closing and self.process.state in (EngineState.READY, EngineState.BUSY)

    @property
    def memory(self) -> Memory:
        return self.plan.memory if self.plan is not None else Memory()

    @property
    def memory_returns(self) -> bool:
        """Whether its memory comes back without anybody's doing."""
        return self.closing and self.process.busy == 0

    @property
    def loaded(self) -> Loaded:
        return Loaded(
            self.model_id,
            self.memory,
            busy=self.process.state is not EngineState.READY,
            pinned=self.pinned,
            last_used=self._last_used,
        )

    @property
    def idle_at(self) -> float | None:
        """When it will have been idle for long enough; None if it may stay, or is not idle."""
        idle = self.process.state is EngineState.READY and not self.closing
        if not idle or self.pinned or self._keep_alive_s < 0:
            return None
        return self._last_used + self._keep_alive_s

    @property
    def comes_back_at(self) -> float | None:
        """When it is to be loaded again though nobody asks: pinned and crashed."""
        failed = self.process.state is EngineState.FAILED and self.refused is None
        return self.retry_at if failed and self.pinned else None

    def wants_load(self, now: float) -> bool:
        if (
            self.closing
            or self.at_work
            or self.process.alive
            or self.refused is not None
            or now < self.retry_at
        ):
            return False
        return bool(self.waiters) or self.comes_back_at is not None

    # --- who waits -----------------------------------------------------------------------------------

    def grant(self, keep_alive_s: float | None) -> Lease:
        if keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        self._last_used = self._clock()
        return Lease(self)

    def released(self, generation: int) -> None:
        if generation == self.process.generation:
            self._last_used = self._clock()
        self.process.release(generation)

    def answer_waiters(self, now: float) -> None:
        """Let those in who can be let in, and send away those for whom waiting is pointless."""
        if self.refused is not None:
            self.send_away(lambda: ModelFailed.unusable(self.model_id, self.refused or ""))
        elif self.process.state is EngineState.FAILED and now < self.retry_at:
            self.send_away(lambda: self._resting(now))
        elif self.leasable:
            for waiter in self._take_waiters():
                lease = self.grant(waiter.keep_alive_s)
                # Granting announces, and whoever hears it may have made the waiter leave.
                if waiter.granted.done():
                    lease.release()
                else:
                    waiter.granted.set_result(lease)

    def send_away(self, why: Callable[[], LlbError]) -> None:
        """Every waiter gets an error of its own: a traceback belongs to one task."""
        for waiter in self._take_waiters():
            waiter.granted.set_exception(why())

    def _take_waiters(self) -> list[Waiter]:
        waiters, self.waiters = self.waiters, []
        return [waiter for waiter in waiters if not waiter.granted.done()]

    def _resting(self, now: float) -> EngineFailed:
        failure = self.process.failure
        seconds = max(1, round(self.retry_at - now))
        reason = failure.sentence if failure is not None else "its engine failed"
        error = EngineFailed(f"Model '{self.model_id}': {reason}; it is tried again in {seconds} s")
        error.retry_after_s = seconds
        return error

    def still_loading(self) -> ModelLoading:
        """What a caller gets who waited as long as it wanted to."""
        loading = {"state": str(self.process.state), "progress": self.progress()}
        reason = (
            f"is not loaded yet: {self.waits_for}" if self.waits_for is not None else "is still being loaded"
        )
        return ModelLoading(f"Model '{self.model_id}' {reason}", loading=loading)

    # --- what happened to it -------------------------------------------------------------------------

    def begin(self, plan: EnginePlan) -> None:
        self.plan, self.waits_for, self._progress = plan, None, 0.0

    def forgive(self) -> None:
        """Forget how it failed: its files are new, or somebody wants to try again."""
        self.refused, self._failures, self._load_crashes, self.retry_at = None, 0, 0, 0.0

    def _moved(self, old: EngineState, new: EngineState) -> None:
        now = self._clock()
        if old is EngineState.STARTING and new is EngineState.READY:
            self._ready_at = self._last_used = now
            self._load_crashes = 0
            self._keep_alive_s = self._default_keep_alive_s
        if new is EngineState.FAILED:
            self._count_failure(now, loading=old is EngineState.STARTING)
        if new in (EngineState.STOPPED, EngineState.FAILED):
            self.plan = None
        self.quiet.set()
        self._changed(self)

    def _count_failure(self, now: float, *, loading: bool) -> None:
        failure = self.process.failure
        if failure is None:
            return
        if not loading and now - self._ready_at >= RAN_WELL_S:
            self._failures = 0
        self.retry_at = now + min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # A chat template that never ends is no crash, and would keep a core busy for as long as it is tried again.
        if loading and failure.kind in (FailureKind.CRASHED, FailureKind.TIMEOUT):
            self._load_crashes += 1
        if failure.kind is FailureKind.REFUSED:
            self.refused = failure.sentence
        elif self._load_crashes >= LOAD_CRASHES:
            self.refused = f"refused by the engine: {LOAD_CRASHES} times while loading, {failure.sentence}"

    # --- what is told of it --------------------------------------------------------------------------

    def report(self, slots: int) -> EngineReport:
        """The engine as others see it; `slots` is what it would get if it were loaded."""
        process = self.process
        failure = process.failure if process.state is EngineState.FAILED else None
        return EngineReport(
            model_id=self.model_id,
            state=process.state,
            slots=process.ready.slots if process.ready is not None else slots,
            busy=process.busy,
            context_length=process.ready.context_length if process.ready is not None else None,
            memory_bytes=self.memory.total_bytes,
            progress=self.progress(),
            error=self.refused or (failure.sentence if failure is not None else None),
            pinned=self.pinned,
        )

    def progress(self) -> float | None:
        """How far a load is, from what the child has in memory of what it was planned to need: llama.cpp tells no more."""
        if self.process.state is not EngineState.STARTING:
            return None
        share = self.process.rss_bytes() / max(1, self.memory.total_bytes)
        self._progress = max(self._progress, min(ALMOST, share))
        return self._progress
