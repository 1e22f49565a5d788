"""Data directory of a server, and the lock that admits one process at a time."""

from __future__ import annotations

import time
from pathlib import Path

from llb.base import platform_compat, runfile
from llb.errors import SetupError

LOCK_ATTEMPTS, LOCK_RETRY_DELAY_S = 10, 0.05


def acquire_lock(home: Path, models_dir: Path) -> platform_compat.FileLock:
    """Create both directories and lock `home`; blocking, half a second at most.

    Raises `SetupError` that names the process which holds the lock.
    """
    lock: platform_compat.FileLock | None = None
    try:
        platform_compat.make_private_dir(home)
        models_dir.mkdir(parents=True, exist_ok=True)
        # A command that checks whether a server runs holds the lock for a moment, and is no second server.
        for _ in range(LOCK_ATTEMPTS):
            lock = platform_compat.try_lock_file(home / runfile.LOCK_NAME)
            if lock is not None:
                return lock
            time.sleep(LOCK_RETRY_DELAY_S)
    except OSError as error:
        raise SetupError(
            f"The data directory {home} cannot be used: {error.strerror}; choose another one with --home."
        ) from None
    owner = platform_compat.read_lock_owner(home / runfile.LOCK_NAME)
    raise SetupError(
        f"Another llb (process {owner or 'unknown'}) is using {home}: stop it, or choose another --home."
    )
