"""Initial schema. Times are UTC Unix seconds, structures are JSON, ids are random text."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    """
    CREATE TABLE settings (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    "INSERT INTO settings (key, value) VALUES ('revision', '0')",
    """
    CREATE TABLE users (
        id TEXT PRIMARY KEY,
        username TEXT NOT NULL UNIQUE COLLATE NOCASE,
        password_hash TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('admin', 'user')),
        must_change_password INTEGER NOT NULL CHECK (must_change_password IN (0, 1)),
        created_at REAL NOT NULL
    )
    """,
    """
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        last_seen REAL NOT NULL,
        address TEXT
    )
    """,
    "CREATE INDEX sessions_by_user ON sessions (user_id)",
    """
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        hash TEXT NOT NULL UNIQUE,
        prefix TEXT NOT NULL,
        scopes TEXT NOT NULL,
        owner_id TEXT REFERENCES users (id) ON DELETE CASCADE,
        expires_at REAL,
        created_at REAL NOT NULL,
        last_used_at REAL
    )
    """,
    "CREATE INDEX api_keys_by_owner ON api_keys (owner_id)",
    """
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        credential_hash TEXT UNIQUE,
        tags TEXT NOT NULL DEFAULT '[]',
        draining INTEGER NOT NULL DEFAULT 0 CHECK (draining IN (0, 1)),
        created_at REAL NOT NULL,
        removed_at REAL,
        hello BLOB
    )
    """,
    """
    CREATE TABLE registrations (
        model_id TEXT PRIMARY KEY,
        attempt INTEGER NOT NULL,
        replicas TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('active', 'deleting')),
        entry TEXT NOT NULL,
        resolved TEXT,
        error TEXT,
        created_at REAL NOT NULL,
        created_by TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE replicas (
        node_id TEXT NOT NULL,
        model_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,
        error TEXT,
        files TEXT NOT NULL,
        last_used REAL,
        pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
        PRIMARY KEY (node_id, model_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE file_facts (
        sha256 TEXT PRIMARY KEY,
        facts BLOB NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT,
        address TEXT,
        result TEXT NOT NULL
    )
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
