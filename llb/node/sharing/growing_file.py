"""Growing file: a file that other nodes read, complete or while it is downloaded.

It has one writer, the download, and any number of readers in other threads. Bytes that a reader has seen
never change: a download that starts again starts a new generation, and a reader belongs to one generation.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llb.node.files import FileStamp, file_stamp_of


class ContentLost(Exception):
    """The file can no longer be read: its download ended or started again, or the file was changed."""


class GrowingFile:
    """Available bytes and waiting readers of a file. With a `stamp` it is complete and verified."""

    def __init__(self, path: Path, size_bytes: int, stamp: FileStamp | None = None) -> None:
        self.size_bytes = size_bytes
        self._path = path
        self._stamp = stamp
        self._have_bytes = 0 if stamp is None else size_bytes
        self._generation = 0
        self._is_closed = False
        self._pending_reads: dict[object, tuple[int, Callable[[], None]]] = {}
        # Guards all of the above; never held across I/O.
        self._state_lock = threading.Lock()
        # Held during I/O, so that the file is not moved or removed while it is read.
        self._io_lock = threading.Lock()

    @property
    def have_bytes(self) -> int:
        return self._have_bytes

    @property
    def is_verified(self) -> bool:
        return self._stamp is not None

    @property
    def is_growing(self) -> bool:
        """Whether more bytes may arrive."""
        return not (self.is_verified or self._is_closed)

    @property
    def generation(self) -> int:
        """The current generation; read it before `have_bytes`."""
        return self._generation

    # --- writer -------------------------------------------------------------------------------------

    def set_available(self, have_bytes: int) -> None:
        """Publish that the first `have_bytes` are written and final."""
        with self._state_lock:
            self._have_bytes = have_bytes
            ready = [key for key, (target, _) in self._pending_reads.items() if target <= have_bytes]
            wake_callbacks = [self._pending_reads.pop(key)[1] for key in ready]
        for wake in wake_callbacks:
            wake()

    @contextmanager
    def exclusive_access(self) -> Iterator[None]:
        """Block readers while the block moves or removes the file."""
        with self._io_lock:
            yield

    def start_new_generation(self) -> None:
        """Invalidate all bytes; current readers get `ContentLost`."""
        with self._state_lock:
            self._generation += 1
            self._have_bytes = 0
            wake_callbacks = [wake for _, wake in self._pending_reads.values()]
            self._pending_reads.clear()
        for wake in wake_callbacks:
            wake()

    def mark_complete(self, path: Path, stamp: FileStamp) -> None:
        """Publish the complete, verified file, which is at `path` from now on."""
        with self._state_lock:
            self._path, self._stamp = path, stamp
        self.set_available(self.size_bytes)

    def close(self) -> None:
        """Stop growing: an incomplete file becomes unreadable, a complete one stays."""
        if not self.is_verified:
            self._is_closed = True
            self.start_new_generation()

    # --- readers ------------------------------------------------------------------------------------

    def read(self, generation: int, offset: int, size_bytes: int) -> bytes:
        """Read between one and `size_bytes` available bytes at `offset`. Blocks; raises `ContentLost`."""
        with self._io_lock:
            with self._state_lock:
                path, stamp = self._path, self._stamp
                size_bytes = min(size_bytes, self._have_bytes - offset)
                if generation != self._generation or size_bytes <= 0:
                    raise ContentLost
            try:
                with path.open("rb", buffering=0) as file:
                    if stamp is not None and file_stamp_of(os.fstat(file.fileno())) != stamp:
                        raise ContentLost
                    file.seek(offset)
                    chunk = file.read(size_bytes)
            except OSError as error:
                raise ContentLost from error
        if not chunk:
            raise ContentLost
        return chunk

    async def wait_for_bytes(self, generation: int, target_bytes: int, timeout_s: float) -> bool:
        """Wait until `target_bytes` are available; False after `timeout_s`. Raises `ContentLost`."""
        wake_event = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The event loop may have been closed, and then there is no waiter left.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(wake_event.set)

        key = object()
        with self._state_lock:
            if generation != self._generation:
                raise ContentLost
            if self._have_bytes >= target_bytes:
                return True
            self._pending_reads[key] = (target_bytes, wake)
        try:
            async with asyncio.timeout(timeout_s):
                await wake_event.wait()
        except TimeoutError:
            return False
        finally:
            with self._state_lock:
                self._pending_reads.pop(key, None)
        if generation != self._generation:
            raise ContentLost
        return True
