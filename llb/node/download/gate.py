"""Download gate: number of concurrent model downloads, and their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class DownloadGate:
    """Gate that admits at most `limit` downloads at once, in the order of their ranks.

    Ranks are asked for when a place becomes free, so that an order may change meanwhile. Equal ranks are
    admitted in the order of their arrival.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: list[tuple[Callable[[], int], asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self, rank_of: Callable[[], int]) -> AsyncIterator[None]:
        """Wait for a place, and hold it within the block."""
        await self._acquire(rank_of)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, rank_of: Callable[[], int]) -> None:
        if self._free > 0:
            self._free -= 1
            return
        entry = (rank_of, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                # The place was given to it before the cancellation arrived.
                self._release()
            raise

    def _release(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        entry = min(self._waiting, key=lambda waiting: waiting[0]())
        self._waiting.remove(entry)
        entry[1].set_result(None)
