"""Makes a database file fit for use: private, intact, of this version's schema. Plain blocking SQLite."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llb.base import platform_compat
from llb.errors import SetupError
from llb.store.migrations import MIGRATIONS, Migration, migrate, schema_version_of

BUSY_TIMEOUT_S = 5.0
PREPARE_LOCK_TIMEOUT_S = 60.0  # a check and a copy of a large history take their time


def prepare_database(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Create or check and migrate the database at `path`; raises `SetupError` with a sentence for a person."""
    try:
        platform_compat.make_private_dir(path.parent)
        with _prepare_lock(path), contextlib.closing(_connect(path)) as connection:
            _check_integrity(connection, path)
            version = schema_version_of(connection)
            if version > len(migrations):
                raise SetupError(
                    f"The database {path} was written by a newer llb "
                    f"(schema {version}, this one knows {len(migrations)}): install that version again."
                )
            if 0 < version < len(migrations):
                save_copy(connection, path.with_name(f"{path.stem}-schema{version}.backup{path.suffix}"))
            _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            migrate(connection, migrations)
    except OSError as error:
        raise SetupError(f"The database {path} cannot be used: {error.strerror or error}.") from None
    except sqlite3.OperationalError as error:
        raise SetupError(f"The database {path} cannot be used: {error}.") from None
    except sqlite3.DatabaseError as error:
        raise _damaged_error(path, str(error)) from None


@contextlib.contextmanager
def _prepare_lock(path: Path) -> Iterator[None]:
    """Wait for other processes that prepare the same file: half of its migrations would look to us like an old schema,
    and two copies of it would be written into one another."""
    deadline = time.monotonic() + PREPARE_LOCK_TIMEOUT_S
    lock_path = path.with_name(path.name + ".lock")
    while (lock := platform_compat.try_lock_file(lock_path)) is None:
        if time.monotonic() > deadline:
            raise SetupError(f"The database {path} is being prepared by another process, which does not end.")
        time.sleep(0.02)
    try:
        _make_private(path)
        yield
    finally:
        lock.close()


def save_copy(connection: sqlite3.Connection, target: Path) -> None:
    """A consistent copy of the open database at `target`, complete or not there at all. Raises OSError."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    _make_private(partial)
    try:
        with contextlib.closing(_connect(partial)) as copy:
            connection.backup(copy)
            # One file: a copy in WAL mode would grow companions as soon as it is opened.
            copy.execute("PRAGMA journal_mode = DELETE")
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        platform_compat.replace_durably(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _make_private(path: Path) -> None:
    """Have `path` exist for its owner only; SQLite gives its companions (-wal, -shm) the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    [first, *_] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if first != "ok":
        raise _damaged_error(path, str(first).splitlines()[-1])


def _damaged_error(path: Path, reason: str) -> SetupError:
    return SetupError(
        f"The database {path} is damaged ({reason}): put a backup in its place with 'llb restore FILE', "
        "or move it away to start with an empty one."
    )


def _retry_while_locked(action: Callable[[], object]) -> None:
    """Switching to WAL ignores the busy timeout, so two processes at their first start would collide."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
