"""Identity of the open database file: whether it is still the one that its path names."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llb.base import platform_compat

WAL_SUFFIX = "-wal"


class DatabaseFileLost(sqlite3.OperationalError):
    """The database file was deleted, moved or replaced while it was open: what is written now is lost."""

    # SQLite checks this itself in its rollback mode, but not with a write-ahead log.
    sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    sqlite_errorname = "SQLITE_READONLY_DBMOVED"


class DatabaseFile:
    """A database file and its write-ahead log, as they were when the database was opened. Methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal_path = path.with_name(path.name + WAL_SUFFIX)
        self._identity: tuple[int, int] | None = None
        self._wal_identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """Remember which file the path names now."""
        self._identity, self._wal_identity = platform_compat.file_identity(self._path), None

    def check(self) -> None:
        """Raise `DatabaseFileLost` if the path names another file, or none."""
        if self.is_lost():
            raise DatabaseFileLost("the database file was deleted, moved or replaced")

    def is_lost(self) -> bool:
        """Whether the path names another file than the open one, or none."""
        if self._identity is None:
            return False
        if platform_compat.file_identity(self._path) != self._identity:
            return True
        wal_identity = platform_compat.file_identity(self._wal_path)
        if self._wal_identity is None:
            # SQLite creates the log with the first access, and keeps it until the last connection closes.
            self._wal_identity = wal_identity
        return self._wal_identity != wal_identity
