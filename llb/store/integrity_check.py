"""Integrity check of a large database, in the background of the running server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path

from llb.store import schema

log = logging.getLogger(__name__)

# SQLite's virtual machine asks after this number of steps whether the check was cancelled.
CANCELLATION_CHECK_STEPS = 10_000


class IntegrityCheck:
    """One check after the start. `problem` is a sentence with a remedy, None for an intact database."""

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._is_cancelled = False

    async def run(self) -> None:
        """Check a database that was not checked when it was opened. To cancel it stops the check."""
        if self._path.stat().st_size <= schema.CHECKED_AT_OPEN_BYTES:
            return
        try:
            self.problem = await asyncio.to_thread(self._find_problem)
        except asyncio.CancelledError:
            self._is_cancelled = True
            if self._connection is not None:
                # Otherwise the end of the process would wait for the thread.
                self._connection.interrupt()
            raise
        except sqlite3.Error as error:
            log.warning("the database could not be checked: %s", error)
        if self.problem is not None:
            log.error("%s", self.problem)

    def _find_problem(self) -> str | None:
        uri = f"{self._path.as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=schema.BUSY_TIMEOUT_S, check_same_thread=False)
        with contextlib.closing(connection):
            # `interrupt()` has no effect before the statement runs; this has.
            connection.set_progress_handler(lambda: self._is_cancelled, CANCELLATION_CHECK_STEPS)
            self._connection = connection
            try:
                reason = schema.find_integrity_problem(connection, "quick_check")
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                reason = str(error)
            finally:
                self._connection = None
        return None if reason is None else schema.describe_damage(self._path, reason)
