"""Reading a database file without changing it, and restoring one from a backup."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
from msgspec import Struct

from llb.base import platform_compat
from llb.errors import SetupError
from llb.store.database import Transaction, wait_for_thread
from llb.store.migrations import MIGRATIONS, migrate, schema_version_of
from llb.store.restore_review import RestoreReview, review_restored
from llb.store.schema import (
    BUSY_TIMEOUT_S,
    find_integrity_problem,
    has_valid_checksum,
    note_version,
    prepare_database,
    save_copy,
)

WAL_SUFFIXES = ("-wal", "-shm")
_JSON_COLUMNS = (
    ("api_keys", "scopes"),
    ("api_keys", "limits"),
    ("nodes", "tags"),
    ("registrations", "entry"),
    ("registrations", "resolved"),
    ("replicas", "files"),
)
_REQUIRED_TABLES = frozenset({"users", "registrations", "settings"})


@contextlib.asynccontextmanager
async def open_read_only(path: Path) -> AsyncIterator[Transaction]:
    """Open the database read-only, without a check or a migration. Another process may use it.

    Raises `sqlite3.Error`.
    """
    connection = aiosqlite.connect(_read_only_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        await connection
    except sqlite3.Error:
        await wait_for_thread(connection)
        raise
    try:
        connection.row_factory = sqlite3.Row
        yield Transaction(connection)
    finally:
        await connection.close()


def find_database_defect(path: Path) -> str | None:
    """Defect of the database at `path`, as a clause for a message.

    None if it is intact and its schema is not newer than this version's.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(_read_only_uri(path), uri=True, timeout=BUSY_TIMEOUT_S)
        ) as source:
            source.execute("PRAGMA trusted_schema = OFF")
            return _find_defect(source, "quick_check")
    except sqlite3.Error as error:
        return str(error)


class Restored(Struct, frozen=True):
    """Result of a restore. `kept` is the previous database; `has_checksum` is False for an old backup."""

    kept: Path | None
    has_checksum: bool
    review: RestoreReview


def restore_database(backup_path: Path, path: Path, *, revive: bool = False) -> Restored:
    """Replace the database `path` by a copy of `backup_path`.

    What was revoked since the backup stays revoked, unless `revive`. No process may have `path` open. Raises
    `SetupError` if the backup is not an intact database of llb, and OSError; `path` is unchanged then.
    """
    if path.exists() and backup_path.samefile(path):
        raise SetupError(f"{backup_path} is the database itself: name a file that 'llb backup' wrote.")
    new_path = path.with_name(path.name + ".restoring")
    try:
        with contextlib.closing(sqlite3.connect(_read_only_uri(backup_path), uri=True)) as source:
            # No trigger or view of a foreign file may run.
            source.execute("PRAGMA trusted_schema = OFF")
            defect = _find_defect(source, "integrity_check")
            checksum = has_valid_checksum(backup_path)
            if checksum is False:
                defect = "it was changed or damaged since it was written (its checksum differs)"
            if defect is not None:
                raise SetupError(f"{backup_path} cannot be restored: {defect}.")
            platform_compat.make_private_dir(path.parent)
            save_copy(source, new_path, with_checksum=False)
    except sqlite3.Error as error:
        raise SetupError(f"{backup_path} cannot be restored: {error}.") from None
    kept: Path | None = None
    try:
        try:
            with contextlib.closing(sqlite3.connect(new_path, isolation_level=None)) as restored:
                if schema_version_of(restored) < len(MIGRATIONS):
                    migrate(restored)
                    note_version(restored)
                defect = _find_content_defect(restored)
            if defect is not None:
                raise SetupError(f"{backup_path} cannot be restored: {defect}.")
            kept = _keep_previous(path) if path.exists() else None
            review = review_restored(new_path, kept, revive=revive)
        except sqlite3.Error as error:
            raise SetupError(f"{backup_path} cannot be restored: {error}.") from None
        except SetupError:
            if kept is not None:
                kept.unlink()
            raise
        # SQLite would apply the write-ahead log of the previous database to the restored one.
        for suffix in WAL_SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        platform_compat.replace_durably(new_path, path)
    finally:
        new_path.unlink(missing_ok=True)
    prepare_database(path)
    return Restored(kept=kept, has_checksum=checksum is True, review=review)


def _keep_previous(path: Path) -> Path:
    """Copy the database, with the contents of its write-ahead log, to a new name in the same directory.

    `path` stays complete.
    """
    stem = f"{path.stem}-replaced-{time.strftime('%Y%m%dT%H%M%S')}"
    kept = path.with_name(stem + path.suffix)
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{stem}-{number}{path.suffix}")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            save_copy(connection, kept)
            # Checkpoints the log into the file: a crash before the replacement loses nothing either.
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        # A damaged database may be the reason for the restore. Its files are kept as they are, for a repair.
        for suffix in ("", *WAL_SUFFIXES):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copy2(source, kept.with_name(kept.name + suffix))
    return kept


def _find_defect(connection: sqlite3.Connection, pragma: str) -> str | None:
    version = schema_version_of(connection)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 or not tables >= _REQUIRED_TABLES:
        return "it is not an llb database"
    if version > len(MIGRATIONS):
        return f"it was written by a newer llb (schema {version}, this one knows {len(MIGRATIONS)})"
    if (difference := _find_schema_difference(connection, version)) is not None:
        return difference
    problem = find_integrity_problem(connection, pragma)
    return None if problem is None else f"it is damaged ({problem})"


def _find_schema_difference(connection: sqlite3.Connection, version: int) -> str | None:
    """How the tables, indexes, triggers and views differ from what the migrations make, as a clause."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        migrate(model, MIGRATIONS[:version])
        expected, found = _schema_of(model), _schema_of(connection)
    for kind, name in sorted(found.keys() - expected.keys()):
        return f"it is not an llb database: it has a {kind} '{name}', which is not of llb"
    for kind, name in sorted(expected.keys() - found.keys()):
        return f"it is not an llb database: it lacks the {kind} '{name}'"
    for kind, name in sorted(expected):
        if expected[kind, name] != found[kind, name]:
            return f"it is not an llb database: its {kind} '{name}' is another one"
    return None


def _schema_of(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Definitions by type and name, without those that SQLite adds."""
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {(kind, name): " ".join((sql or "").split()) for kind, name, sql in rows}


def _find_content_defect(connection: sqlite3.Connection) -> str | None:
    """Return a defect that llb could not work with, as a clause; None without one."""
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        return "it is damaged (rows refer to others that it does not have)"
    if connection.execute("SELECT 1 FROM settings WHERE key = 'revision'").fetchone() is None:
        return "it is damaged (it has no revision)"
    for table, column in _JSON_COLUMNS:
        query = f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL AND NOT json_valid({column}) LIMIT 1"  # noqa: S608
        if connection.execute(query).fetchone() is not None:
            return f"it is damaged (table {table}, column {column})"
    return None


def _read_only_uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
