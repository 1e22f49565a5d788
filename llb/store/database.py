"""SQLite behind one writer. SQL is written in `llb.store` only."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from llb.errors import SetupError
from llb.store.migrations import MIGRATIONS, Migration
from llb.store.schema import BUSY_TIMEOUT_S, prepare_database, save_copy

T = TypeVar("T")
Parameters = Sequence[Any]


class _Reader:
    """What a database and a transaction both can do; the functions of `store` that read take either."""

    _connection: aiosqlite.Connection

    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        return list(await self._connection.execute_fetchall(sql, parameters))

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        rows = await self.fetch_all(sql, parameters)
        return rows[0] if rows else None


class Transaction(_Reader):
    """An open write transaction: all of it becomes durable, or none."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement; returns the number of rows it changed."""
        async with self._connection.execute(sql, parameters) as cursor:
            return cursor.rowcount

    async def execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        async with self._connection.executemany(sql, rows):
            pass


class Database(_Reader):
    """A database: once started, any number of reads beside one write transaction at a time."""

    _writer: aiosqlite.Connection

    def __init__(self, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self.path = path
        self._migrations = migrations
        self._write_lock = asyncio.Lock()
        self._writing_task: asyncio.Task[Any] | None = None
        self._is_open = False

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Database:
        """A database at `path`, started; raises `SetupError` where that cannot be done."""
        db = cls(path, migrations)
        await db.start()
        return db

    async def start(self) -> None:
        """Open the file, created or migrated as needed; raises `SetupError` where that cannot be done."""
        await asyncio.to_thread(prepare_database, self.path, self._migrations)
        self._connection = await _connect(self.path, "PRAGMA query_only = ON")
        try:
            # FULL: in WAL mode only this makes a commit survive a power cut.
            self._writer = await _connect(self.path, "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON")
        except BaseException:
            await self._connection.close()
            raise
        self._is_open = True

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises or is cancelled."""
        task = asyncio.current_task()
        if self._writing_task is task:
            raise RuntimeError("a write transaction was opened inside another one")
        async with self._write_lock:
            self._writing_task = task
            try:
                try:
                    await self._writer.execute("BEGIN IMMEDIATE")
                    yield Transaction(self._writer)
                except BaseException:
                    # A cancelled statement still runs in the connection's thread; this queues up behind it.
                    await _run_to_completion(self._writer.rollback())
                    raise
                await _run_to_completion(self._commit())
            finally:
                self._writing_task = None

    async def _commit(self) -> None:
        try:
            await self._writer.execute("COMMIT")
        except sqlite3.Error:
            # A full disk leaves the transaction open, and the next one could never begin.
            await self._writer.rollback()
            raise

    async def backup(self, target: Path) -> None:
        """Write a consistent copy of the database to `target` while everything runs on. Raises OSError."""

        def copy() -> None:
            with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as source:
                save_copy(source, target)

        await asyncio.to_thread(copy)

    async def close(self) -> None:
        """Wait for the write that runs, then close; idempotent. The last to close folds the WAL into the file."""
        if not self._is_open:
            return
        self._is_open = False
        async with self._write_lock:
            await _run_to_completion(self._connection.close())
            await _run_to_completion(self._writer.close())


async def _connect(path: Path, *pragmas: str) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    # A process that ends without close() must end; a kill is something the database survives anyway.
    connection._thread.daemon = True
    try:
        await connection
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            await connection.execute(pragma)
    except sqlite3.Error as error:
        await connection.close()
        raise SetupError(f"The database {path} cannot be opened: {error}.") from None
    return connection


async def _run_to_completion(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end whatever cancels the caller meanwhile; the cancellation is raised after it."""
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        task.exception()  # seen: the cancellation is what the caller hears of
        raise cancelled
    return task.result()
