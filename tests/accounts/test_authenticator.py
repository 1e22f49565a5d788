"""Authenticator: the end of sessions, the cache, and the times of last use."""

from __future__ import annotations

import pytest

from llb.accounts.authenticator import CACHE_TTL_S, SESSION_IDLE_S, SESSION_MAX_S, AccountAuthenticator
from llb.errors import InvalidApiKey
from llb.security import permissions, tokens
from llb.store.tables import keys, sessions
from llb.wire import Role, Scope
from tests.api.http_server import ApiServer


async def test_a_session_ends_by_idleness_and_by_age(server: ApiServer) -> None:
    _, cookie = await server.log_in()
    token = cookie.removeprefix("llb_session=")
    session = await sessions.get(server.db, tokens.hash_token(token))
    assert session is not None
    now = session.created_at

    async def lives(after_s: float) -> bool:
        return (
            await AccountAuthenticator(server.db, clock=lambda: now + after_s).authenticate_session(token)
            is not None
        )

    assert await lives(SESSION_IDLE_S - 1)
    assert not await lives(SESSION_IDLE_S + 1)
    async with server.db.write() as tx:
        await sessions.update_last_seen(tx, {session.id: now + SESSION_MAX_S - 10})
    assert await lives(SESSION_MAX_S - 1)
    assert not await lives(SESSION_MAX_S + 1)


async def test_the_last_use_is_written_once_a_minute(server: ApiServer) -> None:
    now = 1000.0
    authenticator = AccountAuthenticator(server.db, clock=lambda: now)
    key = (await server.create_key(Scope.ADMIN))[1].removeprefix("Bearer ")

    async def last_use() -> float | None:
        await authenticator.flush()
        stored = await keys.get_by_hash(server.db, tokens.hash_token(key))
        assert stored is not None
        return stored.last_used_at

    await authenticator.authenticate_key(key)
    assert await last_use() == 1000.0
    now += 30
    await authenticator.authenticate_key(key)
    assert await last_use() == 1000.0
    now += 31
    await authenticator.authenticate_key(key)
    assert await last_use() == 1061.0


async def test_a_change_by_another_process_is_seen_within_a_second(server: ApiServer) -> None:
    now = 1000.0
    authenticator = AccountAuthenticator(server.db, clock=lambda: now)
    key = (await server.create_key(Scope.ADMIN))[1].removeprefix("Bearer ")
    principal = await authenticator.authenticate_key(key)
    # As a command on the host does it.
    async with server.db.write() as tx:
        await keys.remove(tx, principal.id)
    assert (await authenticator.authenticate_key(key)).id == principal.id
    now += 1.0
    with pytest.raises(InvalidApiKey):
        await authenticator.authenticate_key(key)


async def test_a_revocation_is_not_undone_by_a_read_that_began_before_it(server: ApiServer) -> None:
    authenticator = AccountAuthenticator(server.db, clock=lambda: 1000.0)
    principal = permissions.Principal(kind=permissions.PrincipalKind.KEY, id="k", role=Role.ADMIN)

    async def read_before(_: str) -> permissions.Principal | None:
        # The key is revoked during the lookup.
        authenticator.clear_cache()
        return principal

    async def read_after(_: str) -> permissions.Principal | None:
        return None

    assert await authenticator._look_up("hash", read_before) is principal
    assert await authenticator._look_up("hash", read_after) is None


async def test_a_clock_that_is_set_back_lengthens_no_trust(server: ApiServer) -> None:
    now = 10_000.0
    authenticator = AccountAuthenticator(server.db, clock=lambda: now)
    key = (await server.create_key(Scope.ADMIN))[1].removeprefix("Bearer ")
    await authenticator.authenticate_key(key)
    assert authenticator.trusted_s(key) == CACHE_TTL_S
    now = 1000.0
    assert authenticator.trusted_s(key) <= CACHE_TTL_S
