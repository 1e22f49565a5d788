"""Running sha256 of bytes that arrive in order: large chunks are hashed while the next one is received."""

from __future__ import annotations

import hashlib
import queue
import threading

# A smaller chunk means that the network is slower than this process: hashing it at once delays nothing.
LARGE_CHUNK_BYTES = 128 << 10

_Chunk = bytes | memoryview


class RunningHash:
    """Used by one thread, which calls `close()` at the end; its own thread ends there.

    At most one chunk is being hashed when a method returns, the last one: it must not change until the next
    call of any method.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._chunks: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_hashing = False

    def update(self, chunk: _Chunk) -> None:
        self._wait()
        if len(chunk) < LARGE_CHUNK_BYTES:
            self._hash.update(chunk)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            self._thread.start()
        self._is_hashing = True
        self._chunks.put(chunk)

    def finish_chunk(self) -> None:
        """Wait until the last chunk may change."""
        self._wait()

    def hexdigest(self) -> str:
        """The sha256 of the bytes so far, in lower-case hex."""
        self._wait()
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget the bytes so far."""
        self._wait()
        self._hash = hashlib.sha256()

    def close(self) -> None:
        """End the thread; idempotent. The hash can still be read, and updated."""
        self._wait()
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()
            self._thread = None

    def _wait(self) -> None:
        if self._is_hashing:
            self._hashed.get()
            self._is_hashing = False

    def _run(self) -> None:
        # The interpreter lock is free while `update` works.
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk)
            self._hashed.put(None)
