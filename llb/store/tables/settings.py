"""Key-value settings of the cluster."""

from __future__ import annotations

from collections.abc import Callable

from llb.store.database import Database, Reader, Transaction


async def get(db: Reader, key: str) -> str | None:
    row = await db.fetch_one("SELECT value FROM settings WHERE key = ?", (key,))
    return None if row is None else str(row["value"])


async def put(tx: Transaction, key: str, value: str) -> None:
    await tx.execute(
        "INSERT INTO settings (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


async def get_or_create(db: Database, key: str, make_value: Callable[[], str]) -> str:
    """Value of `key`; the first use stores what `make_value` returns."""
    known = await get(db, key)
    if known is not None:
        return known
    async with db.write() as tx:
        await tx.execute("INSERT OR IGNORE INTO settings (key, value) VALUES (?, ?)", (key, make_value()))
        value = await get(tx, key)
    assert value is not None  # noqa: S101  # inserted just now
    return value
