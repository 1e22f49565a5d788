"""A power cut loses all data that was not synced, but no commit of the database."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llb.store import database
from llb.store.backup import find_database_defect
from llb.store.database import Database
from tests import speedups

pytestmark = pytest.mark.usefixtures("real_migrations")

ROWS = 40


@pytest.mark.parametrize("seed", range(12))
async def test_a_write_ahead_log_that_ends_anywhere(tmp_path: Path, seed: int) -> None:
    """`synchronous = FULL` syncs the log at each commit.

    A power cut can only lose the end of the log that was being written, and may leave garbage after it.
    """
    rng = random.Random(seed)
    path, cut = tmp_path / "llb.db", tmp_path / "cut"
    cut.mkdir()
    db = await Database.open(path)
    ends: list[int] = []
    log = path.with_name("llb.db-wal")
    try:
        for number in range(ROWS):
            async with db.write() as tx:
                await tx.execute("INSERT INTO settings VALUES (?, ?)", (f"row{number:02}", "x" * 500))
            ends.append(log.stat().st_size)
        at = rng.randint(ends[5], ends[-1])
        shutil.copy(path, cut / path.name)
        shutil.copy(log, cut / log.name)
    finally:
        await db.close()
    with (cut / log.name).open("rb+") as file:
        file.truncate(at)
        # Pages that were allocated and never written.
        if seed % 2:
            file.seek(at)
            file.write(rng.randbytes(3000))
    committed = sum(end <= at for end in ends)
    assert find_database_defect(cut / path.name) is None
    again = await Database.open(cut / path.name)
    try:
        found = [
            row["key"] for row in await again.fetch_all("SELECT key FROM settings WHERE key LIKE 'row%'")
        ]
        assert sorted(found) == [f"row{number:02}" for number in range(committed)]
        async with again.write() as tx:
            await tx.execute("INSERT INTO settings VALUES ('after', 'it')")
    finally:
        await again.close()


async def test_every_commit_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_connect", speedups.REAL_CONNECT)
    db = await Database.open(tmp_path / "llb.db")
    try:
        [(level,)] = await db._writer.execute_fetchall("PRAGMA synchronous")
        # FULL.
        assert level == 2
    finally:
        await db.close()


@pytest.mark.parametrize("name", ["llb-schema3.backup.db.partial", "llb.db.restoring", ".tls.pem.abcdef"])
async def test_partial_files_do_no_harm(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"half")
    db = await Database.open(tmp_path / "llb.db")
    await db.close()
    with closing(sqlite3.connect(tmp_path / "llb.db")) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
