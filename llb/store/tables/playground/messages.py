"""Messages of the conversations. The text has a column of its own, which is searched."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, get_type_hints

import msgspec

from llb.base.timestamps import to_iso
from llb.store.database import Reader, Transaction, encode_ids
from llb.wire import ConversationMessage
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

EXCERPT_CHARS, EXCERPT_BEFORE_CHARS = 120, 40

MessageColumns = tuple[str, str | None, str, str, str, int, float]

_INSERT = (
    "INSERT INTO conversation_messages "
    "(user_id, conversation_id, id, parent_id, role, text, content, size_bytes, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_encoder = msgspec.json.Encoder()
_FIELD_TYPES = get_type_hints(ConversationMessage, include_extras=True)


async def list_rows(db: Reader, user_id: str, conversation_id: str) -> list[sqlite3.Row]:
    """All messages, the oldest first. `message_from_row` decodes them, which takes long for large ones."""
    return await db.fetch_all(
        "SELECT * FROM conversation_messages WHERE user_id = ? AND conversation_id = ? "
        "ORDER BY created_at, rowid",
        (user_id, conversation_id),
    )


async def get(db: Reader, user_id: str, conversation_id: str, message_id: str) -> ConversationMessage | None:
    row = await db.fetch_one(
        "SELECT * FROM conversation_messages WHERE user_id = ? AND conversation_id = ? AND id = ?",
        (user_id, conversation_id, message_id),
    )
    return None if row is None else message_from_row(row)


async def measure(db: Reader, user_id: str, conversation_id: str) -> tuple[int, int]:
    """Number of the messages of a conversation, and their bytes."""
    row = await db.fetch_one(
        "SELECT count(*) AS number, coalesce(sum(size_bytes), 0) AS size FROM conversation_messages "
        "WHERE user_id = ? AND conversation_id = ?",
        (user_id, conversation_id),
    )
    assert row is not None  # noqa: S101  # an aggregate
    return int(row["number"]), int(row["size"])


async def measure_all(db: Reader, user_id: str) -> dict[str, int]:
    """Bytes of the messages by conversation of a user; one without messages is left out."""
    rows = await db.fetch_all(
        "SELECT conversation_id, sum(size_bytes) AS size FROM conversation_messages "
        "WHERE user_id = ? GROUP BY conversation_id",
        (user_id,),
    )
    return {row["conversation_id"]: row["size"] for row in rows}


async def search(db: Reader, user_id: str, conversation_ids: Sequence[str], text: str) -> dict[str, str]:
    """Text around the first match in each of these conversations that contains `text`.

    In any case of ASCII letters. Not `LIKE`, which compares character by character: its time grows with the
    length of `text`.
    """
    rows = await db.fetch_all(
        f"""
        SELECT listed.value AS id, (
            SELECT substr(text, max(1, instr(lower(text), lower(:text)) - {EXCERPT_BEFORE_CHARS}),
                          {EXCERPT_CHARS})
            FROM conversation_messages AS m
            WHERE m.user_id = :user_id AND m.conversation_id = listed.value
                AND instr(lower(text), lower(:text)) > 0
            ORDER BY m.created_at, m.rowid LIMIT 1
        ) AS excerpt
        FROM json_each(:ids) AS listed
        """,  # noqa: S608  # constants
        {"text": text, "user_id": user_id, "ids": encode_ids(conversation_ids)},  # type: ignore[arg-type]
    )
    return {row["id"]: row["excerpt"] for row in rows if row["excerpt"] is not None}


async def put(
    tx: Transaction, user_id: str, conversation_id: str, message: ConversationMessage, created_at: float
) -> None:
    """Insert the message, or replace all but its time."""
    await tx.execute(
        f"{_INSERT} ON CONFLICT (user_id, conversation_id, id) DO UPDATE SET "
        "parent_id = excluded.parent_id, role = excluded.role, text = excluded.text, "
        "content = excluded.content, size_bytes = excluded.size_bytes",
        (user_id, conversation_id, *columns_of(message, created_at)),
    )


async def add_missing(
    tx: Transaction, user_id: str, conversation_id: str, rows: Sequence[MessageColumns]
) -> int:
    """Insert the messages that do not exist yet; returns their number."""
    return await tx.execute_many(
        f"{_INSERT} ON CONFLICT (user_id, conversation_id, id) DO NOTHING",
        [(user_id, conversation_id, *row) for row in rows],
    )


def columns_of(message: ConversationMessage, created_at: float) -> MessageColumns:
    """Return the columns of a message, which take long for a large one."""
    content = _encoder.encode(msgspec.structs.replace(message, text="", parent_id=None, created_at=None))
    size_bytes = len(content) + len(message.text.encode())
    return (
        message.id,
        message.parent_id,
        message.role,
        message.text,
        content.decode(),
        size_bytes,
        created_at,
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


def message_from_row(row: sqlite3.Row) -> ConversationMessage:
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
