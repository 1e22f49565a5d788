"""Time at which a node was last seen, kept over restarts of the balancer."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE nodes ADD COLUMN last_seen REAL")
