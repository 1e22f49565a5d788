"""Index for finding a request by the request id in the log."""

from __future__ import annotations

import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE INDEX requests_by_request_id ON requests (request_id)")
