"""Messages of the conversations. The text has a column of its own, which is searched."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any, get_type_hints

import msgspec

from llb.base.timestamps import to_iso
from llb.store.database import Reader, Transaction
from llb.wire import ConversationMessage
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder()
_FIELD_TYPES = get_type_hints(ConversationMessage, include_extras=True)


async def list_messages(db: Reader, user_id: str, conversation_id: str) -> list[ConversationMessage]:
    """All messages, the oldest first."""
    rows = await db.fetch_all(
        "SELECT * FROM conversation_messages WHERE user_id = ? AND conversation_id = ? "
        "ORDER BY created_at, rowid",
        (user_id, conversation_id),
    )
    return [_message_from_row(row) for row in rows]


async def get(db: Reader, user_id: str, conversation_id: str, message_id: str) -> ConversationMessage | None:
    row = await db.fetch_one(
        "SELECT * FROM conversation_messages WHERE user_id = ? AND conversation_id = ? AND id = ?",
        (user_id, conversation_id, message_id),
    )
    return None if row is None else _message_from_row(row)


async def list_ids(db: Reader, user_id: str, conversation_id: str) -> set[str]:
    rows = await db.fetch_all(
        "SELECT id FROM conversation_messages WHERE user_id = ? AND conversation_id = ?",
        (user_id, conversation_id),
    )
    return {row["id"] for row in rows}


async def put(
    tx: Transaction, user_id: str, conversation_id: str, message: ConversationMessage, created_at: float
) -> None:
    """Insert the message, or replace all but its time."""
    content = _encoder.encode(
        msgspec.structs.replace(message, text="", parent_id=None, created_at=None)
    ).decode()
    size_bytes = len(content.encode()) + len(message.text.encode())
    await tx.execute(
        "INSERT INTO conversation_messages "
        "(user_id, conversation_id, id, parent_id, role, text, content, size_bytes, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, conversation_id, id) DO UPDATE SET "
        "parent_id = excluded.parent_id, role = excluded.role, text = excluded.text, "
        "content = excluded.content, size_bytes = excluded.size_bytes",
        (
            user_id,
            conversation_id,
            message.id,
            message.parent_id,
            message.role,
            message.text,
            content,
            size_bytes,
            created_at,
        ),
    )


async def update_answer(
    tx: Transaction, user_id: str, conversation_id: str, message: ConversationMessage
) -> bool:
    """Replace an answer that still exists; returns False if it, or its conversation, was deleted."""
    row = await tx.fetch_one(
        "SELECT created_at, parent_id FROM conversation_messages "
        "WHERE user_id = ? AND conversation_id = ? AND id = ?",
        (user_id, conversation_id, message.id),
    )
    if row is None:
        return False
    # A message between it and its question may have been deleted meanwhile.
    message = msgspec.structs.replace(message, parent_id=row["parent_id"])
    await put(tx, user_id, conversation_id, message, row["created_at"])
    return True


async def remove(tx: Transaction, user_id: str, conversation_id: str, message_id: str) -> bool:
    """Delete one message, whose replies follow its parent; returns False for an unknown one."""
    key = (user_id, conversation_id, message_id)
    where = "WHERE user_id = ? AND conversation_id = ? AND id = ?"
    row = await tx.fetch_one(f"SELECT parent_id FROM conversation_messages {where}", key)  # noqa: S608
    if row is None:
        return False
    await tx.execute(
        "UPDATE conversation_messages SET parent_id = ? "
        "WHERE user_id = ? AND conversation_id = ? AND parent_id = ?",
        (row["parent_id"], *key),
    )
    await tx.execute(
        "UPDATE conversations SET leaf_id = ? WHERE user_id = ? AND id = ? AND leaf_id = ?",
        (row["parent_id"], *key),
    )
    await tx.execute(f"DELETE FROM conversation_messages {where}", key)  # noqa: S608
    return True


def _message_from_row(row: sqlite3.Row) -> ConversationMessage:
    try:
        content = msgspec.json.decode(row["content"], type=ConversationMessage)
    except DECODE_ERRORS as error:
        log.warning("fields of the message %s cannot be read and are left out: %s", row["id"], error)
        content = ConversationMessage(**_readable_fields(row["content"]), id=row["id"], role=row["role"])
    return msgspec.structs.replace(
        content, text=row["text"], parent_id=row["parent_id"], created_at=to_iso(row["created_at"])
    )


def _readable_fields(content: str) -> dict[str, Any]:
    """Return the fields that can be decoded: one that cannot must not make its conversation unreadable."""
    try:
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except DECODE_ERRORS:
        return {}
    readable = {}
    for name, raw in fields.items():
        if name in _FIELD_TYPES and name not in ("id", "role"):
            try:
                readable[name] = msgspec.json.decode(raw, type=_FIELD_TYPES[name])
            except DECODE_ERRORS:
                continue
    return readable
