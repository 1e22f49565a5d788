"""Preparation of a database file: permissions, integrity check, migration. Blocking SQLite calls."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from llb import __version__
from llb.base import installation, platform_compat
from llb.errors import SetupError
from llb.store.migrations import MIGRATIONS, Migration, migrate, schema_version_of
from llb.texts.coded_text import CodedText

log = logging.getLogger(__name__)

# Key in the table of settings.
VERSION_KEY = "llb_version"
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
                raise SetupError(_describe_newer(path, connection, version, len(migrations)))
            if is_migrated:
                copy = _upgrade_copy_path(path, version)
                save_copy(connection, copy)
                log.info(
                    "the database is upgraded from schema %d to %d; its copy from before is %s",
                    version,
                    len(migrations),
                    copy,
                )
            _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"))
            # A power cut may take back the last migrations, as a whole: the next start makes them again.
            connection.execute("PRAGMA synchronous = NORMAL")
            migrate(connection, migrations)
            if version < len(migrations):
                note_version(connection)
    except OSError as error:
        raise SetupError(f"The database {path} cannot be used: {error.strerror or error}.") from None
    except sqlite3.OperationalError as error:
        raise SetupError(f"The database {path} cannot be used: {error}.") from None
    except sqlite3.DatabaseError as error:
        raise SetupError(describe_damage(path, str(error))) from None


def note_version(connection: sqlite3.Connection) -> None:
    """Note which llb gave the database its schema, for an older one that cannot read it."""
    connection.execute(
        "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (VERSION_KEY, __version__)
    )


def _upgrade_copy_path(path: Path, version: int) -> Path:
    return path.with_name(f"{path.stem}-schema{version}.backup{path.suffix}")


def _describe_newer(path: Path, connection: sqlite3.Connection, version: int, known: int) -> str:
    """Return the sentences for a database whose schema is newer: what wrote it, and the way back."""
    writer = "a newer llb"
    with contextlib.suppress(sqlite3.Error):
        row = connection.execute("SELECT value FROM settings WHERE key = ?", (VERSION_KEY,)).fetchone()
        writer = f"{writer} ({row[0]})" if row else writer
    found = (
        f"The database {path} was written by {writer}: it has schema {version}, llb {__version__} knows "
        f"{known}. Start the newer llb again, or "
    )
    for older in range(known, 0, -1):
        copy = _upgrade_copy_path(path, older)
        if copy.is_file():
            saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.stat().st_mtime))
            arguments = f"{shlex.quote(str(copy))} --home {shlex.quote(str(path.parent))}"
            # The command is not at the end: a full stop would become a part of it.
            return (
                f"{found}go back with '{installation.command_path()} restore {arguments}' to the copy of "
                f"{saved} from before the upgrade: what was changed since is lost."
            )
    return f"{found}restore a backup that an older one made: 'llb restore FILE'."


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
    return CodedText(
        "database_damaged",
        "The database {path} is damaged ({cause}): restore a backup with 'llb restore FILE', "
        "or move the file away to start with an empty one.",
        path=str(path),
        cause=reason,
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
