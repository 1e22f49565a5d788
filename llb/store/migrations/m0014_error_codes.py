"""Codes of the errors of replicas and registrations, as JSON."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    "ALTER TABLE replicas ADD COLUMN error_code TEXT",
    "ALTER TABLE registrations ADD COLUMN error_code TEXT",
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
