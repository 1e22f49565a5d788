"""Cache of repository statistics, refreshed in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from llb.base.backoff import Backoff
from llb.hub.client import HubClient
from llb.hub.errors import HubError, HubUnreachable
from llb.wire import HfStats

log = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 600.0
# The first requests of users have priority over the statistics.
START_DELAY_S = 1.0
INITIAL_RETRY_DELAY_S = 15.0
MAX_CONCURRENT_REQUESTS = 4


class HubStatsCache:
    """Statistics of many repositories in memory, kept while the Hub is unreachable.

    The owner supervises `run()`. `on_change` is called in the event loop for each changed entry.
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
        self._repos_changed = asyncio.Event()

    def set_repos(self, repos: Sequence[str]) -> None:
        """Refresh the statistics of `repos` from now on, and of those that are new at once."""
        self._repos = tuple(dict.fromkeys(repos))
        self._repos_changed.set()

    def get(self, repo: str) -> HfStats | None:
        """Return the last known statistics, or None."""
        return self._stats.get(repo)

    async def run(self) -> None:
        """Refresh all statistics at each interval; retry failed ones sooner, with back-off.

        Runs until cancelled.
        """
        await asyncio.sleep(self._start_delay_s)
        pending = list(self._repos)
        while True:
            next_refresh_at = time.monotonic() + self._interval_s
            self._repos_changed.clear()
            backoff = Backoff(self._initial_retry_delay_s, max(self._initial_retry_delay_s, self._interval_s))
            while pending := await self._refresh(pending):
                delay_s = max(backoff.next_delay_s(), self._retry_after_s)
                if time.monotonic() + delay_s >= next_refresh_at:
                    break
                await asyncio.sleep(delay_s)
            pending = await self._wait_for_next(max(0.0, next_refresh_at - time.monotonic()))

    async def _wait_for_next(self, delay_s: float) -> list[str]:
        """Wait for the next refresh, or for other repositories; returns those to refresh."""
        try:
            async with asyncio.timeout(delay_s):
                await self._repos_changed.wait()
        except TimeoutError:
            return list(self._repos)
        return [repo for repo in self._repos if repo not in self._stats]

    async def _refresh(self, repos: list[str]) -> list[str]:
        """Fetch the statistics of `repos`, a few at a time, until the Hub seems unreachable; returns those to
        retry.
        """
        waiting = list(reversed(repos))
        failed: list[str] = []
        failures_in_a_row = 0
        self._retry_after_s = 0.0

        async def work() -> None:
            nonlocal failures_in_a_row
            while waiting and failures_in_a_row < MAX_CONCURRENT_REQUESTS:
                repo = waiting.pop()
                try:
                    stats = await self._hub.fetch_stats(repo)
                except HubUnreachable as error:
                    failures_in_a_row += 1
                    failed.append(repo)
                    self._record_unreachable(error)
                except HubError as error:
                    log.debug("no statistics for %s: %s", repo, error)
                else:
                    failures_in_a_row = 0
                    self._is_unreachable = False
                    if self._stats.get(repo) != stats:
                        self._stats[repo] = stats
                        self._on_change(repo, stats)

        async with asyncio.TaskGroup() as workers:
            for _ in range(MAX_CONCURRENT_REQUESTS):
                workers.create_task(work())
        # Failed ones last, so that one broken repository does not delay the others.
        return [*reversed(waiting), *failed]

    def _record_unreachable(self, error: HubUnreachable) -> None:
        self._retry_after_s = max(self._retry_after_s, error.retry_after_s or 0.0)
        if not self._is_unreachable:
            log.info("statistics of the models are not refreshed: %s", error)
        self._is_unreachable = True
