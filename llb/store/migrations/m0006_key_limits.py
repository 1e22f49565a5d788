"""Rate limits of API keys, as JSON; NULL means unlimited."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE api_keys ADD COLUMN limits TEXT")
    connection.execute("ALTER TABLE api_keys ADD COLUMN ceiling TEXT")
