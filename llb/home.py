"""The home directory of this process, and the lock that makes it the only one there."""

from __future__ import annotations

import time
from pathlib import Path

from llb import portable, runfile
from llb.errors import SetupError

LOCK_TRIES, LOCK_PAUSE_S = 10, 0.05


def take(home: Path, models_dir: Path) -> portable.Lock:
    """Have both directories exist, and lock `home`. Blocking. Raises `SetupError` that names the one who holds it."""
    lock: portable.Lock | None = None
    try:
        portable.private_dir(home)
        models_dir.mkdir(parents=True, exist_ok=True)
        # A command that looks whether a server runs holds the lock for a moment: that is no second server.
        for _ in range(LOCK_TRIES):
            lock = portable.lock_file(home / runfile.LOCK_NAME)
            if lock is not None:
                return lock
            time.sleep(LOCK_PAUSE_S)
    except OSError as error:
        raise SetupError(
            f"The data directory {home} cannot be used: {error.strerror}; choose another with --home."
        ) from None
    owner = portable.lock_owner(home / runfile.LOCK_NAME)
    raise SetupError(
        f"Another llb (process {owner or 'unknown'}) uses {home}: stop it, or choose another --home."
    )
