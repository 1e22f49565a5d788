from __future__ import annotations

import pytest

from llb.store.trusted_clock import CONFIRMATION_S, EARLIEST_PLAUSIBLE, ClockMark, TrustedClock

DAY_S = 86_400.0
START = EARLIEST_PLAUSIBLE + 500 * DAY_S


class Host:
    """Host with a wall clock that can jump, and the trusted clock of one run after another."""

    def __init__(self, wall: float = START) -> None:
        self.wall, self.elapsed = wall, 100.0
        self.clock = self.boot()

    def boot(self, mark: ClockMark | None = None) -> TrustedClock:
        self.clock = TrustedClock(wall=lambda: self.wall, elapsed=lambda: self.elapsed)
        if mark is not None:
            self.clock.resume(mark)
        return self.clock

    def run(self, seconds: float) -> float:
        """Let time pass with a check each minute; returns the sum of the corrections."""
        corrected_s = 0.0
        for _ in range(int(seconds // 60)):
            self.wall += 60
            self.elapsed += 60
            corrected_s += self.clock.check()
        return corrected_s

    def times(self) -> tuple[float, float, float]:
        clock = self.clock
        return clock.earliest() - self.wall, clock.now() - self.wall, clock.latest() - self.wall


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_clock_that_runs_steadily_is_the_time(host: Host) -> None:
    host.run(3600)
    host.wall += 30
    host.run(3600)
    assert host.times() == (0, 0, 0)
    assert host.clock.problem is None


@pytest.mark.parametrize("step_s", [3000, -3000])
def test_a_correction_within_an_hour_is_no_jump(host: Host, step_s: float) -> None:
    host.wall += step_s
    host.run(120)
    assert host.times() == (0, 0, 0)


def test_a_jump_ahead_ends_but_deletes_nothing(host: Host) -> None:
    host.wall += 365 * DAY_S
    assert host.times() == (-365 * DAY_S, -365 * DAY_S, 0)
    assert host.clock.problem is not None
    assert "forward by 365.0 days" in host.clock.problem
    host.run(600)
    host.wall -= 365 * DAY_S
    assert host.times() == (0, 0, 0)
    assert host.clock.problem is None


def test_a_clock_that_is_set_back_deletes_nothing_and_revives_nothing(host: Host) -> None:
    host.wall -= 10 * DAY_S
    assert host.times() == (0, 10 * DAY_S, 10 * DAY_S)
    host.run(3600)
    assert host.times() == (0, 10 * DAY_S, 10 * DAY_S)


@pytest.mark.parametrize("days", [365, -10])
def test_a_jump_is_believed_after_a_steady_day(host: Host, days: int) -> None:
    host.wall += days * DAY_S
    assert host.run(CONFIRMATION_S - 120) == 0
    assert host.run(300) == pytest.approx(days * DAY_S)
    assert host.times() == (0, 0, 0)


def test_a_clock_that_goes_on_jumping_is_not_believed(host: Host) -> None:
    for _ in range(10):
        host.wall += 365 * DAY_S
        assert host.run(CONFIRMATION_S / 2) == 0
    assert host.clock.earliest() < START + 6 * DAY_S


def test_a_suspended_host_is_no_jump(host: Host) -> None:
    # The elapsed time counts it.
    host.wall += 3 * DAY_S
    host.elapsed += 3 * DAY_S
    assert host.times() == (0, 0, 0)


@pytest.mark.parametrize("off_days", [0, 6])
def test_some_days_off_are_no_jump(host: Host, off_days: int) -> None:
    mark = host.clock.mark()
    host.wall += off_days * DAY_S
    host.elapsed = 5.0
    host.boot(mark)
    assert host.times() == (0, 0, 0)


def test_a_start_years_ahead_deletes_nothing(host: Host) -> None:
    mark = host.clock.mark()
    host.wall += 365 * DAY_S
    host.elapsed = 5.0
    host.boot(mark)
    assert host.times() == (-365 * DAY_S, -365 * DAY_S, 0)


def test_a_start_in_the_past_revives_nothing(host: Host) -> None:
    mark = host.clock.mark()
    host.wall = 3600.0
    host.elapsed = 5.0
    host.boot(mark)
    assert host.clock.latest() == START
    # NTP sets it right.
    host.wall = START + 60
    assert host.times() == (0, 0, 0)


def test_a_host_that_runs_some_hours_a_day_is_believed_in_the_end(host: Host) -> None:
    mark = host.clock.mark()
    host.wall += 60 * DAY_S
    for _ in range(4):
        host.wall += 16 * 3600
        host.boot(mark)
        host.run(8 * 3600)
        mark = host.clock.mark()
    assert host.times() == (0, 0, 0)


def test_a_first_start_without_a_battery_is_corrected_at_once() -> None:
    host = Host(wall=0.0)
    host.run(120)
    host.wall = START
    assert host.times() == (0, 0, 0)
    host.run(120)
    assert host.clock.mark().trusted == START + 120
