"""Quarantine of requests that crashed an engine, and of callers who sent several of them.

The state is in the memory of the balancer, which all requests pass. While nothing has crashed lately, the
check takes a few comparisons. Callers are counted by API key or session, and also by user, so that more keys
do not allow more crashes.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from msgspec import Struct, field

from llb.errors import RequestCrashesEngine, TooManyCrashes
from llb.security.permissions import Principal

# A request is refused for this long after its last crash, and a suspected one remembered.
REQUEST_QUARANTINE_S = 1800.0
MAX_REQUESTS = 1000
# Number of crashes with suspicion after which a request counts as the cause.
MAX_SUSPICIONS = 2
# Maximum crashes that a key, and all keys of a user, may cause within the period. Then all their requests
# wait, longer each time. The limit of a user is higher, so that one program does not block the user's others
# at once.
MAX_CALLER_CRASHES, MAX_OWNER_CRASHES = 3, 9
CALLER_PERIOD_S = 600.0
CALLER_WAIT_S, MAX_CALLER_WAIT_S = 60.0, 3600.0
MAX_CALLERS = 1000

_CAUSE = MAX_SUSPICIONS


class _Caller(Struct):
    """Times of the crashes that a caller caused, and the end of its wait."""

    crashes: list[float] = field(default_factory=list)
    wait_s: float = 0.0
    waits_until: float = -math.inf


class _Entry(Struct):
    suspicions: int
    expires_at: float


class Quarantine:
    """Requests, by model and body, and callers that have crashed engines."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Requests in the order of their last crash.
        self._requests: OrderedDict[bytes, _Entry] = OrderedDict()
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def check(self, model_id: str, principal: Principal, body: bytes) -> None:
        """Raise `RequestCrashesEngine` or `TooManyCrashes` for a request that must not reach an engine."""
        if not self._requests and not self._callers:
            return
        now = self._clock()
        self._forget_expired(now)
        for caller_id, max_crashes in _callers_of(principal):
            caller = self._callers.get(caller_id)
            if caller is not None and caller.waits_until > now:
                wait_s = math.ceil(caller.waits_until - now)
                raise TooManyCrashes(
                    f"{max_crashes} or more of your requests have crashed an engine; "
                    f"try again in {wait_s} s, with other requests",
                    retry_after_s=wait_s,
                )
        if not self._requests:
            return
        entry = self._requests.get(_digest(model_id, body))
        if entry is not None and entry.suspicions >= _CAUSE and entry.expires_at > now:
            raise RequestCrashesEngine(model_id)

    def record_crash(self, model_id: str, principal: Principal, body: bytes) -> None:
        """Record that this request, and no other, has crashed an engine."""
        self._record(_digest(model_id, body), _CAUSE)
        for caller_id, max_crashes in _callers_of(principal):
            self._record_caller(caller_id, max_crashes)

    def _record_caller(self, caller_id: str, max_crashes: int) -> None:
        now = self._clock()
        caller = self._callers.setdefault(caller_id, _Caller())
        self._callers.move_to_end(caller_id)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)
        caller.crashes = [at for at in caller.crashes if at > now - CALLER_PERIOD_S] + [now]
        if len(caller.crashes) >= max_crashes:
            if now - caller.waits_until > MAX_CALLER_WAIT_S:
                caller.wait_s = 0.0
            caller.wait_s = min(MAX_CALLER_WAIT_S, max(CALLER_WAIT_S, 2 * caller.wait_s))
            caller.waits_until = now + caller.wait_s

    def record_suspicion(self, model_id: str, body: bytes) -> bool:
        """Record that this request may have crashed an engine; returns whether it now counts as the cause."""
        return self._record(_digest(model_id, body), 1) >= _CAUSE

    def record_success(self, model_id: str, body: bytes) -> None:
        """Drop the suspicion against a request that an engine has answered since.

        Otherwise crashes caused by others would put a frequent body into quarantine.
        """
        if not self._requests:
            return
        digest = _digest(model_id, body)
        entry = self._requests.get(digest)
        if entry is not None and entry.suspicions < _CAUSE:
            del self._requests[digest]

    def _forget_expired(self, now: float) -> None:
        """Forget expired entries. Once nothing is left, requests need not be hashed."""
        while self._requests and next(iter(self._requests.values())).expires_at <= now:
            self._requests.popitem(last=False)

    def _record(self, digest: bytes, suspicions: int) -> int:
        now = self._clock()
        entry = self._requests.pop(digest, None)
        if entry is None or entry.expires_at <= now:
            entry = _Entry(0, 0.0)
        entry.suspicions += suspicions
        entry.expires_at = now + REQUEST_QUARANTINE_S
        self._requests[digest] = entry
        if len(self._requests) > MAX_REQUESTS:
            self._requests.popitem(last=False)
        return entry.suspicions


def _callers_of(principal: Principal) -> tuple[tuple[str, int], ...]:
    """Return the callers that a principal counts as, each with its maximum of crashes."""
    key = principal.root_id, MAX_CALLER_CRASHES
    if principal.account_id == principal.root_id:
        return (key,)
    return key, (principal.account_id, MAX_OWNER_CRASHES)


def _digest(model_id: str, body: bytes) -> bytes:
    return blake2b(body, digest_size=16, person=b"quarantine", key=model_id.encode()[:64]).digest()
