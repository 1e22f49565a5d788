"""Append-only list of schema migrations. `PRAGMA user_version` counts the ones a file has had."""

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
    m0008_key_parents,
    m0009_conversations,
    m0010_endpoints,
    m0011_cost,
    m0012_load_options,
    m0013_conversation_sizes,
    m0014_error_codes,
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
    m0008_key_parents.migrate,
    m0009_conversations.migrate,
    m0010_endpoints.migrate,
    m0011_cost.migrate,
    m0012_load_options.migrate,
    m0013_conversation_sizes.migrate,
    m0014_error_codes.migrate,
)


def schema_version_of(connection: sqlite3.Connection) -> int:
    """Number of migrations that were applied to this database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the missing migrations, each in its own transaction.

    Another process may be doing the same.
    """
    while schema_version_of(connection) < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again under the lock: another process may have applied this migration meanwhile.
            version = schema_version_of(connection)
            if version < len(migrations):
                migrations[version](connection)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
