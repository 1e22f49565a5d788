"""Metadata of model files by sha256."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables import header_cache


async def test_header_metadata_by_sha256(db: Database) -> None:
    async with db.write() as tx:
        await header_cache.put(tx, "ab", b"one")
        await header_cache.put(tx, "ab", b"two")
    assert await header_cache.get(db, "ab") == b"two"
    assert await header_cache.get(db, "cd") is None
