"""Join tokens, and the credential that the balancer presents to a node."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    # In plain text, unlike `credential_hash`, because the balancer has to present it.
    "ALTER TABLE nodes ADD COLUMN hop_credential TEXT",
    """
    CREATE TABLE join_tokens (
        hash TEXT PRIMARY KEY,
        created_by TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        used_at REAL
    )
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
