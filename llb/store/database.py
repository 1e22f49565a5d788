"""SQLite database with concurrent reads and one write transaction at a time."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import msgspec

from llb.base.tasks import run_to_completion
from llb.errors import SetupError
from llb.store.ballast import BALLAST_FILE_NAME, Ballast
from llb.store.database_file import DatabaseFile
from llb.store.migrations import MIGRATIONS, Migration
from llb.store.schema import (
    BUSY_TIMEOUT_S,
    CHECKED_AT_OPEN_BYTES,
    describe_damage,
    find_integrity_problem,
    prepare_database,
    save_copy,
)
from llb.store.trusted_clock import TrustedClock

T = TypeVar("T")
Parameters = Sequence[Any]


def encode_ids(ids: Iterable[str]) -> str:
    """Encode ids for `json_each`, which takes any number of them as one parameter."""
    return msgspec.json.encode(list(ids)).decode()


class Reader:
    """Queries that `Database`, its `reports` and `Transaction` share; reading functions take any of them."""

    _connection: aiosqlite.Connection

    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        return list(await self._connection.execute_fetchall(sql, parameters))

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        rows = await self.fetch_all(sql, parameters)
        return rows[0] if rows else None


class Transaction(Reader):
    """Open write transaction. Its changes become durable together or not at all."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns the number of rows it changed."""
        async with self._connection.execute(sql, parameters) as cursor:
            return cursor.rowcount

    async def run(self, sql: str, parameters: Parameters = ()) -> None:
        """Run one statement, in one turn of the connection's thread; `execute` takes two for its number."""
        await self._connection.execute_fetchall(sql, parameters)

    async def insert(self, sql: str, parameters: Parameters = ()) -> int:
        """Insert one row; returns its rowid."""
        async with self._connection.execute(sql, parameters) as cursor:
            return cursor.lastrowid or 0

    async def execute_many(self, sql: str, rows: Sequence[Parameters]) -> int:
        """Run one statement for each of `rows`; returns the number of rows it changed."""
        async with self._connection.executemany(sql, rows) as cursor:
            return max(0, cursor.rowcount)


class Reports(Reader):
    """Reads that may take long: they have a connection of their own, so that no other read waits for them."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def close(self) -> None:
        await self._connection.close()


class Database(Reader):
    """Database file with any number of concurrent reads and one write transaction at a time."""

    reports: Reports
    _writer: aiosqlite.Connection

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration] = MIGRATIONS,
        *,
        clock: TrustedClock | None = None,
    ) -> None:
        self.path = path
        # Clock for the expiry and removal of rows.
        self.clock = clock or TrustedClock()
        self.ballast = Ballast(path.with_name(BALLAST_FILE_NAME))
        self.file = DatabaseFile(path)
        self._migrations = migrations
        self._write_lock = asyncio.Lock()
        self._writing_task: asyncio.Task[Any] | None = None
        self._is_open = False

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Database:
        """Create a `Database` for `path` and start it. Raises `SetupError`."""
        db = cls(path, migrations)
        await db.start()
        return db

    async def start(self) -> None:
        """Open the file; create or migrate it as needed. Raises `SetupError`."""
        # Opening creates files of some kilobytes, also on a full disk.
        released_bytes = await asyncio.to_thread(self.ballast.release)
        try:
            await self._open()
        finally:
            await run_to_completion(asyncio.to_thread(self.ballast.take_back, released_bytes))
        self._is_open = True
        await asyncio.to_thread(self.ballast.fill)

    async def _open(self) -> None:
        await asyncio.to_thread(prepare_database, self.path, self._migrations)
        self.file.remember()
        async with contextlib.AsyncExitStack() as opened:
            self._connection = await _connect(self.path, "PRAGMA query_only = ON")
            opened.push_async_callback(self._connection.close)
            reports_connection = await _connect(self.path, "PRAGMA query_only = ON")
            opened.push_async_callback(reports_connection.close)
            self.reports = Reports(reports_connection)
            # In WAL mode a commit survives a power cut only with FULL.
            self._writer = await _connect(self.path, "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON")
            opened.pop_all()

    @contextlib.asynccontextmanager
    async def write(self, *, uses_ballast: bool = False) -> AsyncIterator[Transaction]:
        """Open a transaction: commit when the block ends, roll back when it raises or is cancelled.

        `uses_ballast` is for what must be possible on a full disk: deletions, revocations, logins.
        Raises RuntimeError inside another transaction of the same task, `DatabaseFileLost`, and other
        `sqlite3.Error`.
        """
        task = asyncio.current_task()
        if self._writing_task is task:
            raise RuntimeError("a write transaction was opened inside another one")
        async with self._write_lock:
            self._writing_task = task
            try:
                async with self._released_ballast() if uses_ballast else contextlib.nullcontext():
                    try:
                        await asyncio.to_thread(self.file.check)
                        await self._writer.execute("BEGIN IMMEDIATE")
                        yield Transaction(self._writer)
                    except BaseException:
                        # A cancelled statement still runs in the connection's thread; the rollback queues up.
                        await run_to_completion(self._writer.rollback())
                        raise
                    await run_to_completion(self._commit())
            finally:
                self._writing_task = None

    @contextlib.asynccontextmanager
    async def _released_ballast(self) -> AsyncIterator[None]:
        released_bytes = await run_to_completion(asyncio.to_thread(self.ballast.release))
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                # The free space of the disk does not show a quota. The next attempt succeeds.
                await asyncio.to_thread(partial(self.ballast.release, everything=True))
                released_bytes = 0
            raise
        finally:
            if released_bytes:
                await run_to_completion(asyncio.to_thread(self.ballast.take_back, released_bytes))

    async def _commit(self) -> None:
        try:
            await self._writer.execute("COMMIT")
        except sqlite3.Error:
            # A full disk leaves the transaction open, and no other transaction could begin.
            await self._writer.rollback()
            raise

    async def backup(self, target: Path) -> None:
        """Write a consistent copy of the database to `target` without blocking other use.

        Raises OSError, and `SetupError` for a damaged database: a copy of that is no backup.
        """

        def copy() -> None:
            with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as source:
                # A small one was checked when it was opened.
                is_checked = self.path.stat().st_size <= CHECKED_AT_OPEN_BYTES
                problem = None if is_checked else find_integrity_problem(source, "quick_check")
                if problem is not None:
                    raise SetupError(describe_damage(self.path, problem))
                save_copy(source, target)

        await asyncio.to_thread(copy)

    async def close(self) -> None:
        """Wait for the open write transaction, then close; idempotent.

        SQLite checkpoints the write-ahead log when the last connection closes.
        """
        if not self._is_open:
            return
        self._is_open = False
        async with self._write_lock:
            await run_to_completion(self.reports.close())
            await run_to_completion(self._connection.close())
            await run_to_completion(self._writer.close())


async def _connect(path: Path, *pragmas: str) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    # A process that ends without close() must not wait for the thread; the database survives a kill.
    connection._thread.daemon = True
    try:
        await connection
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            await connection.execute(pragma)
        # The first access creates the files of the write-ahead log.
        await connection.execute_fetchall("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        await connection.close()
        await wait_for_thread(connection)
        raise SetupError(f"The database {path} cannot be opened: {error}.") from None
    return connection


async def wait_for_thread(connection: aiosqlite.Connection) -> None:
    """Wait until the thread of a connection that could not be opened has ended.

    aiosqlite only asks it to. It answers to the event loop, and prints a traceback if that was closed.
    """
    await asyncio.to_thread(connection._thread.join)
