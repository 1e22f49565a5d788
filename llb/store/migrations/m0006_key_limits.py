"""How much a key may ask for, as JSON; NULL where nothing is limited."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE api_keys ADD COLUMN limits TEXT")
    connection.execute("ALTER TABLE api_keys ADD COLUMN ceiling TEXT")
