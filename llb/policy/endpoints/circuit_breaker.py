"""Health of an endpoint: status, circuit breaker and ramp after a recovery. Pure.

Checks (lists of models, never a generation) and live requests both change it. A check that succeeds does not
close a breaker that requests have opened: the server may be up and fail at every request.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from llb.wire import EndpointStatus

# Requests in a row that may fail before the breaker opens.
MAX_FAILURES = 3
# Time for which the breaker stays open; doubled each time that the trial fails.
OPEN_S, MAX_OPEN_S = 10.0, 300.0
# Without `Retry-After`.
RATE_LIMIT_S, MAX_RATE_LIMIT_S = 5.0, 3600.0
# Before a key that a request has shown to be refused is tried again.
REFUSED_KEY_S = 60.0
# Time in which the slots of a recovered endpoint grow from a tenth to all.
RAMP_S, RAMP_START = 30.0, 0.1
CHECK_INTERVAL_S = 15.0
FIRST_RETRY_S, MAX_CHECK_INTERVAL_S = 2.0, 60.0
# Share of the interval by which a check is moved, so that the checks of many endpoints do not coincide.
JITTER = 0.1


class EndpointHealth(Struct, frozen=True):
    """Health of one endpoint. Times are monotonic."""

    # Result of the last check: None before the first.
    is_reachable: bool | None = None
    # Infinite after a check whose key was refused: the next check decides.
    misconfigured_until: float | None = None
    # Requests that failed in a row.
    failures: int = 0
    # How often the breaker has opened in a row.
    opened: int = 0
    open_until: float | None = None
    limited_until: float | None = None
    recovered_at: float | None = None
    failed_checks: int = 0
    last_error: str | None = None

    # --- requests ---

    def after_success(self, now: float) -> EndpointHealth:
        """Return the health after an answered request."""
        is_recovered = self.open_until is not None or self.is_reachable is False
        if not is_recovered and not self.failures and self.is_reachable and self.misconfigured_until is None:
            return self
        return replace(
            self,
            is_reachable=True,
            misconfigured_until=None,
            failures=0,
            opened=0,
            open_until=None,
            recovered_at=now if is_recovered else self.recovered_at,
            last_error=None,
        )

    def after_failure(self, now: float, message: str, *, is_unreachable: bool = False) -> EndpointHealth:
        """Return the health after a failed request: no answer, or a 5xx.

        A request that fails while the breaker is open was in flight before. It does not lengthen the wait,
        because many requests may fail in one crash.
        """
        failures = self.failures + 1
        changed = replace(self, failures=failures, last_error=message)
        was_trial = self.open_until is not None
        if self.open_until is not None and now < self.open_until:
            return changed
        if failures < MAX_FAILURES and not was_trial and not is_unreachable:
            return changed
        open_s = min(MAX_OPEN_S, OPEN_S * 2**self.opened)
        return replace(changed, open_until=now + open_s, opened=self.opened + 1, recovered_at=None)

    def after_rate_limit(self, now: float, message: str, retry_after_s: float | None) -> EndpointHealth:
        """Return the health after a 429, or a 529 of an overloaded cloud."""
        wait_s = RATE_LIMIT_S if retry_after_s is None else min(max(0.0, retry_after_s), MAX_RATE_LIMIT_S)
        return replace(self, limited_until=max(self.limited_until or 0.0, now + wait_s), last_error=message)

    def after_refused_key(self, now: float, message: str) -> EndpointHealth:
        """Return the health after a refused key (401), or one whose account has no credit (402)."""
        return replace(self, misconfigured_until=now + REFUSED_KEY_S, last_error=message)

    # --- checks ---

    def after_check(self, now: float) -> EndpointHealth:
        """Return the health after a check that listed the models."""
        is_recovered = self.is_reachable is False or self.misconfigured_until is not None
        return replace(
            self,
            is_reachable=True,
            misconfigured_until=None,
            failed_checks=0,
            recovered_at=now if is_recovered else self.recovered_at,
            last_error=self.last_error if self.open_until is not None or self.failures else None,
        )

    def after_failed_check(self, message: str, *, is_key_refused: bool) -> EndpointHealth:
        """Return the health after a failed check."""
        return replace(
            self,
            is_reachable=is_key_refused,
            misconfigured_until=math.inf if is_key_refused else None,
            failed_checks=self.failed_checks + 1,
            last_error=message,
        )

    # --- decisions ---

    def status(self, now: float) -> EndpointStatus:
        """Status of an endpoint that is enabled; it is busy if it is healthy and has no free slot."""
        if self.misconfigured_until is not None and now < self.misconfigured_until:
            return EndpointStatus.MISCONFIGURED
        if self.is_reachable is False or (self.open_until is not None and now < self.open_until):
            return EndpointStatus.OFFLINE
        if self.limited_until is not None and now < self.limited_until:
            return EndpointStatus.RATE_LIMITED
        return EndpointStatus.HEALTHY

    def slots(self, limit: int, now: float) -> int:
        """Return how many requests at a time it may have now, of at most `limit`: 0 while it may have none.

        One while the breaker is half open.
        """
        if self.status(now) is not EndpointStatus.HEALTHY:
            return 0
        if self.open_until is not None:
            return min(1, limit)
        if self.recovered_at is None or now >= self.recovered_at + RAMP_S:
            return limit
        share = RAMP_START + (1 - RAMP_START) * (now - self.recovered_at) / RAMP_S
        return max(1, math.floor(limit * share)) if limit else 0

    def next_change_at(self, now: float) -> float | None:
        """Return when status or slots change although nothing happens; None if they do not."""
        times = self._ends(now)
        if self.recovered_at is not None and now < self.recovered_at + RAMP_S:
            times.append(now + 1.0)
        return min(times, default=None)

    def wait_s(self, now: float) -> int:
        """Return the seconds after which a refused caller may try again."""
        times = self._ends(now)
        return max(1, math.ceil(max(times) - now)) if times else round(FIRST_RETRY_S)

    def _ends(self, now: float) -> list[float]:
        times = (self.open_until, self.limited_until, self.misconfigured_until)
        return [time for time in times if time is not None and now < time < math.inf]

    def check_interval_s(self, random: float) -> float:
        """Return the seconds until the next check; `random` is in [0, 1)."""
        interval_s = CHECK_INTERVAL_S
        if self.failed_checks:
            interval_s = min(MAX_CHECK_INTERVAL_S, FIRST_RETRY_S * 2.0 ** (self.failed_checks - 1))
        return interval_s * (1 + JITTER * (2 * random - 1))


def limit_beside_others(slots: int, busy: int, waiting: int | None) -> int:
    """Return the slots to use of an engine at which requests of other clients may be `waiting`.

    No more than are `busy` already, and one at least: others use it too, and more would only wait there.
    """
    return min(slots, max(1, busy)) if waiting else slots
