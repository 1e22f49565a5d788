"""Join tokens: valid once, until they expire."""

from __future__ import annotations

import asyncio

from llb.store.database import Database
from llb.store.tables import join_tokens
from llb.store.tables.join_tokens import RETENTION_S, TokenRejection


async def add(db: Database, name: str, *, now: float = 0.0) -> None:
    async with db.write() as tx:
        await join_tokens.add(tx, name, created_by="ann", now=now, expires_at=now + 60.0)


async def consume(db: Database, name: str, now: float) -> TokenRejection | None:
    async with db.write() as tx:
        return await join_tokens.consume(tx, name, now)


async def test_a_token_lets_one_host_in(db: Database) -> None:
    await add(db, "t")
    results = await asyncio.gather(*(consume(db, "t", 59.9) for _ in range(3)))
    assert sorted(results, key=str) == [None, TokenRejection.USED, TokenRejection.USED]
    assert await consume(db, "another", 1.0) is TokenRejection.UNKNOWN


async def test_a_token_ends_on_the_second(db: Database) -> None:
    await add(db, "t")
    assert await consume(db, "t", 60.0) is TokenRejection.EXPIRED
    # A refusal does not use it.
    assert await consume(db, "t", 59.0) is None
    assert await consume(db, "t", 61.0) is TokenRejection.USED


async def test_an_old_token_is_told_for_a_week(db: Database) -> None:
    await add(db, "old")
    await add(db, "next", now=60.0 + RETENTION_S)
    assert await consume(db, "old", 1e9) is TokenRejection.EXPIRED
    await add(db, "last", now=60.1 + RETENTION_S)
    assert await consume(db, "old", 1e9) is TokenRejection.UNKNOWN
