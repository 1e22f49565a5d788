"""The files of this node that other nodes may read, and the reading of them: in threads of its own, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from llb.errors import TooManyPeerCopies
from llb.node.sharing.growing_file import ContentLost, GrowingFile

MAX_PEER_COPIES = 8
CHUNK_BYTES = 1 << 20
# Of a file that is still arriving: worth a piece, and how long to wait until less will do.
MIN_CHUNK_BYTES = 256 * 1024
MIN_CHUNK_WAIT_S = 0.25
DATA_TIMEOUT_S = 60.0  # without a byte; who waits here has long been to another node


class PeerFileServer:
    """Reads files for other nodes. `find` gives the file of a model by its sha256, None for one that is not here."""

    def __init__(
        self, find_file: Callable[[str, str], GrowingFile | None], *, max_peer_copies: int = MAX_PEER_COPIES
    ) -> None:
        self.find_file = find_file
        self.active_copies = 0
        self._max_peer_copies = max_peer_copies
        # A disk that hangs must not take the loop's threads with it.
        self._read_executor = ThreadPoolExecutor(4, thread_name_prefix="copies")
        self._closed = False

    def close(self) -> None:
        """Read no more; idempotent."""
        self._closed = True
        self._read_executor.shutdown(wait=False)

    @contextmanager
    def reserve_copy(self) -> Iterator[None]:
        """Room for one more copy while the block runs. Raises `TooManyCopies`."""
        if self.active_copies >= self._max_peer_copies:
            raise TooManyPeerCopies("This node is copying to as many others as it can")
        self.active_copies += 1
        try:
            yield
        finally:
            self.active_copies -= 1

    async def iter_chunks(self, file: GrowingFile, generation: int, start: int) -> AsyncIterator[bytes]:
        """The bytes of this life of `file` from `start` to its end, as they arrive. Raises `Lost`."""
        loop = asyncio.get_running_loop()
        offset = start
        while offset < file.size_bytes:
            enough = min(offset + MIN_CHUNK_BYTES, file.size_bytes)
            if not await file.wait_for_bytes(
                generation, enough, MIN_CHUNK_WAIT_S
            ) and not await file.wait_for_bytes(generation, offset + 1, DATA_TIMEOUT_S):
                raise ContentLost
            if self._closed:
                raise ContentLost
            piece = await loop.run_in_executor(
                self._read_executor, file.read, generation, offset, CHUNK_BYTES
            )
            offset += len(piece)
            yield piece
