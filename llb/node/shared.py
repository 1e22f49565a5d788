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

from llb.node.files import Fingerprint, fingerprint_of


class Lost(Exception):
    """What was being read is not there any more: its download ended or began anew, or the file was changed."""


class SharedFile:
    """Where the bytes are, how many, and who waits for more. With a `mark` it is whole, verified and must not change."""

    def __init__(self, path: Path, size_bytes: int, mark: Fingerprint | None = None) -> None:
        self.size_bytes = size_bytes
        self._path = path
        self._mark = mark
        self._have_bytes = 0 if mark is None else size_bytes
        self._life = 0
        self._ended = False
        self._waiting: dict[object, tuple[int, Callable[[], None]]] = {}
        self._state = threading.Lock()  # guards all of the above; never held across I/O
        self._reading = threading.Lock()  # held across it: nothing is moved or removed while it is read

    @property
    def have_bytes(self) -> int:
        return self._have_bytes

    @property
    def verified(self) -> bool:
        return self._mark is not None

    @property
    def arriving(self) -> bool:
        """Whether more of it may come."""
        return not (self.verified or self._ended)

    @property
    def life(self) -> int:
        """Which of its lives the file is in; take it before `have_bytes`."""
        return self._life

    # --- whoever writes it --------------------------------------------------------------------------

    def grow(self, have_bytes: int) -> None:
        """So many bytes are written and will stay."""
        with self._state:
            self._have_bytes = have_bytes
            due = [key for key, (target, _) in self._waiting.items() if target <= have_bytes]
            wakes = [self._waiting.pop(key)[1] for key in due]
        for wake in wakes:
            wake()

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Nobody reads while the block moves or removes the file."""
        with self._reading:
            yield

    def restart(self) -> None:
        """None of its bytes count any more: who reads or waits is told."""
        with self._state:
            self._life += 1
            self._have_bytes = 0
            wakes = [wake for _, wake in self._waiting.values()]
            self._waiting.clear()
        for wake in wakes:
            wake()

    def settle(self, path: Path, mark: Fingerprint) -> None:
        """It is whole and verified, and lies at `path` from now on."""
        with self._state:
            self._path, self._mark = path, mark
        self.grow(self.size_bytes)

    def end(self) -> None:
        """No more will come. What is whole stays."""
        if not self.verified:
            self._ended = True
            self.restart()

    # --- whoever reads it ---------------------------------------------------------------------------

    def read(self, life: int, offset: int, size_bytes: int) -> bytes:
        """At least one and at most `size_bytes` of what is there at `offset`; blocking. Raises `Lost`."""
        with self._reading:
            with self._state:
                path, mark = self._path, self._mark
                size_bytes = min(size_bytes, self._have_bytes - offset)
                if life != self._life or size_bytes <= 0:
                    raise Lost
            try:
                with path.open("rb", buffering=0) as file:
                    if mark is not None and fingerprint_of(os.fstat(file.fileno())) != mark:
                        raise Lost
                    file.seek(offset)
                    piece = file.read(size_bytes)
            except OSError as error:
                raise Lost from error
        if not piece:
            raise Lost
        return piece

    async def reached(self, life: int, target_bytes: int, timeout_s: float) -> bool:
        """Whether so many bytes are there, waiting for them up to `timeout_s`. Raises `Lost`."""
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        key = object()
        with self._state:
            if life != self._life:
                raise Lost
            if self._have_bytes >= target_bytes:
                return True
            self._waiting[key] = (target_bytes, wake)
        try:
            async with asyncio.timeout(timeout_s):
                await woken.wait()
        except TimeoutError:
            return False
        finally:
            with self._state:
                self._waiting.pop(key, None)
        if life != self._life:
            raise Lost
        return True
