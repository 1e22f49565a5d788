"""Turns of the event loop for requests that arrived at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

# Requests that begin in one turn of the event loop.
MAX_BEGUN_AT_ONCE = 8


class RequestTurns:
    """Lets a few requests begin in each turn of the event loop, so that others are answered between them.

    The answer to a request may need no wait, so thousands of them from one read would block the event loop
    for seconds. Streams that end together also start their next requests together.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def schedule(self, begin: Callable[[], None]) -> None:
        """Call `begin` in a turn, after those that were scheduled before."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._waiting.append(begin)

    async def wait(self) -> None:
        """Wait for a turn, after those that were scheduled before."""
        turn = asyncio.get_running_loop().create_future()
        self.schedule(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _begin_turn(self) -> None:
        for _ in range(min(len(self._waiting), MAX_BEGUN_AT_ONCE)):
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_turn)
