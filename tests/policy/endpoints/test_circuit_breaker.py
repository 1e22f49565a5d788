"""Health of an endpoint: breaker, ramp, rate limits, checks."""

from __future__ import annotations

import pytest

from llb.policy.endpoints.circuit_breaker import (
    MAX_CHECK_INTERVAL_S,
    MAX_FAILURES,
    OPEN_S,
    RAMP_S,
    REFUSED_KEY_S,
    EndpointHealth,
    limit_beside_others,
)
from llb.wire import EndpointStatus

UP = EndpointHealth(is_reachable=True)


def failed(times: int, health: EndpointHealth = UP, now: float = 0.0) -> EndpointHealth:
    for _ in range(times):
        health = health.after_failure(now, "broken")
    return health


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    assert failed(MAX_FAILURES - 1).status(0) is EndpointStatus.HEALTHY
    opened = failed(MAX_FAILURES)
    assert (opened.status(0), opened.slots(8, 0), opened.last_error) == (EndpointStatus.OFFLINE, 0, "broken")
    # A success in between resets the count.
    recovered = failed(MAX_FAILURES - 1).after_success(0)
    assert failed(MAX_FAILURES - 1, recovered).status(0) is EndpointStatus.HEALTHY


def test_one_trial_while_half_open_and_then_a_ramp() -> None:
    opened = failed(MAX_FAILURES)
    assert opened.next_change_at(0) == OPEN_S
    assert opened.slots(8, OPEN_S) == 1
    closed = opened.after_success(OPEN_S)
    slots = [closed.slots(100, OPEN_S + part * RAMP_S) for part in (0, 0.5, 1)]
    assert slots == [10, 55, 100]
    assert closed.slots(2, OPEN_S) == 1


def test_a_failed_trial_doubles_the_wait() -> None:
    again = failed(MAX_FAILURES).after_failure(OPEN_S, "still broken")
    assert again.open_until == OPEN_S + 2 * OPEN_S
    assert again.after_success(again.open_until).opened == 0


def test_requests_that_were_under_way_do_not_open_the_breaker_again() -> None:
    opened = failed(MAX_FAILURES)
    for late in range(20):
        opened = opened.after_failure(OPEN_S - 1, f"broken {late}", is_unreachable=True)
    assert (opened.open_until, opened.opened) == (OPEN_S, 1)


def test_a_good_check_does_not_close_the_breaker() -> None:
    checked = failed(MAX_FAILURES).after_check(1.0)
    assert checked.status(1.0) is EndpointStatus.OFFLINE
    assert checked.last_error == "broken"


def test_an_unreachable_endpoint_is_offline_at_once() -> None:
    assert UP.after_failure(0, "refused", is_unreachable=True).status(0) is EndpointStatus.OFFLINE


@pytest.mark.parametrize(("retry_after_s", "until"), [(None, 5.0), (30.0, 30.0), (1e9, 3600.0)])
def test_rate_limits_are_kept(retry_after_s: float | None, until: float) -> None:
    limited = UP.after_rate_limit(0, "slow down", retry_after_s)
    assert limited.status(until - 0.1) is EndpointStatus.RATE_LIMITED
    assert limited.slots(8, until) == 8
    # The answer to an earlier request changes nothing.
    assert limited.after_success(1.0).limited_until == limited.limited_until


def test_a_refused_key_is_tried_again_later() -> None:
    refused = UP.after_refused_key(0, "no")
    assert refused.status(0) is EndpointStatus.MISCONFIGURED
    assert refused.status(REFUSED_KEY_S) is EndpointStatus.HEALTHY
    checked = UP.after_failed_check("no", is_key_refused=True)
    assert checked.status(1e9) is EndpointStatus.MISCONFIGURED
    assert checked.next_change_at(0) is None
    assert checked.after_check(0).status(0) is EndpointStatus.HEALTHY


def test_checks_back_off() -> None:
    health = UP
    intervals = []
    for _ in range(8):
        health = health.after_failed_check("away", is_key_refused=False)
        intervals.append(health.check_interval_s(0.5))
    assert intervals[:3] == [2, 4, 8]
    assert intervals[-1] == MAX_CHECK_INTERVAL_S
    assert health.after_check(0).slots(10, 0) == 1


def test_slots_beside_other_clients_of_an_engine() -> None:
    assert [
        limit_beside_others(8, busy, waiting) for busy, waiting in ((3, None), (3, 0), (3, 2), (0, 9))
    ] == [
        8,
        8,
        3,
        1,
    ]
    assert limit_beside_others(0, 3, 2) == 0
