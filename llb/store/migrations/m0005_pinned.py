"""Pins of models belong to the cluster: an offline node receives them when it reconnects."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute(
        "ALTER TABLE registrations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1))"
    )
    connection.execute(
        "UPDATE registrations SET pinned = 1 "
        "WHERE model_id IN (SELECT model_id FROM replicas WHERE pinned = 1)"
    )
