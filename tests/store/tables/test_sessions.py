"""Sessions: their users, their ends."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import sessions
from llb.wire import Role
from tests.store.tables.people import add_users, make_user


async def test_a_session_knows_its_user_and_ends_in_every_way(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN, default_password=True))
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


async def test_of_too_many_sessions_those_that_were_used_last_stay(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob"))
    async with db.write() as tx:
        for number, (name, last_seen) in enumerate((("a", 5.0), ("b", 9.0), ("c", 5.0), ("d", 1.0))):
            await sessions.add(
                tx, session_id=name, user_id="id-ann", now=number * 0.1, expires_at=99, address=None
            )
            await sessions.update_last_seen(tx, {name: last_seen})
        await sessions.add(tx, session_id="bob", user_id="id-bob", now=0, expires_at=99, address=None)
        assert await sessions.remove_excess(tx, "id-ann", 2) == 2
    left = await sessions.list_by_ids(db, ["a", "b", "c", "d", "bob"])
    # Of two that were used at the same time the newer one.
    assert {session.id for session in left} == {"b", "c", "bob"}


async def test_the_addresses_of_a_user_newest_first(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob"))
    async with db.write() as tx:
        for number, address in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.1", None)):
            await sessions.add(
                tx, session_id=f"{number}", user_id="id-ann", now=number, expires_at=99, address=address
            )
        await sessions.add(tx, session_id="b", user_id="id-bob", now=9, expires_at=99, address="10.0.0.9")
    assert await sessions.list_addresses(db, "id-ann") == ["10.0.0.1", "10.0.0.2"]
    assert await sessions.list_addresses(db, "id-ann", limit=1) == ["10.0.0.1"]
    assert await sessions.list_addresses(db, "nobody") == []
