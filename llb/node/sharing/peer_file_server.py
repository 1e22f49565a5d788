"""Peer file server: serves the files of this node to other nodes, in its own threads and with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from llb.errors import TooManyPeerCopies
from llb.node.sharing.growing_file import ContentLost, GrowingFile

MAX_PEER_COPIES = 8
CHUNK_BYTES = 1 << 20
# Smallest chunk of a growing file, and how long to wait for it before a smaller one is sent.
MIN_CHUNK_BYTES = 256 * 1024
MIN_CHUNK_WAIT_S = 0.25
# Longest wait for a byte. A reader has changed to another node long before.
DATA_TIMEOUT_S = 60.0


class PeerFileServer:
    """Reader of files for other nodes; `find_file` returns the file of a model by its sha256, or None."""

    def __init__(
        self, find_file: Callable[[str, str], GrowingFile | None], *, max_peer_copies: int = MAX_PEER_COPIES
    ) -> None:
        self.find_file = find_file
        self.active_copies = 0
        self._max_peer_copies = max_peer_copies
        # Separate from the event loop's threads, which a hanging disk must not occupy.
        self._read_executor = ThreadPoolExecutor(4, thread_name_prefix="copies")
        self._closed = False

    def close(self) -> None:
        """Stop reading; idempotent."""
        self._closed = True
        self._read_executor.shutdown(wait=False)

    @contextmanager
    def reserve_copy(self) -> Iterator[None]:
        """Reserve one of the concurrent copies during the block. Raises `TooManyPeerCopies`."""
        if self.active_copies >= self._max_peer_copies:
            raise TooManyPeerCopies("This node already sends the maximum number of copies to other nodes")
        self.active_copies += 1
        try:
            yield
        finally:
            self.active_copies -= 1

    async def iter_chunks(self, file: GrowingFile, generation: int, start: int) -> AsyncIterator[bytes]:
        """Bytes of one generation of `file` from `start` to the end, as they arrive. Raises `ContentLost`."""
        loop = asyncio.get_running_loop()
        offset = start
        while offset < file.size_bytes:
            min_available = min(offset + MIN_CHUNK_BYTES, file.size_bytes)
            if not await file.wait_for_bytes(
                generation, min_available, MIN_CHUNK_WAIT_S
            ) and not await file.wait_for_bytes(generation, offset + 1, DATA_TIMEOUT_S):
                raise ContentLost
            if self._closed:
                raise ContentLost
            chunk = await loop.run_in_executor(
                self._read_executor, file.read, generation, offset, CHUNK_BYTES
            )
            offset += len(chunk)
            yield chunk
