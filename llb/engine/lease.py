"""Leases: rights of requests to use a loaded engine, which is not unloaded while one is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from msgspec import Struct

from llb.engine.process import EngineProcess
from llb.engine.request_watch import RequestWatch, WatchedRequest
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.policy.keep_alive import KeepAlive

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
