"""The home directory of this process, and the lock that makes it the only one there."""

from __future__ import annotations

import time
from pathlib import Path

from llb.base import platform_compat, runfile
from llb.errors import SetupError

LOCK_ATTEMPTS, LOCK_RETRY_DELAY_S = 10, 0.05


def acquire_lock(home: Path, models_dir: Path) -> platform_compat.FileLock:
    """Have both directories exist, and lock `home`. Blocking. Raises `SetupError` that names the one who holds it."""
    lock: platform_compat.FileLock | None = None
    try:
        platform_compat.make_private_dir(home)
        models_dir.mkdir(parents=True, exist_ok=True)
        # A command that looks whether a server runs holds the lock for a moment: that is no second server.
        for _ in range(LOCK_ATTEMPTS):
            lock = platform_compat.try_lock_file(home / runfile.LOCK_NAME)
            if lock is not None:
                return lock
            time.sleep(LOCK_RETRY_DELAY_S)
    except OSError as error:
        raise SetupError(
            f"The data directory {home} cannot be used: {error.strerror}; choose another with --home."
        ) from None
    owner = platform_compat.read_lock_owner(home / runfile.LOCK_NAME)
    raise SetupError(
        f"Another llb (process {owner or 'unknown'}) uses {home}: stop it, or choose another --home."
    )
