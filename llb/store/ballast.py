"""Ballast: disk space reserved for the writes that empty a full disk."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from llb.base import platform_compat

log = logging.getLogger(__name__)

BALLAST_FILE_NAME = "ballast"
BALLAST_BYTES = 8 << 20
# Largest part of a small disk.
MAX_DISK_SHARE = 1 / 8
# A transaction writes some pages of the write-ahead log, and SQLite may add a page of shared memory.
RELEASE_BYTES = 1 << 20
MIN_GROWTH_BYTES = 64 << 10


class Ballast:
    """File next to the database whose allocated blocks are partly freed for a write that must succeed.

    Deletions, revocations and logins use it when the disk is full. Several processes may share one file.
    Every method blocks. None raises OSError: without ballast the write itself fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def fill(self) -> None:
        """Create or complete the file, unless that would take the disk's last bytes."""
        with contextlib.suppress(OSError):
            target_bytes = min(
                BALLAST_BYTES, int(platform_compat.total_disk_bytes(self.path.parent) * MAX_DISK_SHARE)
            )
            missing_bytes = target_bytes - self.size_bytes
            if missing_bytes > 0 and platform_compat.free_disk_bytes(self.path.parent) >= 2 * target_bytes:
                self._grow_to(target_bytes)

    def release(self, *, everything: bool = False) -> int:
        """Free space if less than `RELEASE_BYTES` are left on the disk; returns how much was freed.

        `everything` frees the whole file, for a quota that the free space of the disk does not show.
        """
        try:
            size_bytes = self.size_bytes
            needed_bytes = RELEASE_BYTES - platform_compat.free_disk_bytes(self.path.parent)
            released_bytes = size_bytes if everything else min(size_bytes, max(0, needed_bytes))
            if released_bytes:
                os.truncate(self.path, size_bytes - released_bytes)
        except OSError as error:
            log.warning("the ballast file could not be used: %s", error)
            return 0
        return released_bytes

    def take_back(self, released_bytes: int) -> None:
        """Allocate what `release()` freed again, as far as it was not used."""
        while released_bytes >= MIN_GROWTH_BYTES:
            with contextlib.suppress(OSError):
                self._grow_to(self.size_bytes + released_bytes)
                return
            # A file system needs more than the bytes of the file, by an unknown amount.
            released_bytes //= 2

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Context in which at least `RELEASE_BYTES` of the disk are free, if there is ballast."""
        released_bytes = self.release()
        try:
            yield
        finally:
            self.take_back(released_bytes)

    def _grow_to(self, size_bytes: int) -> None:
        fd = platform_compat.open_for_update(self.path)
        try:
            old_bytes = os.fstat(fd).st_size
            try:
                platform_compat.allocate(fd, old_bytes, size_bytes - old_bytes)
            except OSError:
                # Otherwise the blocks allocated before the error would stay with the file, beyond its end.
                os.ftruncate(fd, old_bytes)
                raise
        finally:
            os.close(fd)
