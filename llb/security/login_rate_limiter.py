"""Rate limiter of login attempts, per account and per client address."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from llb.errors import RateLimited


@dataclass
class _AttemptRecord:
    """Failed attempts on one account or from one address; times in seconds of the limiter's clock."""

    failures: int = 0
    blocked_until: float = 0.0
    last_seen: float = 0.0


class LoginRateLimiter:
    """Slows down password guessing by exponential delays; keeps a bounded number of records in memory."""

    FREE_ATTEMPTS = 5
    # Short, so that an attacker cannot lock the owner of an account out for long.
    ACCOUNT_DELAY_MAX_S = 30.0
    ADDRESS_DELAY_MAX_S = 300.0
    RECORD_TTL_S = 900.0
    MAX_RECORDS = 10_000

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], _AttemptRecord] = {}

    def record_attempt(self, account: str, address: str) -> None:
        """Count an attempt as failed until `record_success`. Raises `RateLimited` if it comes too soon.

        The attempt counts before its password is checked: the check takes time, and parallel guesses would
        pass.
        """
        now = self._clock()
        limits = (
            (self._get_record(("account", account.casefold()), now), self.ACCOUNT_DELAY_MAX_S),
            (self._get_record(("address", _address_group(address)), now), self.ADDRESS_DELAY_MAX_S),
        )
        wait_s = max(record.blocked_until for record, _ in limits) - now
        if wait_s > 0:
            raise RateLimited("Too many failed attempts; try again later", retry_after_s=int(wait_s) + 1)
        for record, delay_max_s in limits:
            record.failures += 1
            excess = record.failures - self.FREE_ATTEMPTS
            # min() first: a large exponent would overflow a float.
            record.blocked_until = now + min(delay_max_s, 2.0 ** min(excess, 16)) if excess >= 0 else 0.0

    def record_success(self, account: str, address: str) -> None:
        """Remove the attempt. The address keeps its other failures: it may be attacking other accounts."""
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
        # At the end of the dict, whose front is the record that was not used for the longest time.
        self._records[key] = record
        while len(self._records) > self.MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return record


def _address_group(address: str) -> str:
    """Return the address, or its /64 network for IPv6, where one client has the whole network."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
