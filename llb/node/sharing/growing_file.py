"""A file that other nodes may read here: as far as it has arrived, or whole.

It has one writer, the download, and any number of readers in other threads. What a reader has seen never turns into other
bytes: a download that begins anew begins another life of the file, and a reader belongs to one life.
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
    """What was being read is not there any more: its download ended or began anew, or the file was changed."""


class GrowingFile:
    """Where the bytes are, how many, and who waits for more. With a `mark` it is whole, verified and must not change."""

    def __init__(self, path: Path, size_bytes: int, stamp: FileStamp | None = None) -> None:
        self.size_bytes = size_bytes
        self._path = path
        self._stamp = stamp
        self._have_bytes = 0 if stamp is None else size_bytes
        self._generation = 0
        self._is_closed = False
        self._pending_reads: dict[object, tuple[int, Callable[[], None]]] = {}
        self._state_lock = threading.Lock()  # guards all of the above; never held across I/O
        self._io_lock = threading.Lock()  # held across it: nothing is moved or removed while it is read

    @property
    def have_bytes(self) -> int:
        return self._have_bytes

    @property
    def is_verified(self) -> bool:
        return self._stamp is not None

    @property
    def is_growing(self) -> bool:
        """Whether more of it may come."""
        return not (self.is_verified or self._is_closed)

    @property
    def generation(self) -> int:
        """Which of its lives the file is in; take it before `have_bytes`."""
        return self._generation

    # --- whoever writes it --------------------------------------------------------------------------

    def set_available(self, have_bytes: int) -> None:
        """So many bytes are written and will stay."""
        with self._state_lock:
            self._have_bytes = have_bytes
            due = [key for key, (target, _) in self._pending_reads.items() if target <= have_bytes]
            wakes = [self._pending_reads.pop(key)[1] for key in due]
        for wake in wakes:
            wake()

    @contextmanager
    def exclusive_access(self) -> Iterator[None]:
        """Nobody reads while the block moves or removes the file."""
        with self._io_lock:
            yield

    def start_new_generation(self) -> None:
        """None of its bytes count any more: who reads or waits is told."""
        with self._state_lock:
            self._generation += 1
            self._have_bytes = 0
            wakes = [wake for _, wake in self._pending_reads.values()]
            self._pending_reads.clear()
        for wake in wakes:
            wake()

    def mark_complete(self, path: Path, stamp: FileStamp) -> None:
        """It is whole and verified, and lies at `path` from now on."""
        with self._state_lock:
            self._path, self._stamp = path, stamp
        self.set_available(self.size_bytes)

    def close(self) -> None:
        """No more will come. What is whole stays."""
        if not self.is_verified:
            self._is_closed = True
            self.start_new_generation()

    # --- whoever reads it ---------------------------------------------------------------------------

    def read(self, generation: int, offset: int, size_bytes: int) -> bytes:
        """At least one and at most `size_bytes` of what is there at `offset`; blocking. Raises `Lost`."""
        with self._io_lock:
            with self._state_lock:
                path, mark = self._path, self._stamp
                size_bytes = min(size_bytes, self._have_bytes - offset)
                if generation != self._generation or size_bytes <= 0:
                    raise ContentLost
            try:
                with path.open("rb", buffering=0) as file:
                    if mark is not None and file_stamp_of(os.fstat(file.fileno())) != mark:
                        raise ContentLost
                    file.seek(offset)
                    piece = file.read(size_bytes)
            except OSError as error:
                raise ContentLost from error
        if not piece:
            raise ContentLost
        return piece

    async def wait_for_bytes(self, generation: int, target_bytes: int, timeout_s: float) -> bool:
        """Whether so many bytes are there, waiting for them up to `timeout_s`. Raises `Lost`."""
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        key = object()
        with self._state_lock:
            if generation != self._generation:
                raise ContentLost
            if self._have_bytes >= target_bytes:
                return True
            self._pending_reads[key] = (target_bytes, wake)
        try:
            async with asyncio.timeout(timeout_s):
                await woken.wait()
        except TimeoutError:
            return False
        finally:
            with self._state_lock:
                self._pending_reads.pop(key, None)
        if generation != self._generation:
            raise ContentLost
        return True
