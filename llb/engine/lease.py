"""Leases: rights of requests to use a loaded engine, which is not unloaded while one is held.

`EngineLeases` grants those of one engine, and knows when the last of them was used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from msgspec import Struct

from llb.engine.process import EngineProcess
from llb.engine.request_watch import RequestWatch, WatchedRequest
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.errors import LlbError
from llb.policy.keep_alive import KeepAlive
from llb.wire import EngineState

LOADED_STATES = (EngineState.READY, EngineState.BUSY)
# Bytes of a request per token of its prompt, about.
BYTES_PER_TOKEN = 4


class LeaseRequest(Struct, eq=False):
    """Pending `acquire_lease`; `requested_at` is in seconds of the pool's clock."""

    lease: asyncio.Future[Lease]
    requested_at: float
    keep_alive: KeepAlive | None

    def abandon(self) -> None:
        """Release a lease that was granted while the caller timed out or was cancelled."""
        future = self.lease
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release()


class Lease(WatchedRequest):
    """Right of one request to use a loaded engine, until `release()` or the end of the `async with` block."""

    __slots__ = (
        "_is_held",
        "_on_released",
        "_on_suspected_failure",
        "_process",
        "_watch",
        "api_key",
        "generation",
        "worker",
    )

    def __init__(
        self,
        process: EngineProcess,
        watch: RequestWatch,
        *,
        on_released: Callable[[Lease], None],
        on_suspected_failure: Callable[[], None],
    ) -> None:
        ready, spec = process.ready, process.spec
        if ready is None or spec is None:
            raise RuntimeError("a lease of an engine that is not ready")
        super().__init__()
        # Address and limits of the engine, and the credential for it.
        self.worker = ready
        self.api_key = spec.api_key
        self.generation = process.begin_request()
        self._process = process
        self._watch = watch
        self._on_released = on_released
        self._on_suspected_failure = on_suspected_failure
        self._is_held = True
        watch.add(self)

    def begin_request(self, body_bytes: int, speed: EngineSpeed) -> None:
        """Start to watch the engine's progress on a request that is sent now."""
        self._watch.begin(self, body_bytes // BYTES_PER_TOKEN, speed)

    async def wait_for_blame(self, timeout_s: float) -> Blame | None:
        """Return the part of this request in the failure of its engine; None if the engine has not failed.

        The kernel closes the connections of a process before its parent learns of its end, so this waits.
        """
        await self._process.wait_for_end(self.generation, timeout_s)
        return self.blame

    def release(self) -> None:
        """Give the lease back; idempotent."""
        if self._is_held:
            self._is_held = False
            self._on_released(self)

    def report_suspected_failure(self) -> None:
        """Make the pool check whether the engine still answers, and kill it otherwise."""
        self._on_suspected_failure()

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class EngineLeases:
    """Leases of the engine of one model, the requests that wait for one, and the keep-alive after them.

    `on_suspected_failure` is called when a request has reason to believe that the engine does not answer.
    """

    def __init__(
        self,
        process: EngineProcess,
        watch: RequestWatch,
        *,
        keep_alive_s: float,
        clock: Callable[[], float],
        on_suspected_failure: Callable[[], None],
    ) -> None:
        # No new leases are granted: the engine stops after its running requests.
        self.is_closed = False
        # Requests that wait for the engine to be loaded.
        self.pending: list[LeaseRequest] = []
        # Time of the clock.
        self.last_used = 0.0
        self._process = process
        self._watch = watch
        self._clock = clock
        self._default_keep_alive_s = self._keep_alive_s = keep_alive_s
        # One object each for all leases.
        self._on_released, self._on_suspected_failure = self._end_lease, on_suspected_failure

    @property
    def is_open(self) -> bool:
        """Whether a lease can be granted now."""
        return not self.is_closed and self._process.state in LOADED_STATES

    @property
    def unload_at(self) -> float | None:
        """Time at which the keep-alive ends; None for an engine that is not idle, or never unloads."""
        is_idle = self._process.state is EngineState.READY and not self.is_closed
        return self.last_used + self._keep_alive_s if is_idle and self._keep_alive_s >= 0 else None

    def grant(self, keep_alive: KeepAlive | None) -> Lease | None:
        """Return a lease, for which `keep_alive` is applied; None while the engine is not loaded."""
        # As `is_open`: each request passes here.
        if self.is_closed or self._process.state not in LOADED_STATES:
            return None
        if keep_alive is not None:
            self._keep_alive_s = keep_alive.apply(self._keep_alive_s, self._default_keep_alive_s)
        self.last_used = self._clock()
        return Lease(
            self._process,
            self._watch,
            on_released=self._on_released,
            on_suspected_failure=self._on_suspected_failure,
        )

    def _end_lease(self, lease: Lease) -> None:
        now = self._clock()
        if lease.generation == self._process.generation:
            self.last_used = now
        self._watch.remove(lease, now)
        self._process.end_request(lease.generation)

    def grant_pending(self) -> None:
        """Grant a lease to each request that waits for one, once the engine is loaded."""
        for request in self._pop_pending():
            lease = self.grant(request.keep_alive)
            # Granting publishes a report: its handlers may have stopped the engine or cancelled the request.
            if lease is None:
                self.pending.append(request)
            elif request.lease.done():
                lease.release()
            else:
                request.lease.set_result(lease)

    def reject_pending(self, make_error: Callable[[], LlbError]) -> None:
        """Reject all pending leases; each gets its own error, since a traceback belongs to one task."""
        for request in self._pop_pending():
            request.lease.set_exception(make_error())

    def _pop_pending(self) -> list[LeaseRequest]:
        requests, self.pending = self.pending, []
        return [request for request in requests if not request.lease.done()]

    # --- keep-alive ----------------------------------------------------------------------------------

    def on_loaded(self, now: float) -> None:
        """Begin the time of the usual keep-alive, for an engine that was just loaded."""
        self.last_used = now
        self._keep_alive_s = self._default_keep_alive_s

    def set_keep_alive(self, keep_alive_s: float) -> None:
        """Set the usual keep-alive; applies at once."""
        if keep_alive_s != self._default_keep_alive_s:
            self._default_keep_alive_s = self._keep_alive_s = keep_alive_s
