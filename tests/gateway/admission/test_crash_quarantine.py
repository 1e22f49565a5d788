"""Quarantine of requests and callers that have crashed engines."""

from __future__ import annotations

import pytest

from llb.errors import RequestCrashesEngine, TooManyCrashes
from llb.gateway.admission import crash_quarantine as module
from llb.gateway.admission.crash_quarantine import CALLER_WAIT_S, REQUEST_QUARANTINE_S, Quarantine
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Role


def key_of(name: str, user_id: str | None = None) -> Principal:
    return Principal(kind=PrincipalKind.KEY, id=name, role=Role.USER, user_id=user_id)


KEY, OTHER = key_of("key"), key_of("other")


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


def test_a_crash_counts_for_the_request_not_its_sender(quarantine: Quarantine) -> None:
    quarantine.check("m", KEY, b"poison")
    quarantine.record_crash("m", KEY, b"poison")
    for caller in (KEY, OTHER):
        with pytest.raises(RequestCrashesEngine):
            quarantine.check("m", caller, b"poison")
    quarantine.check("m", KEY, b"fine")
    quarantine.check("other model", KEY, b"poison")


def test_a_request_is_released_after_a_while(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.record_crash("m", KEY, b"poison")
    clock.now += REQUEST_QUARANTINE_S
    quarantine.check("m", KEY, b"poison")


def test_one_suspicion_is_none(quarantine: Quarantine, clock: Clock) -> None:
    assert not quarantine.record_suspicion("m", b"odd")
    quarantine.check("m", KEY, b"odd")
    clock.now += REQUEST_QUARANTINE_S
    assert not quarantine.record_suspicion("m", b"odd")
    assert quarantine.record_suspicion("m", b"odd")
    with pytest.raises(RequestCrashesEngine):
        quarantine.check("m", KEY, b"odd")


def test_a_caller_with_several_crashes_waits_longer_each_time(quarantine: Quarantine, clock: Clock) -> None:
    for number in range(3):
        quarantine.check("m", KEY, b"fine")
        quarantine.record_crash("m", KEY, b"%d" % number)
    with pytest.raises(TooManyCrashes) as refused:
        quarantine.check("m", KEY, b"fine")
    assert refused.value.retry_after_s == CALLER_WAIT_S
    quarantine.check("m", OTHER, b"fine")
    clock.now += CALLER_WAIT_S
    quarantine.check("m", KEY, b"fine")
    quarantine.record_crash("m", KEY, b"again")
    with pytest.raises(TooManyCrashes) as refused:
        quarantine.check("m", KEY, b"fine")
    assert refused.value.retry_after_s == 2 * CALLER_WAIT_S


def test_more_keys_give_a_user_no_more_crashes(quarantine: Quarantine) -> None:
    for number in range(module.MAX_OWNER_CRASHES):
        fresh = key_of(f"key {number}", "eve")
        quarantine.check("m", fresh, b"fine")
        quarantine.record_crash("m", fresh, b"%d" % number)
    with pytest.raises(TooManyCrashes):
        quarantine.check("m", key_of("unused key", "eve"), b"fine")
    quarantine.check("m", key_of("key", "adam"), b"fine")


def test_an_answer_clears_the_suspicion_but_not_the_proof(quarantine: Quarantine) -> None:
    for _ in range(5):
        assert not quarantine.record_suspicion("m", b"ping")
        quarantine.record_success("m", b"ping")
    quarantine.record_crash("m", KEY, b"poison")
    quarantine.record_success("m", b"poison")
    with pytest.raises(RequestCrashesEngine):
        quarantine.check("m", OTHER, b"poison")


def test_rare_crashes_of_a_caller_are_forgiven(quarantine: Quarantine, clock: Clock) -> None:
    for number in range(10):
        quarantine.record_crash("m", KEY, b"%d" % number)
        quarantine.check("m", KEY, b"fine")
        clock.now += module.CALLER_PERIOD_S / 2 + 1


def test_its_memory_is_bounded(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 2)
    monkeypatch.setattr(module, "MAX_CALLERS", 2)
    for number in range(3):
        quarantine.record_crash("m", key_of(f"key {number}"), b"%d" % number)
    quarantine.check("m", KEY, b"0")
    for number in (1, 2):
        with pytest.raises(RequestCrashesEngine):
            quarantine.check("m", KEY, b"%d" % number)


def test_bodies_are_digested_only_after_a_recent_crash(
    quarantine: Quarantine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantine.record_crash("m", KEY, b"poison")
    quarantine.record_suspicion("m", b"odd")
    clock.now += REQUEST_QUARANTINE_S
    monkeypatch.delattr(module, "_digest")
    quarantine.check("m", KEY, b"poison")
