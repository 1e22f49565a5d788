"""Bandwidth limiter and transfer rate."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llb.node.download.bandwidth import BandwidthLimiter, TransferRate
from tests.node.replica_fixture import FakeClockEvent


def test_a_limit_is_shared_and_idle_time_is_not_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClockEvent()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    limiter = BandwidthLimiter(1000, burst_s=0.0)
    assert [limiter.acquire(500, clock) for _ in range(4)] == [0.5] * 4
    clock.now += 3600
    assert limiter.acquire(500, clock) == 0.5
    assert BandwidthLimiter(None).acquire(10**12, clock) == 0.0


def test_a_changed_limit_ends_the_waits_under_the_previous_one() -> None:
    limiter, cancelled = BandwidthLimiter(1000, burst_s=0.0), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limiter.acquire, 3_600_000, cancelled)
        limiter.set_limit(None)
        assert waiting.result(timeout=30) < 30
    assert limiter.acquire(10**12, cancelled) == 0.0
    limiter.set_limit(10**9)
    assert limiter.acquire(1000, cancelled) < 1


def test_speed_settles_at_the_truth_and_falls_when_nothing_comes() -> None:
    rate = TransferRate(window_s=3.0)
    assert rate.bytes_per_second(0.0) == 0.0
    for tick in range(1, 101):
        rate.record_bytes(100_000, tick * 0.1)
    assert rate.bytes_per_second(10.0) == pytest.approx(1_000_000, rel=0.05)
    assert rate.bytes_per_second(13.0) < 500_000
    assert rate.bytes_per_second(100.0) < 1
