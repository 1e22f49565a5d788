"""Partial file: the downloaded bytes of a file in order, their running sha256, and how many are durable.

Other nodes read its `growing_file`, in which bytes never change while they are read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from llb.base import platform_compat
from llb.node.download.running_hash import RunningHash
from llb.node.files import file_stamp_of
from llb.node.sharing.growing_file import GrowingFile

GGUF_MAGIC = b"GGUF"
READ_CHUNK_BYTES = 1 << 20


class PartialFile:
    """A file that one thread writes from its start; any thread may read `have_bytes` and `synced_bytes`.

    Every method raises OSError for disk errors.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.have_bytes = 0
        self.synced_bytes = 0
        self.growing_file = GrowingFile(path, size_bytes)
        self._hash = RunningHash()
        self._fd: int | None = None
        self._sync_thread: threading.Thread | None = None
        self._sync_error: OSError | None = None

    @property
    def is_complete(self) -> bool:
        return self.have_bytes == self.size_bytes

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes so far, in lower-case hex."""
        return self._hash.hexdigest()

    def open(self) -> None:
        """Open the file that an earlier process may have left; call `rehash()` before `append()`."""
        self._fd = platform_compat.open_for_update(self.path)
        platform_compat.fsync_dir(self.path.parent)
        status = os.fstat(self._fd)
        self.have_bytes = status.st_size
        # A file with a second link (an imported one) belongs to another program too and is not modified.
        if self.have_bytes > self.size_bytes or (status.st_nlink > 1 and not self.is_complete):
            self.discard()

    def rehash(self) -> Iterator[int]:
        """Hash the bytes on disk, yielding the number hashed so far; discards them if they are not GGUF."""
        self._hash.restart()
        hashed_bytes = 0
        with self.path.open("rb", buffering=0) as file:
            while hashed_bytes < self.have_bytes and (
                chunk := file.read(min(READ_CHUNK_BYTES, self.have_bytes - hashed_bytes))
            ):
                if not matches_gguf_magic(chunk, hashed_bytes):
                    break
                self._hash.update(chunk)
                hashed_bytes += len(chunk)
                yield hashed_bytes
        if hashed_bytes < self.have_bytes:
            self.discard()
        self.growing_file.set_available(self.have_bytes)

    def append(self, chunk: bytes | memoryview) -> None:
        """Write a chunk, which must not change until the next call."""
        platform_compat.pwrite(self._require_open_fd(), chunk, self.have_bytes)
        self._hash.update(chunk)
        self.have_bytes += len(chunk)
        self.growing_file.set_available(self.have_bytes)

    def finish_chunk(self) -> None:
        """Wait until the last chunk may change."""
        self._hash.finish_chunk()

    def sync_in_background(self) -> None:
        """Start to make the bytes so far durable; raises the error of the previous background sync."""
        if self._sync_thread is not None and self._sync_thread.is_alive():
            return
        self._join_sync_thread()
        # It has a descriptor of its own, so that `close()` never waits for a slow disk.
        arguments = os.dup(self._require_open_fd()), self.have_bytes
        self._sync_thread = threading.Thread(target=self._sync, args=arguments, name="sync", daemon=True)
        self._sync_thread.start()

    def _sync(self, fd: int, have_bytes: int) -> None:
        try:
            os.fsync(fd)
            self.synced_bytes = have_bytes
        except OSError as error:
            # The kernel reports a failed write only once: ignored here, the last sync would succeed.
            self._sync_error = error
        finally:
            os.close(fd)

    def _join_sync_thread(self) -> None:
        if self._sync_thread is not None:
            self._sync_thread.join()
            self._sync_thread = None
        if self._sync_error is not None:
            raise self._sync_error

    def sync(self) -> None:
        """Make every byte so far durable."""
        self._join_sync_thread()
        os.fsync(self._require_open_fd())
        self.synced_bytes = self.have_bytes

    def discard(self) -> None:
        """Start again with an empty file."""
        self._join_sync_thread()
        self.close()
        with self.growing_file.exclusive_access():
            self.growing_file.start_new_generation()
            self.path.unlink(missing_ok=True)
            self._fd = platform_compat.open_for_update(self.path)
        self.have_bytes = self.synced_bytes = 0
        self._hash.restart()

    def commit_to(self, destination: Path) -> None:
        """Sync, and replace `destination` durably."""
        self.sync()
        self.close()
        with self.growing_file.exclusive_access():
            platform_compat.replace_durably(self.path, destination)
            self.growing_file.mark_complete(destination, file_stamp_of(destination.stat()))

    def close(self) -> None:
        """Close the file, which stays on disk; idempotent."""
        self._hash.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _require_open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path.name} is not open")
        return self._fd


def matches_gguf_magic(chunk: bytes | memoryview, offset: int) -> bool:
    """Whether a file with `chunk` at `offset` can start with the GGUF magic."""
    expected = GGUF_MAGIC[offset : offset + len(chunk)]
    return chunk[: len(expected)] == expected
