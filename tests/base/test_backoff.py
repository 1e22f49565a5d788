"""Exponential back-off: growth, ceiling, jitter, reset."""

from __future__ import annotations

import pytest

from llb.base.backoff import Backoff


class FakeClock:
    """Clock that moves only when it is advanced."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _delays(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_delay_s() for _ in range(count)]


def test_delays_double_up_to_the_maximum() -> None:
    assert _delays(Backoff(0.5, 5.0), 6) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_factor_sets_the_growth() -> None:
    assert _delays(Backoff(1.0, 100.0, factor=3.0), 4) == [1.0, 3.0, 9.0, 27.0]


def test_factor_one_keeps_the_delay() -> None:
    assert _delays(Backoff(2.0, 10.0, factor=1.0), 3) == [2.0, 2.0, 2.0]


def test_reset_starts_again_at_the_first_delay() -> None:
    backoff = Backoff(1.0, 8.0)
    _delays(backoff, 5)
    backoff.reset()
    assert _delays(backoff, 2) == [1.0, 2.0]


def test_thousands_of_failures_stay_at_the_maximum() -> None:
    assert _delays(Backoff(1.0, 60.0), 5_000)[-1] == 60.0


def test_jitter_shortens_within_its_share() -> None:
    bounds: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    backoff = Backoff(1.0, 4.0, jitter=0.25, uniform=lowest)
    assert _delays(backoff, 4) == [0.75, 1.5, 3.0, 3.0]
    assert bounds == [(0.75, 1.0)] * 4


def test_jitter_spreads_the_delays_of_clients_that_failed_together() -> None:
    delays = [Backoff(1.0, 8.0, jitter=0.5).next_delay_s() for _ in range(50)]
    assert all(0.5 <= delay_s <= 1.0 for delay_s in delays)
    assert len(set(delays)) > 1


def test_long_attempt_resets_the_delay() -> None:
    clock = FakeClock()
    backoff = Backoff(1.0, 8.0, reset_after_s=30.0, clock=clock)
    for expected_s in (1.0, 2.0, 4.0):
        assert backoff.next_delay_s() == expected_s
        clock.now_s += expected_s
    clock.now_s += 30.0
    assert backoff.next_delay_s() == 1.0


def test_the_delay_itself_is_no_part_of_the_attempt() -> None:
    clock = FakeClock()
    backoff = Backoff(40.0, 80.0, reset_after_s=30.0, clock=clock)
    assert backoff.next_delay_s() == 40.0
    clock.now_s += 40.0 + 29.0
    assert backoff.next_delay_s() == 80.0


def test_without_reset_after_time_changes_nothing() -> None:
    clock = FakeClock()
    backoff = Backoff(1.0, 8.0, clock=clock)
    backoff.next_delay_s()
    clock.now_s += 10_000.0
    assert backoff.next_delay_s() == 2.0


@pytest.mark.parametrize(
    ("first_s", "max_s", "factor", "jitter"),
    [(0.0, 1.0, 2.0, 0.0), (2.0, 1.0, 2.0, 0.0), (1.0, 2.0, 0.5, 0.0), (1.0, 2.0, 2.0, 1.5)],
)
def test_impossible_arguments_are_refused(first_s: float, max_s: float, factor: float, jitter: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Backoff(first_s, max_s, factor=factor, jitter=jitter)
