"""Token bucket: an allowance per minute. Pure: the caller passes the time.

The bucket fills evenly and holds one minute's allowance (RFC 2697, section 3, with one bucket). So a burst of
that size is possible after a pause, and in the long run never more than the rate. In contrast to a sliding
window it needs two numbers only, and a consumption can be corrected: a surplus is returned, a deficit leaves
the bucket below zero.
"""

from __future__ import annotations

MINUTE_S = 60.0
# Tolerance for rounding errors.
_EPSILON = 1e-6


class TokenBucket:
    """Token bucket of `per_minute` tokens. `now` is in seconds of any clock; a step backwards is ignored."""

    __slots__ = ("_tokens", "_updated_at", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._updated_at = now

    def available(self, now: float) -> float:
        """Return the available tokens, below zero after an overdraft."""
        if now > self._updated_at:
            filled = self._tokens + (now - self._updated_at) * self.per_minute / MINUTE_S
            self._tokens = min(float(self.per_minute), filled)
            self._updated_at = now
        return self._tokens

    def consume(self, amount: float, now: float) -> None:
        """Take `amount` tokens, below zero if necessary; a negative amount returns tokens."""
        self._tokens = min(float(self.per_minute), self.available(now) - amount)

    def wait_s(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` is available; more than the capacity needs a full bucket."""
        missing = min(amount, self.per_minute) - self.available(now)
        return missing * MINUTE_S / self.per_minute if missing > _EPSILON else 0.0

    def time_to_full_s(self, now: float) -> float:
        """Return the seconds until the bucket is full."""
        return (self.per_minute - self.available(now)) * MINUTE_S / self.per_minute

    def set_rate(self, per_minute: int, now: float) -> None:
        """Change the rate; consumed tokens stay consumed."""
        consumed = self.per_minute - self.available(now)
        self.per_minute = per_minute
        self._tokens = per_minute - consumed
