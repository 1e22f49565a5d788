"""Backups in a directory: one file each, of which the newest are kept; on command and on a timer."""

from __future__ import annotations

import asyncio
import calendar
import logging
import re
import sqlite3
import time
from pathlib import Path

from llb.base import platform_compat
from llb.errors import LlbError, SetupError
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditActor
from llb.texts.coded_text import CodedText

log = logging.getLogger(__name__)

# UTC, so that the order of the names is the order of time.
_NAME_FORMAT = "llb-%Y%m%dT%H%M%SZ.backup"
_NAME = re.compile(r"llb-[0-9]{8}T[0-9]{6}Z\.backup")
# The start of the server has priority.
START_DELAY_S = 30.0
# A timer does not run while the host is suspended, so the time that has elapsed is compared this often.
CHECK_INTERVAL_S = 600.0


def list_backups(directory: Path) -> list[Path]:
    """Return the backups in `directory`, the oldest first. Other files do not count. Raises OSError."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _is_backup_name(path.name) and path.is_file())


def _is_backup_name(name: str) -> bool:
    if not _NAME.fullmatch(name):
        return False
    try:
        time.strptime(name, _NAME_FORMAT)
    except ValueError:
        # Digits that are not a date: not a file of llb.
        return False
    return True


async def save_backup(db: Database, directory: Path, *, keep: int, actor: AuditActor) -> Path:
    """Write a backup into `directory`, then remove the oldest ones until `keep` are left; return its path.

    Raises OSError, `sqlite3.Error`, and `SetupError` for a damaged database.
    """
    await asyncio.to_thread(platform_compat.make_private_dir, directory)
    path = await asyncio.to_thread(_unused_path, directory, db.clock.now())
    async with db.write() as tx:
        await audit.record(tx, actor=actor, action="database.backup", target=path.name)
    await db.backup(path)
    await asyncio.to_thread(_remove_oldest, directory, keep, path)
    return path


class BackupTimer:
    """Backups of a running server, one each `interval_s`. `problem` says why the last one failed.

    The age of the newest file in the directory counts, so that a restart neither repeats nor skips a backup.
    """

    def __init__(self, db: Database, directory: Path, *, interval_s: float, keep: int) -> None:
        self.problem: str | None = None
        self._db = db
        self._directory = directory
        self._interval_s = interval_s
        self._keep = keep

    async def run(self) -> None:
        """Make backups until cancelled; after a failure, try again in ten minutes or at the next one."""
        delay_s = max(START_DELAY_S, await asyncio.to_thread(self.remaining_s, self._db.clock.now()))
        due_at = platform_compat.elapsed_s() + delay_s
        while True:
            remaining_s = due_at - platform_compat.elapsed_s()
            if remaining_s > 0:
                await asyncio.sleep(min(remaining_s, CHECK_INTERVAL_S))
                continue
            await self.save()
            delay_s = self._interval_s if self.problem is None else min(self._interval_s, CHECK_INTERVAL_S)
            due_at = platform_compat.elapsed_s() + delay_s

    async def save(self) -> None:
        """Make a backup now. A failure is logged and kept as `problem`."""
        try:
            path = await save_backup(self._db, self._directory, keep=self._keep, actor=audit.SYSTEM)
        except (OSError, sqlite3.Error, LlbError, SetupError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            self.problem = CodedText(
                "backup_failed",
                "The automatic backup to {directory} failed ({cause}): make room "
                "there, or choose another directory with --backup-to.",
                directory=str(self._directory),
                cause=reason.rstrip("."),
            )
            log.error("%s", self.problem)
        else:
            self.problem = None
            log.info("saved the database to %s", path)

    def remaining_s(self, now: float) -> float:
        """Seconds until the next backup is due, by the newest file in the directory."""
        try:
            backups = list_backups(self._directory)
        except OSError:
            # The attempt says why.
            return 0.0
        if not backups:
            return 0.0
        age_s = now - _saved_at(backups[-1])
        # A file of the future was written while the clock was ahead.
        return max(0.0, self._interval_s - age_s) if age_s >= 0 else 0.0


def _unused_path(directory: Path, now: float) -> Path:
    backups = list_backups(directory)
    newest = _saved_at(backups[-1]) if backups else 0.0
    if 0 <= newest - int(now) < CHECK_INTERVAL_S:
        # Several a second: the names keep the order.
        now = newest + 1.0
    while (path := directory / time.strftime(_NAME_FORMAT, time.gmtime(now))).exists():
        now += 1.0
    return path


def _saved_at(path: Path) -> float:
    return float(calendar.timegm(time.strptime(path.name, _NAME_FORMAT)))


def _remove_oldest(directory: Path, keep: int, newest: Path) -> None:
    # The new one stays in any case: a clock that was set back names it as the oldest.
    others = [path for path in list_backups(directory) if path != newest]
    for path in others[: max(0, len(others) - keep + 1)]:
        path.unlink(missing_ok=True)
