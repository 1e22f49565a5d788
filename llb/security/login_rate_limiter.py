"""Rate limiter of login attempts, per account and per address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from llb.errors import RateLimited


@dataclass
class _AttemptRecord:
    failures: int = 0
    blocked_until: float = 0.0
    last_seen: float = 0.0


class LoginRateLimiter:
    """Slows down the guessing of passwords, per account and per address, in memory of a bounded size."""

    FREE_ATTEMPTS = 5
    ACCOUNT_DELAY_MAX_S = 30.0  # short: whoever guesses must not be able to lock the owner out for long
    ADDRESS_DELAY_MAX_S = 300.0
    RECORD_TTL_S = 900.0
    MAX_RECORDS = 10_000

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], _AttemptRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def record_attempt(self, account: str, address: str) -> None:
        """Count an attempt as failed until `succeeded` says otherwise; raises `RateLimited` where it comes too soon.

        Counting before the slow check is what stops many guesses at the same time.
        """
        now = self._clock()
        limits = (
            (self._get_record(("account", account.casefold()), now), self.ACCOUNT_DELAY_MAX_S),
            (self._get_record(("address", _address_group(address)), now), self.ADDRESS_DELAY_MAX_S),
        )
        wait_s = max(record.blocked_until for record, _ in limits) - now
        if wait_s > 0:
            raise RateLimited("Too many failed attempts; wait a little", retry_after_s=int(wait_s) + 1)
        for record, delay_max_s in limits:
            record.failures += 1
            excess = record.failures - self.FREE_ATTEMPTS
            # min() first: the exponent of a patient guesser would overflow a float.
            record.blocked_until = now + min(delay_max_s, 2.0 ** min(excess, 16)) if excess >= 0 else 0.0

    def record_success(self, account: str, address: str) -> None:
        """Take the attempt back. The address keeps its other failures: it may be guessing at others' accounts."""
        self._records.pop(("account", account.casefold()), None)
        record = self._records.get(("address", _address_group(address)))
        if record is not None:
            record.failures = max(0, record.failures - 1)
            record.blocked_until = 0.0

    def _get_record(self, key: tuple[str, str], now: float) -> _AttemptRecord:
        record = self._records.pop(key, None)
        if record is None or now - record.last_seen > self.RECORD_TTL_S:
            record = _AttemptRecord()
        record.last_seen = now
        self._records[key] = record  # at the end: the front is what was not seen for the longest time
        while len(self._records) > self.MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return record


def _address_group(address: str) -> str:
    """One IPv6 customer has a whole /64: those addresses count as one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
