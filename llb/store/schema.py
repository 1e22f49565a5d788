"""Preparation of a database file: permissions, integrity check, migration. Blocking SQLite calls."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from llb.base import platform_compat
from llb.errors import SetupError
from llb.store.migrations import MIGRATIONS, Migration, migrate, schema_version_of

BUSY_TIMEOUT_S = 5.0
# A check of this takes a tenth of a second.
CHECKED_AT_OPEN_BYTES = 64_000_000
# The integrity check and the copy of a large request history are slow.
PREPARE_LOCK_TIMEOUT_S = 60.0
CHECKSUM_LABEL = b"llb-backup-sha256:"
HASH_CHUNK_BYTES = 1 << 20


def prepare_database(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Create the database at `path`, or check and migrate it. Raises `SetupError`.

    A large one is not checked, unless it is migrated: that would take seconds at every command. The server
    checks it while it runs (`IntegrityCheck`).
    """
    try:
        platform_compat.make_private_dir(path.parent)
        with _prepare_lock(path), contextlib.closing(_connect(path)) as connection:
            version = schema_version_of(connection)
            is_migrated = 0 < version < len(migrations)
            if path.stat().st_size <= CHECKED_AT_OPEN_BYTES or is_migrated:
                problem = find_integrity_problem(connection, "quick_check")
                if problem is not None:
                    raise SetupError(describe_damage(path, problem))
            if version > len(migrations):
                raise SetupError(
                    f"The database {path} was written by a newer llb "
                    f"(schema {version}, this one knows {len(migrations)}): install that version again."
                )
            if is_migrated:
                save_copy(connection, path.with_name(f"{path.stem}-schema{version}.backup{path.suffix}"))
            _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            migrate(connection, migrations)
    except OSError as error:
        raise SetupError(f"The database {path} cannot be used: {error.strerror or error}.") from None
    except sqlite3.OperationalError as error:
        raise SetupError(f"The database {path} cannot be used: {error}.") from None
    except sqlite3.DatabaseError as error:
        raise SetupError(describe_damage(path, str(error))) from None


@contextlib.contextmanager
def _prepare_lock(path: Path) -> Iterator[None]:
    """Lock against other processes that prepare the same file. Raises `SetupError` after a timeout.

    A file in the middle of its migrations looks like one of an old schema, and two processes would write
    the same backup copy.
    """
    deadline = time.monotonic() + PREPARE_LOCK_TIMEOUT_S
    lock_path = path.with_name(path.name + ".lock")
    while (lock := platform_compat.try_lock_file(lock_path)) is None:
        if time.monotonic() > deadline:
            raise SetupError(
                f"The database {path} is still being prepared by another process: stop that one first."
            )
        time.sleep(0.02)
    try:
        _make_private(path)
        yield
    finally:
        lock.close()


def save_copy(connection: sqlite3.Connection, target: Path, *, with_checksum: bool = True) -> None:
    """Write a consistent copy of the open database to `target`, complete or not at all. Raises OSError.

    The checksum follows the database, where SQLite does not read.
    """
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    _make_private(partial)
    try:
        with contextlib.closing(_connect(partial)) as copy:
            connection.backup(copy)
            # Keeps the copy a single file: in WAL mode opening it would create -wal and -shm files.
            copy.execute("PRAGMA journal_mode = DELETE")
        with partial.open("rb+") as file:
            if with_checksum:
                file.write(checksum_trailer(_sha256_of(file)))
                file.flush()
            os.fsync(file.fileno())
        platform_compat.replace_durably(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def checksum_trailer(sha256: str) -> bytes:
    return CHECKSUM_LABEL + sha256.encode("ascii") + b"\n"


def has_valid_checksum(path: Path) -> bool | None:
    """Whether the copy is as it was written; None for a copy without a checksum. Raises OSError."""
    trailer_bytes = len(checksum_trailer("0" * 64))
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - trailer_bytes))
        trailer = file.read()
        if not trailer.startswith(CHECKSUM_LABEL):
            return None
        file.seek(0)
        return trailer == checksum_trailer(_sha256_of(file, size_bytes - trailer_bytes))


def _sha256_of(file: BinaryIO, size_bytes: int | None = None) -> str:
    """The sha256 of the next `size_bytes` of a file, or of all that follow."""
    digest = hashlib.sha256()
    while chunk := file.read(HASH_CHUNK_BYTES if size_bytes is None else min(HASH_CHUNK_BYTES, size_bytes)):
        digest.update(chunk)
        size_bytes = None if size_bytes is None else size_bytes - len(chunk)
    return digest.hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _make_private(path: Path) -> None:
    """Create `path` with access for its owner only; SQLite gives its -wal and -shm files the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def find_integrity_problem(connection: sqlite3.Connection, pragma: str) -> str | None:
    """First problem that `PRAGMA quick_check` or `integrity_check` reports; None for an intact database."""
    [first, *_] = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
    return None if first == "ok" else str(first).splitlines()[-1]


def describe_damage(path: Path, reason: str) -> str:
    """Return the sentence for a damaged database."""
    return (
        f"The database {path} is damaged ({reason}): restore a backup with 'llb restore FILE', "
        "or move the file away to start with an empty one."
    )


def _retry_while_locked(action: Callable[[], object]) -> None:
    """Retry a locked `action` until the busy timeout, which SQLite ignores when it switches to WAL.

    Two processes that start at the same time would otherwise collide.
    """
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
