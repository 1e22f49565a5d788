"""Write limiter: how fast one principal may change accounts, keys, models and nodes.

Each change is a transaction and a record in the audit log. The limit is far above what a person or a script
does, and below what fills a disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llb.errors import RateLimited
from llb.policy.token_bucket import TokenBucket
from llb.security.permissions import Principal, PrincipalKind

# Burst size; after that, four a second.
WRITES_PER_MINUTE = 240
# Number of principals above which the idle ones are forgotten
EVICT_ABOVE = 1000


class WriteLimiter:
    """Token bucket of each principal: the keys that come from one key have one together."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def count_write(self, principal: Principal) -> None:
        """Count a change by `principal`; raises `RateLimited` if it must wait. The host itself never does."""
        if principal.kind is not PrincipalKind.LOCAL:
            self.count(principal.root_id)

    def count(self, account: str) -> None:
        """Count a change under this name; raises `RateLimited`."""
        now = self._clock()
        bucket = self._buckets.get(account)
        if bucket is None:
            if len(self._buckets) >= EVICT_ABOVE:
                self._buckets = {
                    name: known for name, known in self._buckets.items() if known.time_to_full_s(now) > 0
                }
            bucket = self._buckets[account] = TokenBucket(WRITES_PER_MINUTE, now)
        if wait_s := bucket.wait_s(1, now):
            raise RateLimited(
                f"Too many changes: at most {WRITES_PER_MINUTE} a minute; try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        bucket.consume(1, now)
