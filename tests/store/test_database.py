from __future__ import annotations

import asyncio
import ctypes
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llb.errors import SetupError
from llb.store import database
from llb.store.database import Database
from llb.store.migrations import MIGRATIONS
from llb.store.schema import prepare_database
from llb.store.tables import settings
from tests import speedups

pytestmark = pytest.mark.usefixtures("real_migrations")

# linux/capability.h
_CAPABILITY_VERSION_3, _CAP_DAC_OVERRIDE = 0x20080522, 1 << 1


def _raw(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


async def test_a_new_database_is_private_current_and_in_wal_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_connect", speedups.REAL_CONNECT)
    path = tmp_path / "home" / "llb.db"
    db = await Database.open(path)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        async with db.write() as tx:
            await settings.put(tx, "a", "1")
            # With FULL on the writing connection a commit survives a power cut.
            row = await tx.fetch_one("PRAGMA synchronous")
            assert row is not None
            assert row[0] == 2
            row = await tx.fetch_one("PRAGMA foreign_keys")
            assert row is not None
            assert row[0] == 1
        for wal_file in path.parent.glob("llb.db-*"):
            assert wal_file.stat().st_mode & 0o777 == 0o600
        row = await db.fetch_one("PRAGMA journal_mode")
        assert row is not None
        assert row[0] == "wal"
        row = await db.fetch_one("PRAGMA user_version")
        assert row is not None
        assert row[0] == len(MIGRATIONS)
    finally:
        await db.close()


async def test_commits_are_read_back_after_the_next_open(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "llb.db")
    async with db.write() as tx:
        await settings.put(tx, "a", "1")
    await db.close()
    await db.close()
    assert not (tmp_path / "llb.db-wal").exists()

    db = await Database.open(tmp_path / "llb.db")
    assert await settings.get(db, "a") == "1"
    await db.close()


async def test_a_block_that_raises_changes_nothing_and_frees_the_writer(db: Database) -> None:
    async def fail() -> None:
        async with db.write() as tx:
            await settings.put(tx, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with db.write() as tx:
        await settings.put(tx, "b", "2")
    assert await settings.get(db, "a") is None
    assert await settings.get(db, "b") == "2"


async def test_reads_do_not_see_a_transaction_before_its_commit(db: Database) -> None:
    async with db.write() as tx:
        await settings.put(tx, "a", "1")
        assert await settings.get(tx, "a") == "1"
        assert await settings.get(db, "a") is None
    assert await settings.get(db, "a") == "1"


async def test_the_read_connection_cannot_write(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await db.fetch_all("DELETE FROM settings")


async def test_a_transaction_inside_a_transaction_is_an_error_not_a_deadlock(db: Database) -> None:
    async with db.write():
        with pytest.raises(RuntimeError, match="inside another"):
            async with db.write():
                pass


@pytest.mark.parametrize("at", range(8))
async def test_a_cancelled_writer_commits_all_or_nothing_and_releases_the_lock(db: Database, at: int) -> None:
    async def work() -> None:
        async with db.write() as tx:
            await settings.put(tx, "a", "1")
            await settings.put(tx, "b", "2")

    task = asyncio.create_task(work())
    for _ in range(at):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    async with db.write() as tx:
        await settings.put(tx, "after", "ok")
    both = (await settings.get(db, "a"), await settings.get(db, "b"))
    assert both in ((None, None), ("1", "2"))
    assert await settings.get(db, "after") == "ok"


async def test_a_transaction_cancelled_during_a_statement_is_rolled_back_after_it(db: Database) -> None:
    running = threading.Event()
    may_continue = threading.Event()

    def slow(value: str) -> str:
        running.set()
        assert may_continue.wait(10)
        return value

    await db._writer.create_function("slow", 1, slow)

    async def work() -> None:
        async with db.write() as tx:
            await tx.execute("INSERT INTO settings (key, value) VALUES ('a', slow('1'))")

    task = asyncio.create_task(work())
    await asyncio.to_thread(running.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    # A second cancellation must not interrupt the rollback.
    task.cancel()
    other = asyncio.create_task(_put(db, "b", "2"))
    await asyncio.sleep(0)
    assert not other.done()
    may_continue.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other
    assert await settings.get(db, "a") is None
    assert await settings.get(db, "b") == "2"


async def _put(db: Database, key: str, value: str) -> None:
    async with db.write() as tx:
        await settings.put(tx, key, value)


async def test_a_commit_that_fails_leaves_the_writer_usable(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute(
            "CREATE TABLE child (parent TEXT REFERENCES settings (key) DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(sqlite3.IntegrityError):
        async with db.write() as tx:
            # Only COMMIT fails.
            await tx.execute("INSERT INTO child VALUES ('nobody')")
    await _put(db, "a", "1")
    assert await db.fetch_all("SELECT * FROM child") == []


async def test_concurrent_writers_lose_no_update(db: Database) -> None:
    async def increment() -> None:
        async with db.write() as tx:
            value = int(await settings.get(tx, "n") or 0)
            await asyncio.sleep(0)
            await settings.put(tx, "n", str(value + 1))

    await asyncio.gather(*(increment() for _ in range(20)))
    assert await settings.get(db, "n") == "20"


async def test_a_created_value_is_the_same_for_all_callers(db: Database) -> None:
    made = iter("abcdefgh")
    values = await asyncio.gather(*(settings.get_or_create(db, "id", lambda: next(made)) for _ in range(4)))
    assert len(set(values)) == 1
    assert await settings.get_or_create(db, "id", lambda: "other") == values[0]


async def test_another_process_may_write_while_this_one_is_open(db: Database) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from llb.store.tables import settings\n"
        "from llb.store.database import Database\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]))\n"
        "    async with db.write() as tx: await settings.put(tx, 'theirs', '1')\n"
        "    if sys.argv[2] == 'close': await db.close()\n"
        "asyncio.run(main())\n"
    )
    # A process that does not close the database still ends.
    for how in ("close", "leave"):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(db.path), how)
        await asyncio.gather(
            asyncio.wait_for(child.wait(), 30), *(_put(db, f"{how}{n}", "1") for n in range(20))
        )
        assert child.returncode == 0
        assert await settings.get(db, "theirs") == "1"


async def test_several_processes_may_create_the_database_at_once(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from llb.store.database import Database\n"
        "async def main(): await (await Database.open(Path(sys.argv[1]))).close()\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "llb.db"
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stderr=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for child in children:
        _, stderr = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode == 0, stderr.decode()


async def test_kill_9_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from llb.store.tables import settings\n"
        "from llb.store.database import Database\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]))\n"
        "    async with db.write() as tx: await settings.put(tx, 'kept', '1')\n"
        "    async with db.write() as tx:\n"
        "        await settings.put(tx, 'open', '1')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "llb.db"
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, timeout=30
    )
    assert result.returncode == -9, result.stderr.decode()
    db = await Database.open(path)
    assert await settings.get(db, "kept") == "1"
    assert await settings.get(db, "open") is None
    await db.close()


async def test_a_damaged_page_is_found_at_open(tmp_path: Path) -> None:
    path = tmp_path / "llb.db"
    db = await Database.open(path)
    async with db.write() as tx:
        await tx.execute_many(
            "INSERT INTO settings (key, value) VALUES (?, ?)", [(f"key{n}", "x" * 200) for n in range(500)]
        )
    await db.close()
    damaged = bytearray(path.read_bytes())
    page = 4096
    for start in range(20 * page, len(damaged), page):
        damaged[start : start + 64] = b"\xa5" * 64
    path.write_bytes(damaged)
    with pytest.raises(SetupError, match="is damaged"):
        await Database.open(path)


async def test_other_reads_do_not_wait_for_reports(db: Database) -> None:
    running = threading.Event()
    await db.reports._connection.create_function("begin", 0, running.set)
    endless = "WITH RECURSIVE n (i) AS (SELECT begin() UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
    report = asyncio.create_task(db.reports.fetch_all(endless))
    # Only a statement that runs can be interrupted.
    assert await asyncio.to_thread(running.wait, 30)
    assert await db.fetch_one("SELECT 1") is not None
    await _put(db, "a", "1")
    assert not report.done()
    await db.reports._connection.interrupt()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await report


async def test_a_home_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        await Database.open(tmp_path / "file" / "home" / "llb.db")
    (tmp_path / "llb.db").mkdir()
    with pytest.raises(SetupError, match="cannot be used"):
        await Database.open(tmp_path / "llb.db")


@contextmanager
def permissions_of_an_ordinary_user() -> Iterator[None]:
    """Take from this thread, if it is root's, the right to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable capabilities, 32 of each, then the next 32 of each.
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    without = type(before).from_buffer_copy(before)
    without[0] = before[0] & ~_CAP_DAC_OVERRIDE
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.mark.skipif(
    os.geteuid() == 0 and not sys.platform.startswith("linux"), reason="root may write anywhere"
)
def test_an_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with permissions_of_an_ordinary_user(), pytest.raises(SetupError, match="Permission denied"):
        prepare_database(tmp_path / "llb.db")
    tmp_path.chmod(0o700)


async def test_a_backup_is_an_independent_database(db: Database, tmp_path: Path) -> None:
    await _put(db, "a", "1")
    target = tmp_path / "copy.db"
    await db.backup(target)
    await _put(db, "a", "2")
    assert target.stat().st_mode & 0o777 == 0o600
    copy = await Database.open(target)
    assert await settings.get(copy, "a") == "1"
    await copy.close()
