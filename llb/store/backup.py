"""What a person does with a database from outside: look at it without touching it, and put a backup in its place."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite

from llb.base import platform_compat
from llb.errors import SetupError
from llb.store.database import Transaction
from llb.store.migrations import MIGRATIONS, schema_version_of
from llb.store.schema import BUSY_TIMEOUT_S, prepare_database, save_copy

WAL_SUFFIXES = ("-wal", "-shm")
_REQUIRED_TABLES = frozenset({"users", "registrations", "settings"})


@contextlib.asynccontextmanager
async def open_read_only(path: Path) -> AsyncIterator[Transaction]:
    """The database for reading only, neither checked nor migrated; may be in use. Raises `sqlite3.Error`."""
    connection = await aiosqlite.connect(_read_only_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        connection.row_factory = sqlite3.Row
        yield Transaction(connection)
    finally:
        await connection.close()


def find_database_defect(path: Path) -> str | None:
    """What is wrong with the database at `path`, as a clause; None if it is intact and this version's or older."""
    try:
        with contextlib.closing(
            sqlite3.connect(_read_only_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
        ) as source:
            return _find_defect(source, "quick_check")
    except sqlite3.Error as error:
        return str(error)


def restore_database(backup_path: Path, path: Path) -> Path | None:
    """Put a copy of `backup` in the place of the database `path`; returns where the previous one is kept, if any.

    Nobody may have `path` open. Raises `SetupError` for what is no sound database of llb, and OSError.
    """
    if path.exists() and backup_path.samefile(path):
        raise SetupError(f"{backup_path} is the database itself: name a file that 'llb backup' wrote.")
    fresh = path.with_name(path.name + ".restoring")
    try:
        with contextlib.closing(sqlite3.connect(_read_only_uri(backup_path), uri=True)) as source:
            fault = _find_defect(source, "integrity_check")
            if fault is not None:
                raise SetupError(f"{backup_path} cannot be restored: {fault}.")
            platform_compat.make_private_dir(path.parent)
            save_copy(source, fresh)
    except sqlite3.Error as error:
        raise SetupError(f"{backup_path} cannot be restored: {error}.") from None
    try:
        kept = _keep_previous(path) if path.exists() else None
        # A write-ahead log of another database must not be there when the new one is opened.
        for companion in WAL_SUFFIXES:
            path.with_name(path.name + companion).unlink(missing_ok=True)
        platform_compat.replace_durably(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    prepare_database(path)
    return kept


def _keep_previous(path: Path) -> Path:
    """Keep the database under another name beside it, with all that its write-ahead log holds; `path` stays complete."""
    stem = f"{path.stem}-replaced-{time.strftime('%Y%m%dT%H%M%S')}"
    kept = path.with_name(stem + path.suffix)
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{stem}-{number}{path.suffix}")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            save_copy(connection, kept)
            # Folds the log into the file, so that a crash before the replacement loses nothing either.
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        # Damaged, which may be why a backup is restored: kept as it is, for whoever wants to try to mend it.
        for companion in ("", *WAL_SUFFIXES):
            source = path.with_name(path.name + companion)
            if source.exists():
                shutil.copy2(source, kept.with_name(kept.name + companion))
    return kept


def _find_defect(connection: sqlite3.Connection, pragma: str) -> str | None:
    version = schema_version_of(connection)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 or not tables >= _REQUIRED_TABLES:
        return "it is not a database of llb"
    if version > len(MIGRATIONS):
        return f"it was written by a newer llb (schema {version}, this one knows {len(MIGRATIONS)})"
    [first, *_] = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
    return None if first == "ok" else f"it is damaged ({str(first).splitlines()[-1]})"


def _read_only_uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
