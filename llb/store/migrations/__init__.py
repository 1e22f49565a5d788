"""The schema's history: append-only, one small function a step. The file's `user_version` counts the steps it has."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from llb.store.migrations import (
    m0001_start,
    m0002_history,
    m0003_peers,
    m0004_last_seen,
    m0005_pinned,
    m0006_key_limits,
    m0007_request_ids,
)

Migration = Callable[[sqlite3.Connection], None]

MIGRATIONS: tuple[Migration, ...] = (
    m0001_start.migrate,
    m0002_history.migrate,
    m0003_peers.migrate,
    m0004_last_seen.migrate,
    m0005_pinned.migrate,
    m0006_key_limits.migrate,
    m0007_request_ids.migrate,
)


def schema_version_of(connection: sqlite3.Connection) -> int:
    """How many migrations this database has behind it."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the schema up to date, each step in its own transaction. Another process may be doing the same."""
    while schema_version_of(connection) < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Looked at again under the lock: the step may have been taken meanwhile.
            version = schema_version_of(connection)
            if version < len(migrations):
                migrations[version](connection)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
