"""API keys: owners, names, limits."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import keys, users
from llb.wire import Role, Scope


def _user(name: str, role: Role = Role.USER, *, default_password: bool = False) -> users.User:
    return users.User(
        id=f"id-{name}",
        username=name,
        password_hash=f"hash of {name}",
        role=role,
        must_change_password=default_password,
        created_at=1.0,
    )


def _key(name: str, owner_id: str | None = None) -> keys.ApiKey:
    return keys.ApiKey(
        id=f"id-{name}",
        name=name,
        hash=f"hash of {name}",
        prefix="sk-1234567",
        scopes=frozenset({Scope.INFERENCE, Scope.MODELS_READ}),
        owner_id=owner_id,
        expires_at=5.0,
        created_at=1.0,
    )


async def _add(db: Database, *accounts: users.User) -> None:
    async with db.write() as tx:
        for person in accounts:
            await users.add(tx, person)


async def test_a_key_has_the_current_role_of_its_owner(db: Database) -> None:
    await _add(db, _user("ann", Role.ADMIN), _user("bob", Role.ADMIN))
    async with db.write() as tx:
        await keys.add(tx, _key("k", "id-bob"))
        await keys.update_last_used(tx, {"id-k": 7.0})
        await users.set_role(tx, "id-bob", Role.USER)
    key = await keys.get_by_hash(db, "hash of k")
    assert key is not None
    assert key == await keys.get(db, "id-k")
    assert (key.owner_name, key.owner_role, key.last_used_at) == ("bob", Role.USER, 7.0)
    assert key.scopes == {Scope.INFERENCE, Scope.MODELS_READ}
    async with db.write() as tx:
        assert await keys.remove(tx, "id-k")
        assert not await keys.remove(tx, "id-k")
    assert await keys.get_by_hash(db, "hash of k") is None
