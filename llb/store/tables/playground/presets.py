"""Presets of the users: named settings of conversations."""

from __future__ import annotations

import msgspec

from llb.store.database import Reader, Transaction
from llb.wire import ChatSettings, Preset


async def list_presets(db: Reader, user_id: str) -> list[Preset]:
    """All presets of a user, by name."""
    rows = await db.fetch_all(
        "SELECT * FROM presets WHERE user_id = ? ORDER BY name COLLATE NOCASE, id", (user_id,)
    )
    return [
        Preset(
            id=row["id"],
            name=row["name"],
            settings=msgspec.json.decode(row["settings"], type=ChatSettings),
            models=msgspec.json.decode(row["models"], type=tuple[str, ...]),
        )
        for row in rows
    ]


async def put(tx: Transaction, user_id: str, preset: Preset) -> None:
    """Insert or replace a preset."""
    await tx.execute(
        "INSERT INTO presets (user_id, id, name, settings, models) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (user_id, id) DO UPDATE SET "
        "name = excluded.name, settings = excluded.settings, models = excluded.models",
        (
            user_id,
            preset.id,
            preset.name,
            msgspec.json.encode(preset.settings).decode(),
            msgspec.json.encode(preset.models).decode(),
        ),
    )


async def remove(tx: Transaction, user_id: str, preset_id: str) -> bool:
    """Delete a preset; returns False for an unknown one."""
    return bool(await tx.execute("DELETE FROM presets WHERE user_id = ? AND id = ?", (user_id, preset_id)))
