"""Turns of requests that have come together on their connections."""

from __future__ import annotations

import asyncio
from collections import deque

# Requests that begin in one turn of the event loop.
MAX_BEGUN_AT_ONCE = 8


class RequestTurns:
    """Lets a few requests begin in each turn of the event loop, so that others are answered between them.

    A request whose answer waits for nothing takes no turn by itself: the thousands that one read may bring
    would hold the event loop for seconds.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a turn, after those who wait already."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._begin_some)
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _begin_some(self) -> None:
        for _ in range(min(len(self._waiting), MAX_BEGUN_AT_ONCE)):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
