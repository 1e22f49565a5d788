"""Users: their names, passwords and roles, and what goes with them."""

from __future__ import annotations

import asyncio

import pytest

from llb.errors import Conflict, NotFound
from llb.store.database import Database
from llb.store.tables import keys, sessions, users
from llb.wire import Role
from tests.store.tables.people import add_users, make_key, make_user


async def test_a_user_is_found_whatever_the_case_of_the_name(db: Database) -> None:
    ann = make_user("Ann", Role.ADMIN)
    await add_users(db, ann)
    assert await users.get_by_name(db, "aNN") == ann
    assert await users.get(db, ann.id) == ann
    assert await users.list_users(db) == [ann]
    assert await users.get_by_name(db, "Bob") is None
    with pytest.raises(Conflict, match="'ann' exists"):
        await add_users(db, make_user("ann"))


async def test_a_new_password_replaces_the_default_one(db: Database) -> None:
    await add_users(db, make_user("admin", Role.ADMIN, default_password=True))
    assert await users.is_default_password_in_use(db)
    async with db.write() as tx:
        await users.set_password(tx, "id-admin", "new")
    admin = await users.get(db, "id-admin")
    assert admin is not None
    assert (admin.password_hash, admin.must_change_password) == ("new", False)
    assert not await users.is_default_password_in_use(db)
    with pytest.raises(NotFound):
        async with db.write() as tx:
            await users.set_password(tx, "nobody", "new")


async def test_a_rehash_does_not_undo_a_change_of_the_password(db: Database) -> None:
    await add_users(db, make_user("admin", Role.ADMIN))
    async with db.write() as tx:
        await users.rehash_password(tx, "id-admin", "an older hash", "wrong")
        await users.rehash_password(tx, "id-admin", "hash of admin", "stronger")
    admin = await users.get(db, "id-admin")
    assert admin is not None
    assert admin.password_hash == "stronger"


async def test_the_last_admin_stays_even_when_two_leave_at_once(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob", Role.ADMIN), make_user("eve"))

    async def demote(user_id: str) -> None:
        async with db.write() as tx:
            await users.set_role(tx, user_id, Role.USER)

    async def remove(user_id: str) -> None:
        async with db.write() as tx:
            await users.remove(tx, user_id)

    results = await asyncio.gather(demote("id-ann"), remove("id-bob"), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [Conflict]
    assert [user.role for user in await users.list_users(db)].count(Role.ADMIN) == 1
    with pytest.raises(NotFound):
        await remove("nobody")
    with pytest.raises(NotFound):
        await demote("nobody")


async def test_removing_a_user_removes_the_sessions_and_keys(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob"))
    async with db.write() as tx:
        for name in ("ann", "bob"):
            await sessions.add(
                tx, session_id=f"s-{name}", user_id=f"id-{name}", now=1, expires_at=9, address=None
            )
            await keys.add(tx, make_key(name, f"id-{name}"))
        await keys.add(tx, make_key("host"))
    async with db.write() as tx:
        await users.remove(tx, "id-bob")
    assert await sessions.get(db, "s-bob") is None
    assert await sessions.get(db, "s-ann") is not None
    assert [key.name for key in await keys.list_keys(db)] == ["ann", "host"]
