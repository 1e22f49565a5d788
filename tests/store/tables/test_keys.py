"""API keys: owners, names, limits."""

from __future__ import annotations

from typing import Any

import pytest

from llb.store.database import Database
from llb.store.tables import keys, users
from llb.wire import KeyLimits, Role, Scope
from tests.store.tables.people import add_keys, add_users, make_key, make_user


async def test_a_key_has_the_current_role_of_its_owner(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob", Role.ADMIN))
    async with db.write() as tx:
        await keys.add(tx, make_key("k", "id-bob"))
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


async def test_limits_are_stored_and_taken_away(db: Database) -> None:
    made = make_key("k", limits=KeyLimits(concurrent=2), ceiling=KeyLimits(tokens_per_minute=9))
    await add_keys(db, made)
    assert await keys.get(db, "id-k") == made
    async with db.write() as tx:
        await keys.set_limits(tx, "id-k", KeyLimits(), KeyLimits())
    assert await keys.list_by_ids(db, ["id-k", "nothing"]) == [make_key("k")]


async def test_the_list_is_in_order_of_creation_and_has_pages(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN))
    # Two of one second are in the order of their ids.
    await add_keys(
        db,
        make_key("c", created_at=1.0, owner_id="id-ann"),
        make_key("b", created_at=2.0),
        make_key("a", created_at=2.0, owner_id="id-ann"),
    )

    async def names(**query: Any) -> str:
        return "".join(key.name for key in await keys.list_keys(db, **query))

    assert await names() == "cab"
    assert await names(newest_first=True) == "bac"
    assert await names(owner_id="id-ann") == "ca"
    assert await names(limit=1) == "c"
    assert await names(after=keys.KeyCursor(2.0, "id-a")) == "b"
    assert await names(after=keys.KeyCursor(2.0, "id-a"), newest_first=True) == "c"
    assert await names(after=keys.KeyCursor(2.0, "id-b")) == ""


@pytest.mark.parametrize(
    ("reference", "name", "prefix", "found"),
    [
        # An id or a hash before a name, a name before a prefix.
        ("id-a", "b", "sk-1", ["a"]),
        ("hash of a", "b", "", ["a"]),
        ("nothing", "b", "sk-a", ["b", "b"]),
        ("nothing", "nobody", "sk-a", ["a"]),
        ("nothing", "nobody", "sk-", ["a", "b", "b"]),
        ("nothing", "nobody", "", []),
        # A prefix is no pattern.
        ("nothing", "nobody", "%", []),
        ("nothing", "nobody", "sk-_", []),
    ],
)
async def test_a_key_is_found_by_what_a_person_knows(
    db: Database, reference: str, name: str, prefix: str, found: list[str]
) -> None:
    await add_keys(
        db,
        make_key("a", prefix="sk-aaaaaaa"),
        make_key("b", prefix="sk-bbbbbbb"),
        make_key("b", id="second", hash="other", prefix="sk-ccccccc"),
    )
    keys_found = await keys.find(db, id_or_hash=(reference, reference), name=name, prefix=prefix)
    assert [key.name for key in keys_found] == found


async def test_keys_that_made_one_another(db: Database) -> None:
    names = [f"{number}" for number in range(keys.MAX_GENERATIONS + 1)]
    parents = [None, *(f"id-{name}" for name in names)]
    await add_keys(
        db, *(make_key(name, parent_id=parent) for name, parent in zip(names, parents, strict=False))
    )
    await add_keys(db, make_key("other", parent_id="id-0"))
    last, first = await keys.get(db, f"id-{names[-1]}"), await keys.get(db, "id-0")
    assert last is not None
    assert first is not None
    assert [key.name for key in await keys.list_ancestors(db, last)] == names[-2::-1]
    assert await keys.list_ancestors(db, first) == []
    assert await keys.count_descendants(db, "id-0") == len(names)
    assert await keys.count_descendants(db, "id-other") == 0
    async with db.write() as tx:
        assert await keys.remove(tx, "id-1")
    assert [key.name for key in await keys.list_keys(db)] == ["0", "other"]


async def test_what_has_expired_is_removed_of_one_owner(db: Database) -> None:
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob"))
    await add_keys(
        db,
        make_key("old", "id-bob", expires_at=10.0),
        make_key("new", "id-bob", expires_at=10.1),
        make_key("ever", "id-bob", expires_at=None),
        make_key("ann", "id-ann", expires_at=1.0),
    )
    assert await keys.count_of_owner(db, "id-bob") == 3
    async with db.write() as tx:
        assert await keys.remove_expired_of_owner(tx, "id-bob", 10.0) == 1
        assert [key.name for key in await keys.remove_by_owner(tx, "id-bob")] == ["new", "ever"]
    assert [key.name for key in await keys.list_keys(db)] == ["ann"]


async def test_a_clock_that_is_set_back_revives_no_key(db: Database) -> None:
    await add_keys(
        db, *(make_key(name, expires_at=at) for name, at in (("a", 5.0), ("b", 20.0), ("c", 99.0)))
    )
    async with db.write() as tx:
        # It was 50 by the clock that was ahead; now it is 10.
        await keys.keep_expired(tx, 50.0, now=10.0)
    assert [key.expires_at for key in await keys.list_keys(db)] == [5.0, 10.0, 99.0]


async def test_a_late_report_of_the_last_use_never_decreases_it(db: Database) -> None:
    await add_keys(db, make_key("k"))
    for at, last_used_at in ((7.0, 7.0), (6.0, 7.0), (8.0, 8.0)):
        async with db.write() as tx:
            await keys.update_last_used(tx, {"id-k": at, "nothing": 1.0})
        key = await keys.get(db, "id-k")
        assert key is not None
        assert key.last_used_at == last_used_at
