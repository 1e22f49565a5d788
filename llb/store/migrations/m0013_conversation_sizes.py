"""Sizes of conversations, read without texts: SQLite walks through a long value to the columns after it."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE conversations ADD COLUMN settings_bytes INTEGER NOT NULL DEFAULT 2")
    connection.execute("UPDATE conversations SET settings_bytes = length(CAST(settings AS BLOB))")
    # It has all columns of the list.
    connection.execute(
        "CREATE INDEX conversations_listed ON conversations"
        " (user_id, pinned, updated_at, created_at, settings_bytes, id, title)"
    )
    connection.execute(
        "CREATE INDEX conversation_messages_by_size ON conversation_messages"
        " (user_id, conversation_id, size_bytes)"
    )
    connection.execute(
        "CREATE INDEX conversation_messages_by_time ON conversation_messages"
        " (user_id, conversation_id, created_at)"
    )
