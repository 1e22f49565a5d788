"""Quarantine of requests and callers that have crashed engines."""

from __future__ import annotations

import pytest

from llb.errors import RequestCrashesEngine, TooManyCrashes
from llb.gateway.admission import quarantine as module
from llb.gateway.admission.quarantine import CALLER_WAIT_S, REQUEST_QUARANTINE_S, Quarantine


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quarantine(clock: Clock) -> Quarantine:
    return Quarantine(clock=clock)


def test_a_crash_is_the_requests_whoever_sends_it(quarantine: Quarantine) -> None:
    quarantine.check("m", "key", b"poison")
    quarantine.record_crash("m", "key", b"poison")
    for caller in ("key", "other"):
        with pytest.raises(RequestCrashesEngine):
            quarantine.check("m", caller, b"poison")
    quarantine.check("m", "key", b"fine")
    quarantine.check("other model", "key", b"poison")


def test_a_request_is_released_after_a_while(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.record_crash("m", "key", b"poison")
    clock.now += REQUEST_QUARANTINE_S
    quarantine.check("m", "key", b"poison")


def test_one_suspicion_is_none(quarantine: Quarantine, clock: Clock) -> None:
    assert not quarantine.record_suspicion("m", b"odd")
    quarantine.check("m", "key", b"odd")
    clock.now += REQUEST_QUARANTINE_S
    assert not quarantine.record_suspicion("m", b"odd")
    assert quarantine.record_suspicion("m", b"odd")
    with pytest.raises(RequestCrashesEngine):
        quarantine.check("m", "key", b"odd")


def test_a_caller_with_several_crashes_waits_longer_each_time(quarantine: Quarantine, clock: Clock) -> None:
    for number in range(3):
        quarantine.check("m", "key", b"fine")
        quarantine.record_crash("m", "key", b"%d" % number)
    with pytest.raises(TooManyCrashes) as refused:
        quarantine.check("m", "key", b"fine")
    assert refused.value.retry_after_s == CALLER_WAIT_S
    quarantine.check("m", "other", b"fine")
    clock.now += CALLER_WAIT_S
    quarantine.check("m", "key", b"fine")
    quarantine.record_crash("m", "key", b"again")
    with pytest.raises(TooManyCrashes) as refused:
        quarantine.check("m", "key", b"fine")
    assert refused.value.retry_after_s == 2 * CALLER_WAIT_S


def test_rare_crashes_of_a_caller_are_forgiven(quarantine: Quarantine, clock: Clock) -> None:
    for number in range(10):
        quarantine.record_crash("m", "key", b"%d" % number)
        quarantine.check("m", "key", b"fine")
        clock.now += module.CALLER_PERIOD_S / 2 + 1


def test_its_memory_is_bounded(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 2)
    monkeypatch.setattr(module, "MAX_CALLERS", 2)
    for number in range(3):
        quarantine.record_crash("m", f"key {number}", b"%d" % number)
    quarantine.check("m", "key", b"0")
    for number in (1, 2):
        with pytest.raises(RequestCrashesEngine):
            quarantine.check("m", "key", b"%d" % number)


def test_bodies_are_digested_only_after_a_recent_crash(
    quarantine: Quarantine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantine.record_crash("m", "key", b"poison")
    quarantine.record_suspicion("m", b"odd")
    clock.now += REQUEST_QUARANTINE_S
    monkeypatch.delattr(module, "_digest")
    quarantine.check("m", "key", b"poison")
