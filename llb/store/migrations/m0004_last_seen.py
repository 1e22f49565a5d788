"""When a node was last seen, so that a balancer which was restarted can still tell."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE nodes ADD COLUMN last_seen REAL")
