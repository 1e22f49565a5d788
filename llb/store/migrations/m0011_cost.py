"""Cost of requests, budgets of keys and providers, and what was spent a day."""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    # NULL: unknown, also for requests of the time before.
    "ALTER TABLE requests ADD COLUMN cost_usd REAL",
    "ALTER TABLE usage_hours ADD COLUMN cost_usd REAL",
    "ALTER TABLE usage_days ADD COLUMN cost_usd REAL",
    """
    CREATE TABLE budgets (
        scope TEXT NOT NULL CHECK (scope IN ('key', 'provider')),
        id TEXT NOT NULL,
        period TEXT NOT NULL CHECK (period IN ('day', 'month')),
        limit_usd REAL NOT NULL CHECK (limit_usd >= 0),
        PRIMARY KEY (scope, id, period)
    ) WITHOUT ROWID
    """,
    # `day` is the Unix second at which the day begins in UTC.
    """
    CREATE TABLE spend (
        scope TEXT NOT NULL CHECK (scope IN ('key', 'provider')),
        id TEXT NOT NULL,
        day INTEGER NOT NULL,
        usd REAL NOT NULL,
        PRIMARY KEY (scope, id, day)
    ) WITHOUT ROWID
    """,
    # A key's budget ends with it; what it spent stays for the totals.
    """
    CREATE TRIGGER remove_budget_of_key AFTER DELETE ON api_keys BEGIN
        DELETE FROM budgets WHERE scope = 'key' AND id = OLD.id;
    END
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    for statement in STATEMENTS:
        connection.execute(statement)
