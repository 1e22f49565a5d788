"""Key-value settings of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from llb.store.database import Database, Reader, Transaction

# Of the settings that were changed while llb ran: JSON of their values by name. Also the table of the owners
# of the secrets among them, see `llb.security.secret_box`.
STORED_SETTINGS = "stored_settings"


async def get(db: Reader, key: str) -> str | None:
    row = await db.fetch_one("SELECT value FROM settings WHERE key = ?", (key,))
    return None if row is None else str(row["value"])


async def put(tx: Transaction, key: str, value: str) -> None:
    await tx.execute(
        "INSERT INTO settings (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


async def get_stored(db: Reader) -> dict[str, str]:
    """Return the stored settings by their names, as their flags take them; secrets encrypted."""
    text = await get(db, STORED_SETTINGS)
    return {} if text is None else msgspec.json.decode(text, type=dict[str, str])


async def put_stored(tx: Transaction, values: Mapping[str, str]) -> None:
    await put(tx, STORED_SETTINGS, msgspec.json.encode(values).decode())


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
