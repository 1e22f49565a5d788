"""Token bucket: rate, burst and correction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.token_bucket import MINUTE_S, TokenBucket

SLACK = 1e-3

rates = st.integers(1, 10_000)
passing = st.floats(0, 200, allow_nan=False)
asked = st.lists(st.tuples(passing, st.floats(0, 20_000, allow_nan=False)), max_size=40)


def test_a_minute_s_worth_at_once_then_evenly() -> None:
    bucket = TokenBucket(60, 100.0)
    for _ in range(60):
        assert bucket.wait_s(1, 100.0) == 0
        bucket.consume(1, 100.0)
    assert bucket.wait_s(1, 100.0) == pytest.approx(1.0)
    assert bucket.time_to_full_s(100.0) == pytest.approx(60.0)
    assert bucket.wait_s(1, 101.0) == 0
    assert bucket.available(130.0) == pytest.approx(30)
    assert bucket.available(1000.0) == 60


def test_what_was_taken_too_much_is_paid_back() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.consume(90, 0.0)
    assert bucket.available(0.0) == -30
    assert bucket.wait_s(1, 0.0) == pytest.approx(31.0)


def test_more_than_a_minute_s_worth_waits_for_a_full_bucket() -> None:
    bucket = TokenBucket(60, 0.0)
    assert bucket.wait_s(1000, 0.0) == 0
    bucket.consume(1, 0.0)
    assert bucket.wait_s(1000, 0.0) == pytest.approx(1.0)


def test_another_allowance_forgets_nothing() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.consume(50, 0.0)
    bucket.set_rate(100, 0.0)
    assert bucket.available(0.0) == 50
    bucket.set_rate(20, 0.0)
    assert bucket.available(0.0) == -30


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(60, 100.0)
    bucket.consume(60, 100.0)
    assert bucket.available(50.0) == 0
    assert bucket.available(100.0) == 0
    assert bucket.available(101.0) == pytest.approx(1)


@given(rates, asked)
def test_in_no_span_is_more_let_through_than_a_minute_s_worth_and_the_rate(
    rate: int, script: list[tuple[float, float]]
) -> None:
    bucket, now = TokenBucket(rate, 0.0), 0.0
    taken: list[tuple[float, float]] = []
    for pass_s, wish in script:
        now += pass_s
        amount = min(wish, rate)
        if bucket.wait_s(amount, now) == 0:
            bucket.consume(amount, now)
            taken.append((now, amount))
    for first, (since, _) in enumerate(taken):
        total = 0.0
        for at, amount in taken[first:]:
            total += amount
            assert total <= rate + (at - since) * rate / MINUTE_S + SLACK


@given(rates, asked, st.floats(0, 20_000, allow_nan=False))
def test_who_waits_as_long_as_told_gets_it(
    rate: int, script: list[tuple[float, float]], amount: float
) -> None:
    bucket, now = TokenBucket(rate, 0.0), 0.0
    for pass_s, taken in script:
        now += pass_s
        bucket.consume(taken, now)
        assert bucket.available(now) <= rate
    wait_s, full_s = bucket.wait_s(amount, now), bucket.time_to_full_s(now)
    if wait_s:
        assert bucket.wait_s(amount, now + wait_s * 0.99 - SLACK) > 0
    assert bucket.wait_s(amount, now + wait_s + SLACK) == 0
    assert bucket.time_to_full_s(now + max(wait_s, full_s) + 2 * SLACK) == pytest.approx(0)
