"""Budget of request bodies: bounds their memory, in total and for each owner.

A body counts from its first byte until its request has ended, including the wait for a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from llb.errors import RateLimited, ServerBusy
from llb.security.permissions import Principal, PrincipalKind

MIN_TOTAL_BYTES, MAX_TOTAL_BYTES = 256 * 1024 * 1024, 1024 * 1024 * 1024
# Share of the host's memory
MEMORY_FRACTION = 8
# An owner may have two of the largest bodies.
MIN_OWNER_BYTES = 128 * 1024 * 1024
# Maximum for all bodies of public requests together
PUBLIC_TOTAL_BYTES = 16 * 1024 * 1024
RETRY_AFTER_S = 2
_PUBLIC = ""


def owner_of(principal: Principal | None) -> str:
    """Return the owner whose budget the bodies of `principal` count against; empty for none."""
    return _PUBLIC if principal is None else principal.account_id


class BodyBudget:
    """Counts the bytes of all bodies that are in memory."""

    def __init__(
        self, total_bytes: int | None = None, *, evict_public_body: Callable[[], bool] = lambda: False
    ) -> None:
        """The default depends on the memory of the host.

        `evict_public_body` ends the oldest public request whose body is arriving; False without one.
        """
        self._evict_public_body = evict_public_body
        if total_bytes is None:
            share = psutil.virtual_memory().total // MEMORY_FRACTION
            total_bytes = min(MAX_TOTAL_BYTES, max(MIN_TOTAL_BYTES, share))
        self.total_bytes = total_bytes
        self.owner_bytes = max(MIN_OWNER_BYTES, total_bytes // 4)
        self.used_bytes = 0
        self._used_by_owner: dict[str, int] = {}

    def open(self, principal: Principal | None) -> BodyShare | None:
        """Return the share of a new body; None for one of a node: its balancer has counted it already."""
        if principal is not None and principal.kind is PrincipalKind.NODE:
            return None
        return BodyShare(self, owner_of(principal))

    @contextmanager
    def hold(self, principal: Principal | None, size_bytes: int) -> Iterator[None]:
        """Count bytes, such as those of copies of a body, while the block runs.

        Raises `RateLimited` and `ServerBusy`.
        """
        share = self.open(principal)
        if share is None:
            yield
            return
        share.add(size_bytes)
        try:
            yield
        finally:
            share.release()

    def take(self, owner: str, size_bytes: int) -> None:
        """Count bytes. Raises `RateLimited` and `ServerBusy`."""
        used_bytes = self._used_by_owner.get(owner, 0) + size_bytes
        is_public_full = owner == _PUBLIC and used_bytes > PUBLIC_TOTAL_BYTES
        # Slow bodies without an account must not keep out those who log in.
        if is_public_full and self._evict_public_body():
            is_public_full = False
        if is_public_full or self.used_bytes + size_bytes > self.total_bytes:
            raise ServerBusy("The request bodies in progress take all memory that they may take; try again")
        if used_bytes > self.owner_bytes:
            raise RateLimited(
                f"The request bodies of this key or user in progress exceed {self.owner_bytes} bytes; "
                "wait until a request has ended",
                retry_after_s=RETRY_AFTER_S,
            )
        self._used_by_owner[owner] = used_bytes
        self.used_bytes += size_bytes

    def give_back(self, owner: str, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        left_bytes = self._used_by_owner.get(owner, 0) - size_bytes
        if left_bytes > 0:
            self._used_by_owner[owner] = left_bytes
        else:
            self._used_by_owner.pop(owner, None)


class BodyShare:
    """Bytes of one body."""

    __slots__ = ("_budget", "_owner", "_size_bytes")

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget = budget
        self._owner = owner
        self._size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count more bytes. Raises `RateLimited` and `ServerBusy`."""
        self._budget.take(self._owner, size_bytes)
        self._size_bytes += size_bytes

    def release(self) -> None:
        """Give all bytes back; idempotent."""
        if self._size_bytes:
            self._budget.give_back(self._owner, self._size_bytes)
            self._size_bytes = 0
