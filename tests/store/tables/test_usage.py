"""Totals by hour and day: groups, periods, limits."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import usage
from llb.store.tables.request_history import (
    MICROSECONDS_PER_S,
    OwnerFilter,
)
from llb.wire import UsageBucket, UsageBy
from tests.store.tables.request_rows import DAY_S, EVERYBODY, HOUR_S, NOON, at, failed, keep, request, totals


async def test_totals_by_hour_and_day(db: Database) -> None:
    await keep(
        db,
        at(NOON + 1),
        at(NOON + HOUR_S - 0.001),
        at(NOON + HOUR_S),
        failed(id=(NOON + HOUR_S + 1) * MICROSECONDS_PER_S),
    )
    await keep(db, at(NOON + DAY_S))
    midnight = NOON - 12 * HOUR_S
    assert await totals(db) == [(NOON, "m", 2), (NOON + HOUR_S, "m", 2), (NOON + DAY_S, "m", 1)]
    assert await totals(db, bucket=UsageBucket.DAY) == [(midnight, "m", 4), (midnight + DAY_S, "m", 1)]
    [first, second, *_] = await usage.list_totals(
        db, EVERYBODY, by=UsageBy.MODEL, bucket=UsageBucket.HOUR, since=0, until=2**40, limit=9
    )
    sums = ("errors", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")
    assert [getattr(first, name) for name in sums] == [0, 20, 8, 10, 200]
    assert [getattr(second, name) for name in sums] == [1, 10, 4, 5, 200]


async def test_totals_by_model_key_and_node(db: Database) -> None:
    await keep(
        db,
        request(model="m1", key_id="k1"),
        request(model="m1", key_id="k2"),
        request(model="m2", key_id=None, user_id="ann"),
        request(model="m2", key_id=None, user_id="bob"),
        failed(model="m2", key_id=None, user_id=None),
        failed(model=None, key_id="k2"),
    )
    assert {key: n for _, key, n in await totals(db)} == {"m1": 2, "m2": 3, None: 1}
    assert {key: n for _, key, n in await totals(db, by=UsageBy.NODE)} == {"n": 4, None: 2}
    by_user = await totals(db, by=UsageBy.USER)
    assert {key: n for _, key, n in by_user} == {"u": 3, "ann": 1, "bob": 1, None: 1}
    by_key = await usage.list_totals(
        db, EVERYBODY, by=UsageBy.KEY, bucket=UsageBucket.HOUR, since=0, until=2**40, limit=9
    )
    assert [(used.key, used.user_id, used.requests) for used in by_key] == [
        ("k2", "u", 2),
        (None, None, 1),
        (None, "ann", 1),
        (None, "bob", 1),
        ("k1", "u", 1),
    ]


async def test_totals_of_one_user_or_key(db: Database) -> None:
    await keep(
        db, request(user_id="ann"), request(user_id="ann", key_id=None), request(key_id="x", node_id=None)
    )
    for by in UsageBy:
        assert sum(n for *_, n in await totals(db, by=by, whose=OwnerFilter(user_id="ann"))) == 2
        assert sum(n for *_, n in await totals(db, by=by, whose=OwnerFilter(key_id="x"))) == 1


async def test_totals_of_a_period_with_a_limit(db: Database) -> None:
    await keep(db, *(at(NOON + hour * HOUR_S) for hour in range(4)))
    middle = {"since": NOON + HOUR_S, "until": NOON + 3 * HOUR_S}
    assert [start for start, *_ in await totals(db, **middle)] == [NOON + HOUR_S, NOON + 2 * HOUR_S]
    assert [start for start, *_ in await totals(db, limit=2)] == [NOON + 2 * HOUR_S, NOON + 3 * HOUR_S]


async def test_old_totals_are_deleted(db: Database) -> None:
    await keep(db, at(NOON - 2 * DAY_S), at(NOON - DAY_S), at(NOON))
    async with db.write() as tx:
        await usage.prune(tx, hours_before=NOON - 60, days_before=NOON - 2 * DAY_S)
    assert [start for start, *_ in await totals(db)] == [NOON]
    assert len(await totals(db, bucket=UsageBucket.DAY)) == 2
