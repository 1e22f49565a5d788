"""Sessions: their users, their ends."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import sessions, users
from llb.wire import Role


def _user(name: str, role: Role = Role.USER, *, default_password: bool = False) -> users.User:
    return users.User(
        id=f"id-{name}",
        username=name,
        password_hash=f"hash of {name}",
        role=role,
        must_change_password=default_password,
        created_at=1.0,
    )


async def _add(db: Database, *accounts: users.User) -> None:
    async with db.write() as tx:
        for person in accounts:
            await users.add(tx, person)


async def test_a_session_knows_its_user_and_ends_in_every_way(db: Database) -> None:
    await _add(db, _user("ann", Role.ADMIN, default_password=True))
    async with db.write() as tx:
        for name, expires_at in (("old", 10.0), ("idle", 100.0), ("used", 100.0), ("gone", 100.0)):
            await sessions.add(
                tx, session_id=name, user_id="id-ann", now=1, expires_at=expires_at, address="10.0.0.1"
            )
        await sessions.update_last_seen(tx, {"used": 15.0, "unknown": 1.0})
        # A late update never decreases the time.
        await sessions.update_last_seen(tx, {"used": 14.0})
        assert await sessions.remove(tx, "gone")
        assert not await sessions.remove(tx, "gone")
        assert await sessions.remove_expired(tx, now=20, idle_s=10) == 2
    session = await sessions.get(db, "used")
    assert session == sessions.Session(
        id="used",
        user_id="id-ann",
        username="ann",
        role=Role.ADMIN,
        must_change_password=True,
        created_at=1.0,
        expires_at=100.0,
        last_seen=15.0,
        address="10.0.0.1",
    )
    async with db.write() as tx:
        assert await sessions.remove_by_user(tx, "id-ann") == 1
    assert await sessions.get(db, "used") is None
