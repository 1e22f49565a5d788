from __future__ import annotations

import random

import pytest

from tests.soak.trend import trend


def test_a_straight_line_is_found_exactly() -> None:
    found = trend([0.0, 1.0, 2.0, 3.0], [10.0, 12.0, 14.0, 16.0])
    assert found is not None
    assert (found.mean, found.per_hour) == (13.0, 2.0)
    assert found.low == pytest.approx(found.high)
    assert found.grows


def test_noise_is_no_trend() -> None:
    chance = random.Random(1)
    hours = [number / 10 for number in range(100)]
    level = trend(hours, [100 + chance.gauss(0, 5) for _ in hours])
    assert level is not None
    assert level.low < 0 < level.high
    assert not level.grows
    rising = trend(hours, [100 + 3 * hour + chance.gauss(0, 5) for hour in hours])
    assert rising is not None
    assert 0 < rising.low < 3 < rising.high
    assert rising.grows


def test_a_tenth_in_ten_hours_is_no_leak() -> None:
    slow = trend([0.0, 1.0, 2.0], [100.0, 100.5, 101.0])
    assert slow is not None
    assert not slow.grows


@pytest.mark.parametrize("hours", [[], [1.0, 2.0], [1.0, 1.0, 1.0]])
def test_too_little_says_nothing(hours: list[float]) -> None:
    assert trend(hours, [1.0] * len(hours)) is None
