"""Storage monitor: lost files, disks that fill, and what of it is logged again."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from llb.base import platform_compat
from llb.store import storage_monitor
from llb.store.ballast import BALLAST_BYTES
from llb.store.database import Database
from llb.store.storage_monitor import MIN_FREE_HOME_BYTES, StorageMonitor

RESERVE_BYTES = 2 * MIN_FREE_HOME_BYTES
AMPLE_BYTES = 10 * RESERVE_BYTES


class Disks:
    """Free bytes as the test sets them, of the home and of the models directory."""

    def __init__(self, db: Database, models_dir: Path) -> None:
        self.db, self.models_dir = db, models_dir
        self.home_bytes = self.models_bytes = AMPLE_BYTES
        self.is_broken = False
        self.monitor = StorageMonitor(
            db, models_dir, download_reserve_bytes=RESERVE_BYTES, free_bytes_of=self.free_bytes_of
        )

    def free_bytes_of(self, path: Path) -> int:
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        return self.models_bytes if path == self.models_dir else self.home_bytes

    async def problem(self) -> str | None:
        """Check now; returns the code of the only problem, None without one."""
        await self.monitor.refresh()
        codes = [getattr(problem, "code", problem) for problem in self.monitor.problems]
        assert len(codes) <= 1
        return codes[0] if codes else None


@pytest.fixture
def disks(db: Database, tmp_path: Path) -> Disks:
    models_dir = tmp_path / "models"
    models_dir.mkdir()
    return Disks(db, models_dir)


@pytest.mark.parametrize(
    ("home_bytes", "models_bytes", "problem"),
    [
        (AMPLE_BYTES, AMPLE_BYTES, None),
        (MIN_FREE_HOME_BYTES, RESERVE_BYTES, None),
        (MIN_FREE_HOME_BYTES - 1, AMPLE_BYTES, "home_disk_almost_full"),
        (BALLAST_BYTES, AMPLE_BYTES, "home_disk_almost_full"),
        (BALLAST_BYTES - 1, AMPLE_BYTES, "home_disk_full"),
        (AMPLE_BYTES, RESERVE_BYTES - 1, "models_disk_almost_full"),
        # On one disk it is told once, as the worse of the two.
        (BALLAST_BYTES - 1, BALLAST_BYTES - 1, "home_disk_full"),
    ],
)
async def test_how_full_is_too_full(
    disks: Disks, home_bytes: int, models_bytes: int, problem: str | None
) -> None:
    disks.home_bytes, disks.models_bytes = home_bytes, models_bytes
    assert await disks.problem() == problem


async def test_a_disk_that_cannot_be_read_is_told(disks: Disks) -> None:
    disks.is_broken = True
    assert await disks.problem() == "disk_not_readable"
    assert disks.monitor.problems == ("The disk of this host cannot be read: Input/output error.",)
    disks.is_broken = False
    assert await disks.problem() is None


async def test_a_problem_is_logged_once_until_it_has_ended(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of free bytes in the sentence changes all the time."""
    logged: list[int] = []
    with caplog.at_level(logging.WARNING, storage_monitor.log.name):
        for home_bytes in (BALLAST_BYTES, BALLAST_BYTES + 5_000_000, AMPLE_BYTES, BALLAST_BYTES):
            disks.home_bytes = home_bytes
            await disks.problem()
            logged.append(len(caplog.records))
    assert logged == [1, 1, 1, 2]


async def test_a_database_that_was_moved_away_is_an_error(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    away = disks.db.path.with_name("away.db")
    disks.db.path.rename(away)
    with caplog.at_level(logging.WARNING, storage_monitor.log.name):
        assert await disks.problem() == "database_lost"
    assert disks.monitor.is_database_lost is True
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    away.rename(disks.db.path)
    assert await disks.problem() is None


async def test_a_models_directory_that_was_replaced_is_told(disks: Disks, tmp_path: Path) -> None:
    # `run` remembers it.
    disks.monitor._models_dir_identity = platform_compat.file_identity(disks.models_dir)
    disks.models_dir.rename(tmp_path / "away")
    assert await disks.problem() == "models_dir_lost"
    disks.models_dir.mkdir()
    assert await disks.problem() == "models_dir_lost"
    disks.models_dir.rmdir()
    (tmp_path / "away").rename(disks.models_dir)
    assert await disks.problem() is None
