"""Hosts that join: the tokens that let them, and what the balancer shows a node to be believed."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    # In clear, unlike `credential_hash`: the balancer has to present it.
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
