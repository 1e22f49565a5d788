"""Integrity check of a large database in the background, and its cheap opening."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llb.errors import SetupError
from llb.store import database, schema
from llb.store.database import Database
from llb.store.integrity_check import IntegrityCheck
from llb.store.migrations import MIGRATIONS


@pytest.fixture
async def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed database that counts as large."""
    path = tmp_path / "llb.db"
    db = await Database.open(path)
    async with db.write() as tx:
        await tx.execute_many(
            "INSERT INTO settings (key, value) VALUES (?, ?)", [(str(n), "x" * 500) for n in range(500)]
        )
    await db.close()
    for module in (schema, database):
        monkeypatch.setattr(module, "CHECKED_AT_OPEN_BYTES", 0)
    return path


def damage(path: Path) -> None:
    """Damage a page in the middle, which a start does not read."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(content)


async def test_a_large_database_opens_without_a_check_and_is_checked_later(path: Path) -> None:
    check = IntegrityCheck(path)
    await check.run()
    assert check.problem is None
    damage(path)
    db = await Database.open(path)
    try:
        await check.run()
        problem = str(check.problem)
        assert "is damaged" in problem
        assert "llb restore FILE" in problem
        # No backup is made of it.
        with pytest.raises(SetupError, match="is damaged"):
            await db.backup(path.with_name("copy.db"))
        assert not path.with_name("copy.db").exists()
    finally:
        await db.close()


async def test_a_small_one_is_checked_when_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(path)
    monkeypatch.setattr(schema, "CHECKED_AT_OPEN_BYTES", 64_000_000)
    with pytest.raises(SetupError, match="is damaged"):
        await Database.open(path)
    check = IntegrityCheck(path)
    await check.run()
    assert check.problem is None


async def test_one_that_is_migrated_is_checked_first(path: Path) -> None:
    damage(path)
    with pytest.raises(SetupError, match="is damaged"):
        await Database.open(path, (*MIGRATIONS, lambda _connection: None))


async def test_a_stop_does_not_wait_for_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = IntegrityCheck(path)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def check_for_ever(connection: object, _pragma: str) -> None:
        loop.call_soon_threadsafe(started.set)
        connection.execute(  # type: ignore[attr-defined]
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        ).fetchone()

    monkeypatch.setattr(schema, "find_integrity_problem", check_for_ever)
    running = asyncio.create_task(check.run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # Returns only after the thread has ended.
    async with asyncio.timeout(30):
        while check._connection is not None:
            await asyncio.sleep(0.01)
