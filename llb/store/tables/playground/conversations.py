"""Conversations of the users, with their sizes."""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import UNSET, Struct

from llb.store.database import Reader, Transaction
from llb.wire import ChatSettings, ConversationPatch

PREVIEW_CHARS = 200

_PREVIEW = f"""
    coalesce((SELECT substr(text, 1, {PREVIEW_CHARS}) FROM conversation_messages AS m
        WHERE m.user_id = c.user_id AND m.conversation_id = c.id AND role = 'user' AND text <> ''
        ORDER BY m.created_at, m.rowid LIMIT 1), '') AS preview,
    (SELECT count(*) FROM conversation_messages AS m
        WHERE m.user_id = c.user_id AND m.conversation_id = c.id) AS message_count
"""  # noqa: S608  # constants


class ConversationRow(Struct, frozen=True, kw_only=True):
    """Conversation without its messages."""

    id: str
    title: str
    pinned: bool
    settings: ChatSettings
    leaf_id: str | None
    created_at: float
    updated_at: float


class SummaryRow(Struct, frozen=True, kw_only=True):
    """Conversation in a list."""

    id: str
    title: str
    preview: str
    pinned: bool
    created_at: float
    updated_at: float
    message_count: int


async def list_summaries(db: Reader, user_id: str) -> list[SummaryRow]:
    """All conversations of a user, pinned ones first, then the last changed first."""
    rows = await db.fetch_all(
        f"SELECT id, title, pinned, created_at, updated_at, {_PREVIEW} "  # noqa: S608  # constants
        "FROM conversations AS c WHERE user_id = ? "
        "ORDER BY pinned DESC, updated_at DESC, rowid DESC",
        (user_id,),
    )
    return [_summary_from_row(row) for row in rows]


async def exists(db: Reader, user_id: str, conversation_id: str) -> bool:
    row = await db.fetch_one(
        "SELECT 1 FROM conversations WHERE user_id = ? AND id = ?", (user_id, conversation_id)
    )
    return row is not None


async def get(db: Reader, user_id: str, conversation_id: str) -> ConversationRow | None:
    row = await db.fetch_one(
        "SELECT * FROM conversations WHERE user_id = ? AND id = ?", (user_id, conversation_id)
    )
    if row is None:
        return None
    return ConversationRow(
        id=row["id"],
        title=row["title"],
        pinned=bool(row["pinned"]),
        settings=msgspec.json.decode(row["settings"], type=ChatSettings),
        leaf_id=row["leaf_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def count(db: Reader, user_id: str) -> int:
    row = await db.fetch_one("SELECT count(*) AS number FROM conversations WHERE user_id = ?", (user_id,))
    assert row is not None  # noqa: S101  # an aggregate
    return int(row["number"])


async def used_bytes(db: Reader, user_id: str) -> int:
    """Bytes of all messages and settings of a user."""
    row = await db.fetch_one(
        "SELECT (SELECT coalesce(sum(size_bytes), 0) FROM conversation_messages WHERE user_id = ?) + "
        "(SELECT coalesce(sum(settings_bytes), 0) FROM conversations WHERE user_id = ?) AS size",
        (user_id, user_id),
    )
    assert row is not None  # noqa: S101  # an aggregate
    return int(row["size"])


async def add(
    tx: Transaction, user_id: str, conversation_id: str, *, created_at: float, updated_at: float
) -> bool:
    """Insert an empty conversation; returns False if it exists."""
    inserted = await tx.execute(
        "INSERT INTO conversations (user_id, id, title, pinned, settings, leaf_id, created_at, updated_at) "
        "VALUES (?, ?, '', 0, '{}', NULL, ?, ?) ON CONFLICT DO NOTHING",
        (user_id, conversation_id, created_at, updated_at),
    )
    return bool(inserted)


async def change(tx: Transaction, user_id: str, conversation_id: str, patch: ConversationPatch) -> None:
    """Change the given fields; the time of the last change stays."""
    values: dict[str, object] = {}
    if patch.title is not UNSET:
        values["title"] = patch.title
    if patch.pinned is not UNSET:
        values["pinned"] = int(patch.pinned)
    if patch.settings is not UNSET:
        settings = msgspec.json.encode(patch.settings)
        values |= {"settings": settings.decode(), "settings_bytes": len(settings)}
    if patch.leaf_id is not UNSET:
        values["leaf_id"] = patch.leaf_id
    if values:
        assignments = ", ".join(f"{name} = ?" for name in values)
        await tx.execute(
            f"UPDATE conversations SET {assignments} WHERE user_id = ? AND id = ?",  # noqa: S608  # own names
            (*values.values(), user_id, conversation_id),
        )


async def touch(tx: Transaction, user_id: str, conversation_id: str, now: float) -> None:
    """Set the time of the last change."""
    await tx.execute(
        "UPDATE conversations SET updated_at = ? WHERE user_id = ? AND id = ?",
        (now, user_id, conversation_id),
    )


async def remove(tx: Transaction, user_id: str, conversation_id: str) -> bool:
    """Delete a conversation with its messages; returns False for an unknown one."""
    return bool(
        await tx.execute("DELETE FROM conversations WHERE user_id = ? AND id = ?", (user_id, conversation_id))
    )


def _summary_from_row(row: sqlite3.Row) -> SummaryRow:
    return SummaryRow(
        id=row["id"],
        title=row["title"],
        preview=row["preview"],
        pinned=bool(row["pinned"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        message_count=row["message_count"],
    )
