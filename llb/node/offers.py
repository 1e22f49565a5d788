"""The files of this node that other nodes may read, and the reading of them: in threads of its own, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from llb.errors import TooManyCopies
from llb.node.shared import Lost, SharedFile

MAX_COPIES = 8
PIECE_BYTES = 1 << 20
# Of a file that is still arriving: worth a piece, and how long to wait until less will do.
ENOUGH_BYTES = 256 * 1024
ENOUGH_WAIT_S = 0.25
ARRIVAL_TIMEOUT_S = 60.0  # without a byte; who waits here has long been to another node


class Offers:
    """Reads files for other nodes. `find` gives the file of a model by its sha256, None for one that is not here."""

    def __init__(
        self, find: Callable[[str, str], SharedFile | None], *, max_copies: int = MAX_COPIES
    ) -> None:
        self.find = find
        self.running = 0
        self._max_copies = max_copies
        # A disk that hangs must not take the loop's threads with it.
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="copies")
        self._closed = False

    def close(self) -> None:
        """Read no more; idempotent."""
        self._closed = True
        self._readers.shutdown(wait=False)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one more copy while the block runs. Raises `TooManyCopies`."""
        if self.running >= self._max_copies:
            raise TooManyCopies("This node is copying to as many others as it can")
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def pieces(self, file: SharedFile, life: int, start: int) -> AsyncIterator[bytes]:
        """The bytes of this life of `file` from `start` to its end, as they arrive. Raises `Lost`."""
        loop = asyncio.get_running_loop()
        offset = start
        while offset < file.size_bytes:
            enough = min(offset + ENOUGH_BYTES, file.size_bytes)
            if not await file.reached(life, enough, ENOUGH_WAIT_S) and not await file.reached(
                life, offset + 1, ARRIVAL_TIMEOUT_S
            ):
                raise Lost
            if self._closed:
                raise Lost
            piece = await loop.run_in_executor(self._readers, file.read, life, offset, PIECE_BYTES)
            offset += len(piece)
            yield piece
