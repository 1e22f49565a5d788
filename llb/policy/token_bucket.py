"""A token bucket: what is left of an allowance a minute. The caller brings the time.

It fills evenly up to a minute's worth (RFC 2697, section 3, with one bucket). After a pause a whole minute's worth may go
at once, in the long run never more than the rate. Two numbers, no list of what was taken when, as a sliding window needs;
and what was taken can be corrected: too much is given back, too little leaves the bucket below zero until it has filled up.
"""

from __future__ import annotations

MINUTE_S = 60.0
_EPSILON = 1e-6  # less than this is a rounding of floats


class TokenBucket:
    """`per_minute` of anything a minute. Times are seconds of any clock; one that goes back stands still."""

    __slots__ = ("_tokens", "_updated_at", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._updated_at = now

    def available(self, now: float) -> float:
        """What may be taken at once; below zero where more was taken than there was."""
        if now > self._updated_at:
            filled = self._tokens + (now - self._updated_at) * self.per_minute / MINUTE_S
            self._tokens = min(float(self.per_minute), filled)
            self._updated_at = now
        return self._tokens

    def consume(self, amount: float, now: float) -> None:
        """Less than nothing gives back."""
        self._tokens = min(float(self.per_minute), self.available(now) - amount)

    def wait_s(self, amount: float, now: float) -> float:
        """Until `amount` is there, 0 if it is. For more than a minute's worth a full bucket will do: it would never come."""
        lacking = min(amount, self.per_minute) - self.available(now)
        return lacking * MINUTE_S / self.per_minute if lacking > _EPSILON else 0.0

    def time_to_full_s(self, now: float) -> float:
        return (self.per_minute - self.available(now)) * MINUTE_S / self.per_minute

    def set_rate(self, per_minute: int, now: float) -> None:
        """Another allowance from now on; what was taken stays taken."""
        taken = self.per_minute - self.available(now)
        self.per_minute = per_minute
        self._tokens = per_minute - taken
