"""Backups in a directory: the newest are kept, and the timer counts from the newest file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llb.store.backup import find_database_defect
from llb.store.backup_rotation import BackupTimer, list_backups, save_backup
from llb.store.database import Database
from llb.store.tables import audit

DAY_S = 86_400.0


def touch_backup(directory: Path, at: float) -> Path:
    """An empty file with the name of a backup of that moment."""
    path = directory / time.strftime("llb-%Y%m%dT%H%M%SZ.backup", time.gmtime(at))
    path.touch()
    return path


async def test_the_newest_are_kept_and_other_files_left_alone(db: Database, tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "backups"
    made = [await save_backup(db, directory, keep=2, actor=audit.SYSTEM) for _ in range(3)]
    other = directory / "llb-notes.backup"
    other.touch()
    # Digits that are no date.
    (directory / "llb-99999999T999999Z.backup").touch()
    made.append(await save_backup(db, directory, keep=2, actor=audit.SYSTEM))
    assert list_backups(directory) == made[2:]
    # Several a second have names of the next seconds.
    assert BackupTimer(db, directory, interval_s=DAY_S, keep=2).remaining_s(time.time() + 60) > 0
    assert other.exists()
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in made[2:]:
        assert path.stat().st_mode & 0o777 == 0o600
        assert find_database_defect(path) is None
    rows = await db.fetch_all("SELECT actor, target FROM audit WHERE action = 'database.backup' ORDER BY id")
    assert [tuple(row) for row in rows] == [("system", path.name) for path in made]


async def test_a_clock_that_was_set_back_does_not_remove_the_new_backup(db: Database, tmp_path: Path) -> None:
    future = [touch_backup(tmp_path, time.time() + days * DAY_S) for days in (1, 2)]
    new = await save_backup(db, tmp_path, keep=2, actor=audit.SYSTEM)
    assert list_backups(tmp_path) == [new, future[1]]


@pytest.mark.parametrize(("age_s", "remaining_s"), [(None, 0), (0.25 * DAY_S, 0.75 * DAY_S), (3 * DAY_S, 0)])
async def test_the_next_backup_is_due_an_interval_after_the_newest_file(
    db: Database, tmp_path: Path, age_s: float | None, remaining_s: float
) -> None:
    now = 1_800_000_000.0
    if age_s is not None:
        touch_backup(tmp_path, now - age_s - DAY_S)
        touch_backup(tmp_path, now - age_s)
    timer = BackupTimer(db, tmp_path, interval_s=DAY_S, keep=7)
    assert timer.remaining_s(now) == remaining_s
    touch_backup(tmp_path, now + 60)
    assert timer.remaining_s(now) == 0


async def test_a_failure_is_a_problem_until_a_backup_succeeds(db: Database, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.write_text("a file is in its place")
    timer = BackupTimer(db, directory, interval_s=DAY_S, keep=7)
    await timer.save()
    assert f"to {directory} failed (" in str(timer.problem)
    directory.unlink()
    await timer.save()
    assert (timer.problem, len(list_backups(directory))) == (None, 1)
