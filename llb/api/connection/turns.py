"""Turns of requests that have come together on their connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

# Requests that begin in one turn of the event loop.
MAX_BEGUN_AT_ONCE = 8


class RequestTurns:
    """Lets a few requests begin in each turn of the event loop, so that others are answered between them.

    A request whose answer waits for nothing takes no turn by itself: the thousands that one read may bring
    would hold the event loop for seconds. Streams that end together begin anew together.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def schedule(self, begin: Callable[[], None]) -> None:
        """Have `begin` called in a turn, after those that wait already."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
        self._waiting.append(begin)

    async def wait(self) -> None:
        """Wait for a turn, after those who wait already."""
        turn = asyncio.get_running_loop().create_future()
        self.schedule(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _begin_some(self) -> None:
        for _ in range(min(len(self._waiting), MAX_BEGUN_AT_ONCE)):
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_some)
