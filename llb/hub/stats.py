"""Figures of many repositories, refreshed in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from llb.hub.client import HubClient
from llb.hub.errors import HubError, HubUnreachable
from llb.wire import HfStats

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 600.0
START_DELAY_S = 1.0  # the first request of a user goes before the figures of a list
INITIAL_RETRY_DELAY_S = 15.0
MAX_CONCURRENT_REQUESTS = 4


class HubStatsCache:
    """The figures of many repositories in memory: known ones stay when the Hub is away.

    `run()` is to be supervised by its owner; `on_change` is called in the loop, and only when a figure is new.
    """

    def __init__(
        self,
        hub: HubClient,
        repos: Sequence[str],
        on_change: Callable[[str, HfStats], None],
        *,
        interval_s: float = REFRESH_INTERVAL_S,
        start_delay_s: float = START_DELAY_S,
        initial_retry_delay_s: float = INITIAL_RETRY_DELAY_S,
    ) -> None:
        self._hub = hub
        self._repos = tuple(dict.fromkeys(repos))
        self._on_change = on_change
        self._interval_s = interval_s
        self._start_delay_s = start_delay_s
        self._initial_retry_delay_s = initial_retry_delay_s
        self._stats: dict[str, HfStats] = {}
        self._is_unreachable = False
        self._retry_after_s = 0.0

    def get(self, repo: str) -> HfStats | None:
        """The last known figures, or None."""
        return self._stats.get(repo)

    async def run(self) -> None:
        """Refresh for ever: all every interval; what the Hub could not tell sooner, with back-off, as it asked."""
        await asyncio.sleep(self._start_delay_s)
        while True:
            due = time.monotonic() + self._interval_s
            pending = list(self._repos)
            retry_s = self._initial_retry_delay_s
            while pending := await self._refresh(pending):
                pause_s = max(retry_s, self._retry_after_s)
                if time.monotonic() + pause_s >= due:
                    break
                await asyncio.sleep(pause_s)
                retry_s *= 2
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _refresh(self, repos: list[str]) -> list[str]:
        """Ask for `repos`, a few at a time, until the Hub seems to be away; returns those to ask for again."""
        waiting = list(reversed(repos))
        missed: list[str] = []
        misses = 0
        self._retry_after_s = 0.0

        async def work() -> None:
            nonlocal misses
            while waiting and misses < MAX_CONCURRENT_REQUESTS:
                repo = waiting.pop()
                try:
                    stats = await self._hub.fetch_stats(repo)
                except HubUnreachable as error:
                    misses += 1
                    missed.append(repo)
                    self._record_unreachable(error)
                except HubError as error:
                    log.info("no figures for %s: %s", repo, error)
                else:
                    misses = 0
                    self._is_unreachable = False
                    if self._stats.get(repo) != stats:
                        self._stats[repo] = stats
                        self._on_change(repo, stats)

        async with asyncio.TaskGroup() as workers:
            for _ in range(MAX_CONCURRENT_REQUESTS):
                workers.create_task(work())
        # Those that failed go last, so that one bad repository does not keep the others waiting.
        return [*reversed(waiting), *missed]

    def _record_unreachable(self, error: HubUnreachable) -> None:
        self._retry_after_s = max(self._retry_after_s, error.retry_after_s or 0.0)
        if not self._is_unreachable:
            log.info("figures of the models are not refreshed: %s", error)
        self._is_unreachable = True
