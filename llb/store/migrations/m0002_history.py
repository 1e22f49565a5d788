"""Request history and usage totals. The totals are kept longer than the requests."""

from __future__ import annotations

import sqlite3

# The `id` of a request is the UTC Unix microsecond of its arrival, so the table is in order of time.
# The other ids are not foreign keys: a request outlives its key, user and node.
REQUESTS_TABLE = """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        key_id TEXT,
        user_id TEXT,
        model TEXT,
        node_id TEXT,
        endpoint TEXT NOT NULL,
        stream INTEGER NOT NULL CHECK (stream IN (0, 1)),
        status INTEGER NOT NULL,
        error_code TEXT,
        prompt_tokens INTEGER,
        cached_tokens INTEGER,
        completion_tokens INTEGER,
        queue_ms INTEGER NOT NULL,
        ttft_ms INTEGER,
        duration_ms INTEGER NOT NULL,
        has_text INTEGER NOT NULL CHECK (has_text IN (0, 1))
    )
"""
REQUEST_TEXTS_TABLE = """
    CREATE TABLE request_texts (
        id INTEGER PRIMARY KEY,
        prompt TEXT,
        prompt_truncated INTEGER NOT NULL CHECK (prompt_truncated IN (0, 1)),
        answer TEXT,
        answer_truncated INTEGER NOT NULL CHECK (answer_truncated IN (0, 1))
    )
"""
# Without statistics SQLite picks the newest of several usable indexes, so the most selective comes last.
INDEXED_COLUMNS = ("node_id", "model", "user_id", "key_id")

# '' means none, because a primary key has no NULL. `start` is the UTC Unix second at which the hour or
# the day begins.
USAGE_TABLE = """
    CREATE TABLE usage_{bucket}s (
        start INTEGER NOT NULL,
        model TEXT NOT NULL,
        key_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        node_id TEXT NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        PRIMARY KEY (start, model, key_id, user_id, node_id)
    ) WITHOUT ROWID
"""

# Names of removed keys and users, for totals that outlive them. A trigger fills the table, because removing
# a user removes the user's keys too.
FORMER_NAMES_TABLE = """
    CREATE TABLE former_names (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL
    ) WITHOUT ROWID
"""
FORMER_NAME_TRIGGER = """
    CREATE TRIGGER remember_{table} AFTER DELETE ON {table} BEGIN
        INSERT OR REPLACE INTO former_names (id, name) VALUES (OLD.id, OLD.{name});
    END
"""


def migrate(connection: sqlite3.Connection) -> None:
    for statement in (REQUESTS_TABLE, REQUEST_TEXTS_TABLE, FORMER_NAMES_TABLE):
        connection.execute(statement)
    connection.execute("CREATE INDEX requests_failed ON requests (id) WHERE error_code IS NOT NULL")
    connection.execute("CREATE INDEX requests_with_text ON requests (id) WHERE has_text")
    for column in INDEXED_COLUMNS:
        connection.execute(f"CREATE INDEX requests_by_{column} ON requests ({column})")
        connection.execute(
            f"CREATE INDEX requests_failed_by_{column} ON requests ({column}) WHERE error_code IS NOT NULL"
        )
    for bucket in ("hour", "day"):
        connection.execute(USAGE_TABLE.format(bucket=bucket))
    for table, name in (("api_keys", "name"), ("users", "username")):
        connection.execute(FORMER_NAME_TRIGGER.format(table=table, name=name))
