"""Rate limiter of login attempts, per account, per client address and per device."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

from llb.errors import RateLimited


class LoginAttempt(Struct, frozen=True, kw_only=True):
    """An attempt to sign in: the name that was typed, and where from.

    `user_id` is None for a name that no account has. `device_id` is given if the device has signed in to this
    account before, `is_known_address` if the address has.
    """

    username: str
    address: str
    user_id: str | None = None
    device_id: str | None = None
    is_known_address: bool = False


class _AttemptRecord(Struct):
    """Failed attempts of one kind; times in seconds of the limiter's clock."""

    failures: int = 0
    blocked_until: float = 0.0
    last_seen: float = 0.0


class _AttemptTable:
    """Bounded records by key; what was not used for the longest time is forgotten first."""

    def __init__(self, delay_max_s: float, max_records: int, ttl_s: float) -> None:
        self.delay_max_s = delay_max_s
        self._max_records = max_records
        self._ttl_s = ttl_s
        self._records: dict[str, _AttemptRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str, now: float) -> _AttemptRecord | None:
        """Return a record that has not expired; changes nothing."""
        record = self._records.get(key)
        return None if record is None or now - record.last_seen > self._ttl_s else record

    def get_or_create(self, key: str, now: float) -> _AttemptRecord:
        record = self.get(key, now) or _AttemptRecord()
        record.last_seen = now
        # It moves to the end of the dict, whose front is forgotten first.
        self._records.pop(key, None)
        self._records[key] = record
        while len(self._records) > self._max_records:
            del self._records[next(iter(self._records))]
        return record

    def remove(self, key: str) -> None:
        self._records.pop(key, None)


class LoginRateLimiter:
    """Slows down password guessing by exponential delays.

    A device that has signed in to the account before has an allowance of its own, and an address that has is
    not subject to the delay of the account. So guesses from elsewhere do not lock the owner out. A refused
    attempt leaves no record, and names without an account have a table of their own, so that no one can push
    out the record of an account.
    """

    FREE_ATTEMPTS = 5
    # Short, because it concerns an owner on a new device too.
    ACCOUNT_DELAY_MAX_S = 30.0
    ADDRESS_DELAY_MAX_S = 300.0
    RECORD_TTL_S = 900.0
    # Maximum number of records of each table.
    MAX_RECORDS = 10_000

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._accounts = self._new_table(self.ACCOUNT_DELAY_MAX_S)
        # Delays like those of accounts, so that no delay reveals which names exist.
        self._unknown_names = self._new_table(self.ACCOUNT_DELAY_MAX_S)
        self._addresses = self._new_table(self.ADDRESS_DELAY_MAX_S)
        self._devices = self._new_table(self.ADDRESS_DELAY_MAX_S)

    def record_attempt(self, attempt: LoginAttempt) -> None:
        """Count an attempt as failed until `record_success`. Raises `RateLimited` if it comes too soon.

        The attempt counts before its password is checked: the check takes time, and parallel guesses would
        pass.
        """
        now = self._clock()
        limits = self._limits_of(attempt)
        blocked_until = max(
            (0.0 if (record := table.get(key, now)) is None else record.blocked_until)
            for table, key in limits
        )
        if blocked_until > now:
            raise RateLimited(
                "Too many failed attempts; try again later", retry_after_s=int(blocked_until - now) + 1
            )
        for table, key in limits:
            record = table.get_or_create(key, now)
            record.failures += 1
            excess = record.failures - self.FREE_ATTEMPTS
            # min() first: a large exponent would overflow a float.
            record.blocked_until = (
                now + min(table.delay_max_s, 2.0 ** min(excess, 16)) if excess >= 0 else 0.0
            )

    def record_success(self, attempt: LoginAttempt) -> None:
        """Remove the attempt. The address keeps its other failures: it may be attacking other accounts."""
        for table, key in self._limits_of(attempt):
            record = table.get(key, self._clock())
            if table is not self._addresses:
                table.remove(key)
            elif record is not None:
                record.failures = max(0, record.failures - 1)
                record.blocked_until = 0.0

    def _limits_of(self, attempt: LoginAttempt) -> list[tuple[_AttemptTable, str]]:
        if attempt.device_id is not None:
            return [(self._devices, attempt.device_id)]
        address = (self._addresses, address_group(attempt.address))
        if attempt.user_id is None:
            return [(self._unknown_names, attempt.username.casefold()), address]
        return [address] if attempt.is_known_address else [(self._accounts, attempt.user_id), address]

    def _new_table(self, delay_max_s: float) -> _AttemptTable:
        return _AttemptTable(delay_max_s, self.MAX_RECORDS, self.RECORD_TTL_S)


def address_group(address: str) -> str:
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
