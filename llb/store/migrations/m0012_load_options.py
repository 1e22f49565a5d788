"""Load options and placement of registered models, and the figures of the last day for charts."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE registrations ADD COLUMN options TEXT")
    connection.execute("ALTER TABLE registrations ADD COLUMN placement TEXT")
    # One row for each minute of a day and each node and model: a later day replaces it.
    connection.execute(
        "CREATE TABLE chart_points ("
        " kind TEXT NOT NULL CHECK (kind IN ('node', 'model')),"
        " subject TEXT NOT NULL,"
        " slot INTEGER NOT NULL,"
        " at INTEGER NOT NULL,"
        " figures TEXT NOT NULL,"
        " PRIMARY KEY (kind, subject, slot)"
        ") WITHOUT ROWID, STRICT"
    )
