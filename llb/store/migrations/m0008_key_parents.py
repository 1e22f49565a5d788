"""Keys that keys have made, and the audit log by class and actor.

A key ends with the key that made it: the foreign key deletes the children with their parent.
"""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    "ALTER TABLE api_keys ADD COLUMN parent_id TEXT REFERENCES api_keys (id) ON DELETE CASCADE",
    "CREATE INDEX api_keys_by_parent ON api_keys (parent_id) WHERE parent_id IS NOT NULL",
    "CREATE INDEX api_keys_by_time ON api_keys (created_at, id)",
    "ALTER TABLE audit ADD COLUMN actor_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE audit ADD COLUMN class TEXT NOT NULL DEFAULT 'admin'",
    # Who acted is known by name only: every name is an actor.
    "UPDATE audit SET actor_id = actor",
    """
    UPDATE audit SET class = CASE
        WHEN result IN ('invalid_credentials', 'insufficient_permissions') THEN 'denied'
        WHEN result LIKE 'refused%' THEN 'denied'
        WHEN action IN ('login', 'logout') THEN 'login'
        ELSE 'admin'
    END
    """,
    "CREATE INDEX audit_by_class ON audit (class, actor_id)",
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
