"""Key service: who may limit and revoke a key, how many there may be, what the audit log says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.accounts import key_service
from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_service import KeyService
from llb.errors import KeyLimitReached, NotFound, PermissionDenied
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import audit, keys, users
from llb.store.tables.keys import ApiKey
from llb.store.tables.users import User
from llb.wire import KeyLimits, KeyLimitsPatch, NewKey, Role, Scope


def session_of(name: str, role: Role = Role.USER) -> Principal:
    return Principal(kind=PrincipalKind.SESSION, id=f"s-{name}", role=role, user_id=name, username=name)


ANN, BOB, EVE = session_of("ann", Role.ADMIN), session_of("bob"), session_of("eve")


class KeyMaker:
    """The service on a database with an admin and two users."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.authenticator = AccountAuthenticator(db)
        self.service = KeyService(db, self.authenticator)

    async def create(self, actor: Principal, name: str = "k", *scopes: Scope) -> tuple[str, ApiKey]:
        new_key, record = await self.service.create_key(actor, NewKey(name, scopes=scopes or None), None)
        return new_key.key, record

    async def audit_trail(self) -> list[tuple[str, str, str | None]]:
        records = await audit.list_newest(self.db)
        return [(record.actor, record.action, record.target) for record in reversed(records)]


@pytest.fixture
async def maker(tmp_path: Path) -> AsyncIterator[KeyMaker]:
    db = await Database.open(tmp_path / "llb.db")
    async with db.write() as tx:
        for principal in (ANN, BOB, EVE):
            name = principal.id.removeprefix("s-")
            user = User(
                id=name,
                username=name,
                password_hash="h",
                role=principal.role,
                must_change_password=False,
                created_at=1.0,
            )
            await users.add(tx, user)
    yield KeyMaker(db)
    await db.close()


async def test_a_key_of_another_user_is_not_there(maker: KeyMaker) -> None:
    _, record = await maker.create(BOB)
    for refused in (
        maker.service.revoke_key(EVE, record.id, None),
        maker.service.change_limits(EVE, record.id, None, None),
        maker.service.revoke_key(EVE, "nothing", None),
    ):
        with pytest.raises(NotFound, match="There is no such API key"):
            await refused
    assert (await maker.service.revoke_key(ANN, record.id, None))[1] == 0
    assert await keys.list_keys(maker.db) == []


async def test_a_revocation_takes_what_came_from_the_key_and_counts_it(maker: KeyMaker) -> None:
    secret, parent = await maker.create(ANN, "parent", Scope.ADMIN)
    principal = await maker.authenticator.authenticate_key(secret)
    child_secret, _ = await maker.create(principal, "child", Scope.ADMIN)
    await maker.create(await maker.authenticator.authenticate_key(child_secret), "grandchild")
    _, other = await maker.create(ANN, "other")
    assert (await maker.service.revoke_key(ANN, parent.id, None))[1] == 2
    assert [key.id for key in await keys.list_keys(maker.db)] == [other.id]
    assert (await maker.audit_trail())[-1] == (
        "ann", "key.delete", f"parent ({parent.prefix}…) and 2 made with it"
    )  # fmt: skip


async def test_limits_are_changed_one_by_one_and_cleared_together(maker: KeyMaker) -> None:
    secret, record = await maker.create(BOB)
    principal = await maker.authenticator.authenticate_key(secret)
    assert not principal.allowances
    await maker.service.change_limits(BOB, record.id, KeyLimitsPatch(concurrent=2), None)
    changed = await maker.service.change_limits(BOB, record.id, KeyLimitsPatch(tokens_per_minute=9), None)
    assert changed.limits == KeyLimits(tokens_per_minute=9, concurrent=2)
    # The change holds at once, whatever the authenticator remembers.
    assert (await maker.authenticator.authenticate_key(secret)).limits == changed.limits
    cleared = await maker.service.change_limits(BOB, record.id, None, None)
    assert cleared == await keys.get(maker.db, record.id)
    assert [target for _, action, target in await maker.audit_trail() if action == "key.limits"] == [
        f"k ({record.prefix}…): 2 at the same time",
        f"k ({record.prefix}…): 9 tokens a minute, 2 at the same time",
        f"k ({record.prefix}…): no limits",
    ]


async def test_a_refused_change_is_neither_stored_nor_noted(maker: KeyMaker) -> None:
    _, record = await maker.create(BOB)
    await maker.service.change_limits(ANN, record.id, KeyLimitsPatch(concurrent=2), None)
    before = await maker.audit_trail()
    with pytest.raises(PermissionDenied, match="at most: 2 at the same time"):
        await maker.service.change_limits(BOB, record.id, KeyLimitsPatch(concurrent=3), None)
    assert await maker.audit_trail() == before
    stored = await keys.get(maker.db, record.id)
    assert stored is not None
    assert stored.limits == stored.ceiling == KeyLimits(concurrent=2)


async def test_each_owner_has_a_number_of_keys_of_its_own(
    maker: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_service, "MAX_KEYS_OF_USER", 2)
    monkeypatch.setattr(key_service, "MAX_KEYS_OF_ADMIN", 3)
    for _ in range(2):
        await maker.create(BOB)
    with pytest.raises(KeyLimitReached):
        await maker.create(BOB)
    await maker.create(EVE)
    for _ in range(3):
        await maker.create(ANN)
    with pytest.raises(KeyLimitReached):
        await maker.create(ANN)
    # The host itself has no limit; the keys that one of its keys makes have one together.
    secret, _ = await maker.create(LOCAL_PRINCIPAL, "host", Scope.ADMIN)
    of_host = await maker.authenticator.authenticate_key(secret)
    for _ in range(3):
        await maker.create(of_host)
    with pytest.raises(KeyLimitReached):
        await maker.create(of_host)
    await maker.create(LOCAL_PRINCIPAL)


async def test_expired_keys_make_room_only_where_it_is_needed(
    maker: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_service, "MAX_KEYS_OF_USER", 2)
    _, old = await maker.create(BOB, "old")
    async with maker.db.write() as tx:
        await tx.execute("UPDATE api_keys SET expires_at = 1 WHERE id = ?", (old.id,))
    await maker.create(BOB, "first")
    assert [key.name for key in await keys.list_keys(maker.db)] == ["old", "first"]
    await maker.create(BOB, "second")
    assert [key.name for key in await keys.list_keys(maker.db)] == ["first", "second"]
