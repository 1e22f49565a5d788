"""Data directory and models directory of a server, and their locks, which admit one process at a time."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from pathlib import Path

from llb.base import platform_compat, runfile
from llb.errors import SetupError

log = logging.getLogger(__name__)

MODELS_LOCK_NAME = ".llb.lock"
LOCK_ATTEMPTS, LOCK_RETRY_DELAY_S = 10, 0.05
# Nothing in a read-only directory can be deleted, and some network file systems have no locks.
_LOCKLESS_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
)


class DataDirLock:
    """Locks of a data directory and of its models directory, held until `close()`."""

    def __init__(self, *locks: platform_compat.FileLock | None) -> None:
        self._locks = locks

    def close(self) -> None:
        """Release the locks; idempotent."""
        for lock in self._locks:
            if lock is not None:
                lock.close()


def acquire_lock(home: Path, models_dir: Path) -> DataDirLock:
    """Create both directories and lock them; blocking, a second at most.

    Raises `SetupError` that names the process which holds a lock.
    """
    try:
        platform_compat.make_private_dir(home)
        lock = _lock_with_retries(home / runfile.LOCK_NAME, str(home))
    except OSError as error:
        raise SetupError(
            f"The data directory {home} cannot be used: {error.strerror}; choose another one with --home."
        ) from None
    if lock is None:
        owner = platform_compat.read_lock_owner(home / runfile.LOCK_NAME)
        raise SetupError(
            f"Another llb (process {owner or 'unknown'}) is using {home}: stop it, or choose another --home."
        )
    try:
        return DataDirLock(lock, lock_models_dir(models_dir, home))
    except BaseException:
        lock.close()
        raise


def lock_models_dir(models_dir: Path, home: Path) -> platform_compat.FileLock | None:
    """Create and lock the models directory for the llb of `home`; None where it cannot be locked.

    Two llbs with one models directory would delete each other's files. Raises `SetupError` that names the
    other one.
    """
    path = models_dir / MODELS_LOCK_NAME
    note = f"{home} on {socket.gethostname()}"
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock_with_retries(path, note)
    except OSError as error:
        remedy = f"{error.strerror}; choose another one with --models-dir"
        if path.exists() and os.access(models_dir, os.W_OK):
            remedy = f"{path} belongs to another user's llb; remove that file if it no longer runs"
        elif error.errno in _LOCKLESS_ERRNOS and models_dir.is_dir():
            log.warning(
                "the models directory %s cannot be locked (%s): make sure that no other llb uses it",
                models_dir,
                error.strerror,
            )
            return None
        raise SetupError(f"The models directory {models_dir} cannot be used: {remedy}.") from None
    if lock is None:
        owner = platform_compat.read_lock_owner(path) or "unknown"
        other_home = platform_compat.read_lock_note(path) or "unknown"
        raise SetupError(
            f"The models directory {models_dir} is used by another llb (process {owner}, home {other_home}): "
            "stop it, or choose another directory with --models-dir."
        )
    return lock


def _lock_with_retries(path: Path, note: str) -> platform_compat.FileLock | None:
    # A command that checks whether a server runs holds the lock for a moment, and is no second server.
    for _ in range(LOCK_ATTEMPTS):
        lock = platform_compat.try_lock_file(path, note)
        if lock is not None:
            return lock
        time.sleep(LOCK_RETRY_DELAY_S)
    return None
