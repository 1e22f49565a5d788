from __future__ import annotations

import random

import pytest

from tests.soak.trend import fit_trend


def test_a_straight_line_is_found_exactly() -> None:
    found = fit_trend([0.0, 1.0, 2.0, 3.0], [10.0, 12.0, 14.0, 16.0])
    assert found is not None
    assert (found.mean, found.per_hour) == (13.0, 2.0)
    assert found.per_hour_low == pytest.approx(found.per_hour_high)
    assert found.is_growing


def test_noise_is_no_trend() -> None:
    chance = random.Random(1)
    hours = [number / 10 for number in range(100)]
    level = fit_trend(hours, [100 + chance.gauss(0, 5) for _ in hours])
    assert level is not None
    assert level.per_hour_low < 0 < level.per_hour_high
    assert not level.is_growing
    rising = fit_trend(hours, [100 + 3 * hour + chance.gauss(0, 5) for hour in hours])
    assert rising is not None
    assert 0 < rising.per_hour_low < 3 < rising.per_hour_high
    assert rising.is_growing


def test_a_tenth_in_ten_hours_is_no_leak() -> None:
    slow = fit_trend([0.0, 1.0, 2.0], [100.0, 100.5, 101.0])
    assert slow is not None
    assert not slow.is_growing


@pytest.mark.parametrize("hours", [[], [1.0, 2.0], [1.0, 1.0, 1.0]])
def test_too_little_says_nothing(hours: list[float]) -> None:
    assert fit_trend(hours, [1.0] * len(hours)) is None
