"""Write limiter: generous at once, bounded for long."""

from __future__ import annotations

import pytest

from llb.accounts.write_limiter import EVICT_ABOVE, WRITES_PER_MINUTE, WriteLimiter
from llb.errors import RateLimited
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.wire import Role


def key(name: str, root: str | None = None) -> Principal:
    return Principal(kind=PrincipalKind.KEY, id=name, role=Role.ADMIN, user_id="ann", root_key_id=root)


def test_a_script_that_makes_many_keys_at_once_is_served_and_a_flood_is_not() -> None:
    now = [0.0]
    limiter = WriteLimiter(clock=lambda: now[0])
    for _ in range(WRITES_PER_MINUTE):
        limiter.count_write(key("k"))
    with pytest.raises(RateLimited) as caught:
        limiter.count_write(key("k"))
    assert caught.value.retry_after_s == 1
    # The keys that it made have the same limit; another key, its user and the host have their own.
    with pytest.raises(RateLimited):
        limiter.count_write(key("child", root="k"))
    limiter.count_write(key("other"))
    limiter.count_write(Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="ann"))
    for _ in range(2 * WRITES_PER_MINUTE):
        limiter.count_write(LOCAL_PRINCIPAL)
    now[0] += 0.25
    limiter.count_write(key("k"))


def test_all_sessions_of_a_user_have_one_limit() -> None:
    limiter = WriteLimiter(clock=lambda: 0.0)
    sessions = [
        Principal(kind=PrincipalKind.SESSION, id=name, role=Role.USER, user_id="ann") for name in ("a", "b")
    ]
    for number in range(WRITES_PER_MINUTE):
        limiter.count_write(sessions[number % 2])
    with pytest.raises(RateLimited):
        limiter.count_write(sessions[0])


def test_idle_principals_are_forgotten_and_busy_ones_are_not() -> None:
    now = [0.0]
    limiter = WriteLimiter(clock=lambda: now[0])
    for number in range(3 * EVICT_ABOVE):
        limiter.count(f"{number}")
        now[0] += 1.0
    assert len(limiter._buckets) <= EVICT_ABOVE
