"""Storage monitor: checks that database and models directory are in place and have room, and the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from llb.base import platform_compat
from llb.store.ballast import BALLAST_BYTES
from llb.store.database import Database
from llb.texts.coded_text import CodedText

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 5.0
MIN_FREE_HOME_BYTES = 100_000_000

DATABASE_LOST = CodedText(
    "database_lost",
    "The database of this host was deleted, moved or replaced while llb ran: nothing can be saved. Put it "
    "back, or restart llb and restore a backup with 'llb restore FILE'.",
)
MODELS_DIR_LOST = CodedText(
    "models_dir_lost",
    "The models directory of this host was deleted, moved or replaced while llb ran: put it back, or restart "
    "llb and pull the models again.",
)


class StorageMonitor:
    """Periodic check of database, models directory and disks. `problems` are sentences with a remedy."""

    def __init__(
        self,
        db: Database,
        models_dir: Path,
        *,
        download_reserve_bytes: int,
        free_bytes_of: Callable[[Path], int] = platform_compat.free_disk_bytes,
    ) -> None:
        """Downloads leave `download_reserve_bytes` of the disk of `models_dir`."""
        self.problems: tuple[str, ...] = ()
        self._db = db
        self._models_dir = models_dir
        self._models_dir_identity: tuple[int, int] | None = None
        self._download_reserve_bytes = download_reserve_bytes
        self._free_bytes_of = free_bytes_of

    @property
    def is_database_lost(self) -> bool:
        """Whether the last check found that what is written to the database is lost."""
        return DATABASE_LOST in self.problems

    async def run(self) -> None:
        """Check until cancelled; new problems are logged."""
        self._models_dir_identity = await asyncio.to_thread(platform_compat.file_identity, self._models_dir)
        while True:
            await self.refresh()
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def refresh(self) -> None:
        """Check now."""
        known, self.problems = self.problems, tuple(await asyncio.to_thread(self._find_problems))
        for problem in self.problems:
            # The number of free bytes changes all the time.
            if problem.partition(":")[0] not in {text.partition(":")[0] for text in known}:
                log.log(logging.ERROR if problem == DATABASE_LOST else logging.WARNING, "%s", problem)

    def _find_problems(self) -> list[str]:
        self._db.ballast.fill()
        clock_problem = self._db.clock.problem
        return [
            *self._find_lost_files(),
            *self._find_full_disks(),
            *(() if clock_problem is None else (clock_problem,)),
        ]

    def _find_lost_files(self) -> Iterator[str]:
        if self._db.file.is_lost():
            yield DATABASE_LOST
        identity = self._models_dir_identity
        if identity is not None and platform_compat.file_identity(self._models_dir) != identity:
            yield MODELS_DIR_LOST

    def _find_full_disks(self) -> Iterator[str]:
        try:
            home_bytes = self._free_bytes_of(self._db.path.parent)
            models_bytes = self._free_bytes_of(self._models_dir)
        except OSError as error:
            yield CodedText(
                "disk_not_readable",
                "The disk of this host cannot be read: {cause}.",
                cause=error.strerror or "unknown error",
            )
            return
        if home_bytes < BALLAST_BYTES:
            yield CodedText(
                "home_disk_full",
                "The disk of the data directory is full: {free} free. Models answer, but the history waits "
                "and nothing can be added. Remove models ('llb rm ID') or other files.",
                free=_megabytes(home_bytes),
            )
        elif home_bytes < MIN_FREE_HOME_BYTES:
            yield CodedText(
                "home_disk_almost_full",
                "The disk of the data directory is almost full: {free} free. Remove models ('llb rm ID') or "
                "other files.",
                free=_megabytes(home_bytes),
            )
        elif models_bytes < self._download_reserve_bytes:
            yield CodedText(
                "models_disk_almost_full",
                "The disk of the models directory is almost full: {free} free, of which downloads leave "
                "{reserve}. Remove models ('llb rm ID'), or choose a larger disk with --models-dir.",
                free=_megabytes(models_bytes),
                reserve=_megabytes(self._download_reserve_bytes),
            )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
