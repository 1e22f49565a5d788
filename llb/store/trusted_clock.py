"""Trusted clock: the wall clock of the host, guarded against jumps by the time that has really passed."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from llb.base import platform_compat
from llb.texts.coded_text import CodedText

# A difference between wall clock and elapsed time up to this is a correction, not a jump.
TOLERANCE_S = 3600.0
# Within this, two checks belong to one steady clock.
STEADY_TOLERANCE_S = 60.0
# A clock that has jumped is believed after it has run steadily for this long, also over restarts.
CONFIRMATION_S = 86_400.0
# Time that may have passed between two runs, without elapsed time to compare it with.
MAX_GAP_S = 7 * 86_400.0
# 2025-01-01: a host without a battery-backed clock starts years before, and is corrected by NTP.
EARLIEST_PLAUSIBLE = 1_735_689_600.0


class ClockMark(Struct, frozen=True, kw_only=True):
    """State of a trusted clock between two runs. Times are Unix seconds.

    `steady_s`: for how long the wall clock has run steadily since it jumped.
    """

    trusted: float
    wall: float
    steady_s: float = 0.0


class TrustedClock:
    """Wall clock, and the trusted time, which continues with the elapsed time when the wall clock jumps.

    While the two agree, all methods return the wall clock's time.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = platform_compat.elapsed_s,
    ) -> None:
        """`wall` returns Unix seconds; `elapsed` returns seconds that no correction of the clock changes."""
        self._wall = wall
        self._elapsed = elapsed
        self._steady_before_s = 0.0
        self._anchor(wall())
        self._steady_since = self._anchored_at
        self._offset = self._trusted - self._anchored_at

    def resume(self, mark: ClockMark) -> None:
        """Continue from the state of an earlier run."""
        wall = self._wall()
        if mark.trusted < EARLIEST_PLAUSIBLE or -TOLERANCE_S <= wall - mark.trusted <= MAX_GAP_S:
            return
        self._anchor(mark.trusted)
        if -TOLERANCE_S <= wall - mark.wall <= MAX_GAP_S:
            self._steady_before_s = mark.steady_s

    def mark(self) -> ClockMark:
        """State for `resume()`."""
        return ClockMark(trusted=self.trusted(), wall=self._wall(), steady_s=self._steady_s())

    def trusted(self) -> float:
        """Trusted time in Unix seconds."""
        return self._trusted + self._elapsed() - self._anchored_at

    def jump_s(self) -> float:
        """Seconds by which the wall clock is ahead (or, negative, behind) without being believed; else 0."""
        trusted = self.trusted()
        difference = self._wall() - trusted
        return 0.0 if abs(difference) <= TOLERANCE_S or trusted < EARLIEST_PLAUSIBLE else difference

    def now(self) -> float:
        """Best estimate of the time, for what is recorded."""
        # As `trusted() if jump_s() else wall`, in one call: every request asks.
        trusted, wall = self._trusted + self._elapsed() - self._anchored_at, self._wall()
        return wall if abs(wall - trusted) <= TOLERANCE_S or trusted < EARLIEST_PLAUSIBLE else trusted

    def latest(self) -> float:
        """Latest time that it may be, for what ends: a clock set back makes nothing valid again."""
        return self._wall() + max(0.0, -self.jump_s())

    def earliest(self) -> float:
        """Earliest time that it may be, for what is deleted by age: a clock ahead deletes nothing."""
        return self._wall() - max(0.0, self.jump_s())

    def check(self) -> float:
        """Compare the clocks, about once a minute; returns by how much the trusted time was corrected."""
        wall, elapsed = self._wall(), self._elapsed()
        if abs(wall - elapsed - self._offset) > STEADY_TOLERANCE_S:
            self._steady_since, self._steady_before_s = elapsed, 0.0
        self._offset = wall - elapsed
        jump_s = self.jump_s()
        if jump_s and self._steady_s() < CONFIRMATION_S:
            return 0.0
        self._anchor(wall)
        return jump_s

    @property
    def problem(self) -> str | None:
        """Return the problem of the wall clock, as a sentence."""
        jump_s = self.jump_s()
        if not jump_s:
            return None
        days = f"{abs(jump_s) / 86_400:.1f}"
        if jump_s > 0:
            return CodedText(
                "clock_jumped_forward",
                "The clock of this host has jumped forward by {days} days: check it (NTP). Until it is set "
                "right, or has run steadily for 24 hours, nothing is deleted for its age, and what has "
                "expired stays expired.",
                days=days,
            )
        return CodedText(
            "clock_jumped_back",
            "The clock of this host has jumped back by {days} days: check it (NTP). Until it is set right, "
            "or has run steadily for 24 hours, nothing is deleted for its age, and what has expired stays "
            "expired.",
            days=days,
        )

    def _steady_s(self) -> float:
        return self._steady_before_s + self._elapsed() - self._steady_since

    def _anchor(self, time_s: float) -> None:
        self._trusted, self._anchored_at = time_s, self._elapsed()
