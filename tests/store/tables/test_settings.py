"""Key-value settings of the cluster."""

from __future__ import annotations

import asyncio

from llb.store.database import Database
from llb.store.tables import settings


async def test_a_value_is_replaced(db: Database) -> None:
    assert await settings.get(db, "k") is None
    async with db.write() as tx:
        await settings.put(tx, "k", "1")
        await settings.put(tx, "k", "2")
    assert await settings.get(db, "k") == "2"


async def test_a_value_is_made_once_whoever_comes_first(db: Database) -> None:
    made = iter("abc")
    values = await asyncio.gather(*(settings.get_or_create(db, "k", lambda: next(made)) for _ in range(3)))
    assert values == ["a", "a", "a"]
    assert await settings.get_or_create(db, "k", lambda: "never") == "a"


async def test_stored_settings_are_one_value(db: Database) -> None:
    assert await settings.get_stored(db) == {}
    async with db.write() as tx:
        await settings.put_stored(tx, {"parallel": "4", "hub_token": "sealed"})
        await settings.put_stored(tx, {"parallel": "2"})
    assert await settings.get_stored(db) == {"parallel": "2"}
