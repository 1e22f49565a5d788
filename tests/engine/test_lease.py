"""Leases: what a request holds of an engine, and gives back once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from llb.engine.lease import BYTES_PER_TOKEN, EngineLeases, Lease, LeaseRequest
from llb.engine.process import EngineProcess
from llb.engine.request_watch import RequestWatch
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.errors import EngineFailed
from llb.policy.keep_alive import KeepAlive
from llb.wire import EngineState

SPEED = EngineSpeed(1000.0, 100.0)


@dataclass
class Spec:
    """Specification of an engine, as far as a lease reads it."""

    api_key: str = "secret"


@dataclass
class Engine:
    """Process and watch of a ready engine, which count what leases do."""

    ready: object | None = field(default_factory=object)
    spec: Spec | None = field(default_factory=Spec)
    calls: list[object] = field(default_factory=list)
    state: EngineState = EngineState.READY
    generation: int = 7
    now: float = 0.0

    def begin_request(self) -> int:
        self.calls.append("begin")
        self.state = EngineState.BUSY
        return self.generation

    def end_request(self, _generation: int) -> None:
        self.state = EngineState.READY

    def remove(self, _request: Lease, now: float) -> None:
        self.calls.append(("removed", now))

    async def wait_for_end(self, generation: int, timeout_s: float) -> None:
        self.calls.append((generation, timeout_s))

    def add(self, request: Lease) -> None:
        self.calls.append("watched")

    def begin(self, request: Lease, prompt_tokens: int, speed: EngineSpeed) -> None:
        self.calls.append((prompt_tokens, speed))

    def lease(self) -> Lease:
        return Lease(
            cast(EngineProcess, self),
            cast(RequestWatch, self),
            on_released=lambda lease: self.calls.append(("released", lease)),
            on_suspected_failure=lambda: self.calls.append("suspected"),
        )

    def leases(self) -> EngineLeases:
        return EngineLeases(
            cast(EngineProcess, self),
            cast(RequestWatch, self),
            keep_alive_s=60.0,
            clock=lambda: self.now,
            on_suspected_failure=lambda: self.calls.append("suspected"),
        )


async def test_it_is_given_back_once_however_often_it_is_released() -> None:
    engine = Engine()
    async with engine.lease() as lease:
        assert (lease.worker, lease.api_key, lease.generation) == (engine.ready, "secret", 7)
        lease.release()
    lease.release()
    assert engine.calls == ["begin", "watched", ("released", lease)]


async def test_it_is_given_back_after_an_error() -> None:
    engine = Engine()
    with pytest.raises(ValueError, match="broken"):
        async with engine.lease() as lease:
            raise ValueError("broken")
    assert engine.calls[-1] == ("released", lease)


def test_an_engine_that_is_not_ready_has_none() -> None:
    for engine in (Engine(ready=None), Engine(spec=None)):
        with pytest.raises(RuntimeError):
            engine.lease()
        assert engine.calls == []


async def test_blame_is_that_of_the_worker_that_served_it() -> None:
    engine = Engine()
    lease = engine.lease()
    lease.begin_request(100 * BYTES_PER_TOKEN, SPEED)
    lease.report_suspected_failure()
    assert engine.calls[2:] == [(100, SPEED), "suspected"]
    assert await lease.wait_for_blame(2.0) is None
    lease.blame = Blame.CAUSE
    assert await lease.wait_for_blame(2.0) is Blame.CAUSE
    assert engine.calls[4:] == [(7, 2.0)] * 2


async def test_a_lease_that_was_granted_too_late_is_given_back() -> None:
    engine = Engine()
    granted, pending, refused, cancelled = (
        LeaseRequest(asyncio.get_running_loop().create_future(), 0.0, None) for _ in range(4)
    )
    granted.lease.set_result(engine.lease())
    refused.lease.set_exception(ValueError())
    cancelled.lease.cancel()
    for request in (granted, pending, refused, cancelled):
        request.abandon()
    assert engine.calls == ["begin", "watched", ("released", granted.lease.result())]


def test_an_engine_that_is_not_loaded_or_stops_grants_none() -> None:
    engine = Engine(state=EngineState.STARTING)
    leases = engine.leases()
    assert (leases.is_open, leases.unload_at, leases.grant(None)) == (False, None, None)
    engine.state, leases.is_closed = EngineState.READY, True
    assert (leases.is_open, leases.unload_at, leases.grant(None)) == (False, None, None)
    assert engine.calls == []


def test_the_keep_alive_begins_with_the_end_of_the_last_lease() -> None:
    engine = Engine()
    leases = engine.leases()
    leases.on_loaded(1.0)
    assert leases.unload_at == 61.0
    lease = leases.grant(KeepAlive(5.0))
    assert lease is not None
    assert not leases.unload_at
    lease.report_suspected_failure()
    engine.now = 8.0
    lease.release()
    assert leases.unload_at == 13.0
    assert engine.calls[2:] == ["suspected", ("removed", 8.0)]
    leases.set_keep_alive(30.0)
    assert leases.unload_at == 38.0
    leases.set_keep_alive(-1.0)
    assert leases.unload_at is None


def test_a_lease_of_a_worker_that_has_ended_is_no_use_of_the_next_one() -> None:
    engine = Engine(now=1.0)
    leases = engine.leases()
    lease = leases.grant(None)
    assert lease is not None
    engine.generation, engine.now = 8, 9.0
    lease.release()
    assert leases.last_used == 1.0


async def test_those_that_wait_get_one_each() -> None:
    engine = Engine(state=EngineState.STARTING)
    leases = engine.leases()
    first, left, last = (
        LeaseRequest(asyncio.get_running_loop().create_future(), 0.0, None) for _ in range(3)
    )
    leases.pending += [first, left, last]
    leases.grant_pending()
    # Nothing was granted, and nobody was forgotten.
    assert leases.pending == [first, left, last]
    left.lease.cancel()
    engine.state = EngineState.READY
    leases.grant_pending()
    assert leases.pending == []
    assert first.lease.result() is not last.lease.result()
    leases.pending.append(left)
    leases.reject_pending(lambda: EngineFailed("stopped"))
    assert leases.pending == []
