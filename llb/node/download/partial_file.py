"""The part of a file that has arrived: bytes in order, their running sha256, and how much would survive a power cut.

Others may read along (`shared`): they are shown what is written, and nothing that is taken away under them.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from llb.base import platform_compat
from llb.node.files import file_stamp_of
from llb.node.sharing.growing_file import GrowingFile

GGUF_MAGIC = b"GGUF"
READ_CHUNK_BYTES = 1 << 20


class PartialFile:
    """A file being filled from its beginning. Used by one thread; `have_bytes` and `synced_bytes` may be read by any.

    Every method raises OSError as the disk does.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.have_bytes = 0
        self.synced_bytes = 0
        self.growing_file = GrowingFile(path, size_bytes)
        self._hash = hashlib.sha256()
        self._fd: int | None = None
        self._sync_thread: threading.Thread | None = None
        self._sync_error: OSError | None = None

    @property
    def is_complete(self) -> bool:
        return self.have_bytes == self.size_bytes

    @property
    def sha256(self) -> str:
        """Of the bytes so far, lower hex."""
        return self._hash.hexdigest()

    def open(self) -> None:
        """Take what an earlier process left; `rehash()` must follow before anything is appended."""
        self._fd = platform_compat.open_for_update(self.path)
        platform_compat.fsync_dir(self.path.parent)
        status = os.fstat(self._fd)
        self.have_bytes = status.st_size
        # With a second name the file is somebody else's too (an adopted one): read it, never write into it.
        if self.have_bytes > self.size_bytes or (status.st_nlink > 1 and not self.is_complete):
            self.discard()

    def rehash(self) -> Iterator[int]:
        """Read what is on disk into the hash, yielding the bytes read so far; empties it if it cannot be a GGUF file."""
        self._hash = hashlib.sha256()
        done = 0
        with self.path.open("rb", buffering=0) as file:
            while done < self.have_bytes and (
                piece := file.read(min(READ_CHUNK_BYTES, self.have_bytes - done))
            ):
                if not matches_gguf_magic(piece, done):
                    break
                self._hash.update(piece)
                done += len(piece)
                yield done
        if done < self.have_bytes:
            self.discard()
        self.growing_file.set_available(self.have_bytes)

    def append(self, chunk: bytes) -> None:
        platform_compat.pwrite(self._require_open_fd(), chunk, self.have_bytes)
        self._hash.update(chunk)
        self.have_bytes += len(chunk)
        self.growing_file.set_available(self.have_bytes)

    def sync_in_background(self) -> None:
        """Begin to make what has arrived durable while more arrives; raises what the previous time met."""
        if self._sync_thread is not None and self._sync_thread.is_alive():
            return
        self._join_sync_thread()
        # A descriptor of its own, so that closing ours never waits for a slow disk.
        arguments = os.dup(self._require_open_fd()), self.have_bytes
        self._sync_thread = threading.Thread(target=self._sync, args=arguments, name="sync", daemon=True)
        self._sync_thread.start()

    def _sync(self, fd: int, have_bytes: int) -> None:
        try:
            os.fsync(fd)
            self.synced_bytes = have_bytes
        except OSError as error:
            # The kernel reports a failed write once: swallowed here, the last sync would find nothing wrong.
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
        """Begin anew with an empty file."""
        self._join_sync_thread()
        self.close()
        with self.growing_file.exclusive_access():
            self.growing_file.start_new_generation()
            self.path.unlink(missing_ok=True)
            self._fd = platform_compat.open_for_update(self.path)
        self.have_bytes = self.synced_bytes = 0
        self._hash = hashlib.sha256()

    def commit_to(self, destination: Path) -> None:
        """Sync, and take the place of `target` durably."""
        self.sync()
        self.close()
        with self.growing_file.exclusive_access():
            platform_compat.replace_durably(self.path, destination)
            self.growing_file.mark_complete(destination, file_stamp_of(destination.stat()))

    def close(self) -> None:
        """Idempotent; the bytes stay on disk."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _require_open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path.name} is not open")
        return self._fd


def matches_gguf_magic(chunk: bytes, offset: int) -> bool:
    """Whether a file with `piece` at `offset` can still begin with the GGUF magic."""
    expected = GGUF_MAGIC[offset : offset + len(chunk)]
    return chunk[: len(expected)] == expected
