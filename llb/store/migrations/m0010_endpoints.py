"""Endpoints and spill rules, and the endpoint that answered a request.

In the totals of usage the id of an endpoint is in `node_id`.
"""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    # `key` is encrypted, see `llb.security.secret_box`.
    """
    CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        base_url TEXT NOT NULL,
        settings TEXT NOT NULL,
        key TEXT,
        key_last_four TEXT,
        key_changed_at REAL,
        key_changed_by TEXT,
        models TEXT,
        listed_at REAL,
        created_at REAL NOT NULL
    )
    """,
    """
    CREATE TABLE spill_rules (
        model TEXT PRIMARY KEY,
        rules TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    "ALTER TABLE requests ADD COLUMN endpoint_id TEXT",
    "CREATE INDEX requests_by_endpoint_id ON requests (endpoint_id) WHERE endpoint_id IS NOT NULL",
    """
    CREATE TRIGGER remember_endpoints AFTER DELETE ON endpoints BEGIN
        INSERT OR REPLACE INTO former_names (id, name) VALUES (OLD.id, OLD.name);
    END
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
