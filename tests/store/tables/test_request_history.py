"""Requests and their texts: pages, filters, the deletion of old ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from msgspec import structs

from llb.store.database import Database
from llb.store.tables import keys, nodes, request_history, usage, users
from llb.store.tables.request_history import (
    MICROSECONDS_PER_S,
    OwnerFilter,
    RequestFilter,
    RequestOwner,
    RequestRow,
)
from llb.wire import RequestText, Role, Scope, UsageBucket, UsageBy
from tests.store.tables.request_rows import DAY_S, EVERYBODY, HOUR_S, NOON, at, failed, keep, request, totals


async def ids(
    db: Database, wanted: RequestFilter = request_history.MATCH_ALL, whose: OwnerFilter = EVERYBODY
) -> list[int]:
    return [record.id for record in await request_history.list_page(db, whose, wanted)]


# --- requests ----------------------------------------------------------------------------------------


async def test_stored_requests_are_read_back(db: Database) -> None:
    good, bad = request(has_text=True), failed(key_id=None, user_id=None, model=None, stream=False)
    await keep(db, good, bad)
    assert await request_history.list_page(db, EVERYBODY) == [bad, good]
    assert await request_history.get(db, EVERYBODY, good.id) == good
    assert await request_history.get(db, EVERYBODY, good.id - 1) is None


async def test_a_request_whose_id_is_taken_is_skipped(db: Database) -> None:
    first = request()
    await keep(db, first, request(id=first.id, model="other"), second := request())
    assert await ids(db) == [second.id, first.id]


async def test_pages_newest_first(db: Database) -> None:
    records = [request() for _ in range(5)]
    await keep(db, *records)
    page = await request_history.list_page(db, EVERYBODY, limit=2)
    assert page == [records[4], records[3]]
    rest = await request_history.list_page(db, EVERYBODY, before_id=page[-1].id)
    assert rest == [records[2], records[1], records[0]]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (RequestFilter(), "edcba"),
        (RequestFilter(key_id="k2"), "b"),
        (RequestFilter(request_id="r2"), "b"),
        (RequestFilter(model="m2"), "c"),
        (RequestFilter(node_id="n2"), "d"),
        (RequestFilter(failed=True), "e"),
        (RequestFilter(failed=False), "dcba"),
        (RequestFilter(model="m", failed=False), "dba"),
        (RequestFilter(since=NOON + 2, until=NOON + 4), "dc"),
        (RequestFilter(model="m2", key_id="k2"), ""),
    ],
)
async def test_filters(db: Database, wanted: RequestFilter, found: str) -> None:
    a = at(NOON)
    b = at(NOON + 1, key_id="k2", request_id="r2")
    c = at(NOON + 2, model="m2")
    d = at(NOON + 3, node_id="n2")
    e = failed(id=int((NOON + 4) * MICROSECONDS_PER_S))
    await keep(db, a, b, c, d, e)
    names = {a.id: "a", b.id: "b", c.id: "c", d.id: "d", e.id: "e"}
    assert "".join(names[record_id] for record_id in await ids(db, wanted)) == found


async def test_owner_filter(db: Database) -> None:
    session, key, other = request(key_id=None, user_id="ann"), request(user_id="ann"), request(key_id="x")
    await keep(db, session, key, other)
    ann = OwnerFilter(user_id="ann")
    assert await ids(db, whose=ann) == [key.id, session.id]
    assert await ids(db, RequestFilter(key_id="x"), ann) == []
    assert await ids(db, whose=OwnerFilter(key_id="x")) == [other.id]
    assert await request_history.get(db, ann, key.id) == key
    assert await request_history.get(db, ann, other.id) is None


@pytest.mark.parametrize("whose", [EVERYBODY, OwnerFilter(user_id="u"), OwnerFilter(key_id="k")])
@pytest.mark.parametrize("failed", [None, True, False])
@pytest.mark.parametrize("cursor", [None, 9])
@pytest.mark.parametrize("given", [*itertools.product((False, True), repeat=3)])
async def test_no_page_reads_the_whole_table(
    db: Database, whose: OwnerFilter, failed: bool | None, cursor: int | None, given: tuple[bool, ...]
) -> None:
    values = {
        name: "x" for name, is_given in zip(("key_id", "model", "node_id"), given, strict=True) if is_given
    }
    wanted = RequestFilter(**values, failed=failed, since=1.0, until=2.0)
    query, parameters = request_history.build_page_query(whose, wanted, limit=10, before_id=cursor)
    plan = [row["detail"] for row in await db.fetch_all(f"EXPLAIN QUERY PLAN {query}", parameters)]
    [step] = [detail for detail in plan if "requests" in detail]
    assert step.startswith("SEARCH requests USING")
    assert not [detail for detail in plan if "TEMP B-TREE" in detail or detail.startswith("SCAN")]
    narrow = bool(values) or whose != EVERYBODY
    if narrow:
        assert "=?" in step
    if failed and narrow:
        assert "requests_failed_by_" in step


async def test_of_several_filters_the_most_selective_is_searched(db: Database) -> None:
    query, parameters = request_history.build_page_query(
        EVERYBODY, RequestFilter(node_id="n", model="m", key_id="k"), limit=10
    )
    plan = [row["detail"] for row in await db.fetch_all(f"EXPLAIN QUERY PLAN {query}", parameters)]
    assert plan[0].startswith("SEARCH requests USING INDEX requests_by_key_id")
    wanted = RequestFilter(key_id="k", request_id="r")
    query, parameters = request_history.build_page_query(OwnerFilter(user_id="u"), wanted, limit=10)
    plan = [row["detail"] for row in await db.fetch_all(f"EXPLAIN QUERY PLAN {query}", parameters)]
    assert plan[0].startswith("SEARCH requests USING INDEX requests_by_request_id")


# --- names -------------------------------------------------------------------------------------------


async def test_names_are_current_and_outlive_keys_and_users(db: Database) -> None:
    person = users.User(
        id="u", username="ann", password_hash="", role=Role.ADMIN, must_change_password=False, created_at=1
    )
    key = keys.ApiKey(
        id="k", name="laptop", hash="h", prefix="sk-", scopes=frozenset({Scope.ADMIN}), owner_id="u",
        expires_at=None, created_at=1.0,
    )  # fmt: skip
    async with db.write() as tx:
        await users.add(tx, person)
        await users.add(tx, users.User(**{**_fields(person), "id": "other", "username": "other"}))
        await keys.add(tx, key)
        await nodes.ensure_local(tx, "n", "attic")
    await keep(db, request())

    async def names() -> tuple[str | None, ...]:
        [record] = await request_history.list_page(db, EVERYBODY)
        [used] = await usage.list_totals(
            db, EVERYBODY, by=UsageBy.KEY, bucket=UsageBucket.DAY, since=0, until=2**40, limit=9
        )
        assert (used.key, used.user_id) == ("k", "u")
        assert (used.name, used.username) == (record.key_name, record.username)
        return record.key_name, record.username, record.node_name

    assert await names() == ("laptop", "ann", "attic")
    async with db.write() as tx:
        node = await nodes.get(tx, "n")
        assert node is not None
        await nodes.put(tx, structs.replace(node, name="cellar"))
        # Also removes the key of the user.
        await users.remove(tx, "u")
        await nodes.mark_removed(tx, "n")
    assert await keys.list_keys(db) == []
    assert await names() == ("laptop", "ann", "cellar")


def _fields(user: users.User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in user.__struct_fields__}


async def test_a_name_is_deleted_with_the_last_total_that_needs_it(db: Database) -> None:
    async with db.write() as tx:
        for name in ("old", "new"):
            await tx.execute("INSERT INTO former_names (id, name) VALUES (?, ?)", (name, name))
    await keep(db, at(NOON - 2 * DAY_S, key_id="old"), at(NOON, key_id="new"))
    async with db.write() as tx:
        await usage.prune(tx, hours_before=NOON - 60, days_before=NOON - DAY_S)
    assert [row["id"] for row in await db.fetch_all("SELECT id FROM former_names")] == ["new"]


# --- deleting ----------------------------------------------------------------------------------------

TEXT = RequestText(prompt="user: hi", prompt_truncated=True, answer="hello")


async def keep_text(db: Database, *records: RequestRow) -> None:
    async with db.write() as tx:
        await request_history.add_texts(tx, [(record.id, TEXT) for record in records])


async def test_the_oldest_are_deleted_first_in_steps_with_their_text(db: Database) -> None:
    records = [request(has_text=True) for _ in range(5)]
    await keep(db, *records)
    await keep_text(db, *records)
    removed = []
    for _ in range(3):
        async with db.write() as tx:
            removed.append(await request_history.prune(tx, before_id=records[3].id, limit=2))
    assert removed == [2, 1, 0]
    assert await ids(db) == [records[4].id, records[3].id]
    assert await request_history.get_text(db, records[3].id) == TEXT
    assert await request_history.get_text(db, records[2].id) is None
    assert [count for _, _, count in await totals(db)] == [5]


async def test_of_each_owner_the_oldest_are_deleted_first(db: Database) -> None:
    owners = [("ann", "k1"), ("ann", None), (None, "k2"), (None, None)]
    records = [
        request(user_id=user_id, key_id=key_id, has_text=number >= 4)
        for number, (user_id, key_id) in enumerate(owners * 2)
    ]
    await keep(db, *records)
    await keep_text(db, *records[4:])
    by_owner = await request_history.count_by_owner(db)
    ann, key, host = RequestOwner("ann", None), RequestOwner(None, "k2"), RequestOwner(None, None)
    assert by_owner == {ann: 4, key: 2, host: 2}
    assert await request_history.count_by_owner(db, with_text=True) == {ann: 2, key: 1, host: 1}
    assert await request_history.count_requests(db) == 8
    assert await request_history.count_requests(db, with_text=True) == 4
    async with db.write() as tx:
        assert await request_history.prune_owner(tx, ann, limit=3) == 3
        assert await request_history.prune_owner(tx, key, limit=1, with_text=True) == 1
        assert await request_history.prune_owner(tx, host, limit=5) == 2
    left = {record.id: record.has_text for record in await request_history.list_page(db, EVERYBODY)}
    assert left == {records[5].id: True, records[2].id: False, records[6].id: False}
    assert await request_history.get_text(db, records[5].id) == TEXT
    for gone in (4, 6, 7):
        assert await request_history.get_text(db, records[gone].id) is None


async def test_requests_of_a_clock_that_was_ahead_move_to_now_with_their_texts(db: Database) -> None:
    past = at(NOON - 10)
    future = [at(NOON + 30 * 365 * DAY_S + n, has_text=True, model=f"m{n}") for n in range(3)]
    await keep(db, past, *future)
    await keep_text(db, *future)
    now_id = NOON * MICROSECONDS_PER_S
    async with db.write() as tx:
        await request_history.restamp_future(tx, now_id=now_id)
    records = await request_history.list_page(db, EVERYBODY)
    assert [record.model for record in records] == ["m2", "m1", "m0", "m"]
    assert [record.id for record in records] == [
        now_id,
        now_id - MICROSECONDS_PER_S,
        now_id - 2 * MICROSECONDS_PER_S,
        past.id,
    ]
    assert await request_history.get_text(db, now_id) == TEXT
    # Hours ahead are left to pass.
    soon = at(NOON + 3 * HOUR_S)
    await keep(db, soon)
    async with db.write() as tx:
        await request_history.restamp_future(tx, now_id=now_id)
    assert (await ids(db))[0] == soon.id
