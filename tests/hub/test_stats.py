"""Statistics of repositories: their refreshes, and a Hub that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from llb.hub import (
    HubClient,
    HubStatsCache,
)
from llb.wire import HfStats
from tests.hub import HubStandIn
from tests.hub.conftest import DATA, FILE, REPO, TIMEOUT_S


@asynccontextmanager
async def running(cache: HubStatsCache) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(cache.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=TIMEOUT_S)
        assert task.cancelled()


Changes = asyncio.Queue[tuple[str, HfStats]]


def cache_of(
    hub: HubClient, repos: list[str], *, interval_s: float = 3600.0, retry_s: float = 0.01
) -> tuple[HubStatsCache, Changes]:
    changes: Changes = asyncio.Queue()
    cache = HubStatsCache(
        hub,
        repos,
        lambda repo, stats: changes.put_nowait((repo, stats)),
        interval_s=interval_s,
        start_delay_s=0,
        initial_retry_delay_s=retry_s,
    )
    return cache, changes


async def take(changes: Changes, count: int) -> dict[str, HfStats]:
    return dict([await asyncio.wait_for(changes.get(), TIMEOUT_S) for _ in range(count)])


async def test_figures_of_all_repositories_come_in(standin: HubStandIn, hub: HubClient) -> None:
    repos = [f"org/r{number}" for number in range(12)]
    for number, repo in enumerate(repos):
        standin.add_repo(repo, {FILE: DATA}, downloads=number)
    cache, changes = cache_of(hub, [*repos, "org/nothing", repos[0]])
    async with running(cache):
        seen = await take(changes, 12)
        assert {repo: stats.downloads for repo, stats in seen.items()} == {r: i for i, r in enumerate(repos)}
        assert cache.get("org/r3") == seen["org/r3"]
        assert cache.get("org/nothing") is None


async def test_only_a_change_is_announced_and_known_figures_survive_an_absence(
    standin: HubStandIn, hub: HubClient
) -> None:
    cache, changes = cache_of(hub, [REPO], interval_s=0.02)
    async with running(cache):
        await take(changes, 1)
        asked = len(standin.requests)
        await asyncio.to_thread(standin.wait_until, lambda: len(standin.requests) > asked + 3)
        assert changes.empty()
        fault = standin.faults.fail(503)
        await asyncio.to_thread(standin.wait_until, lambda: fault.fired >= 3)
        known = cache.get(REPO)
        assert known is not None
        assert known.stars == 3
        standin.set_stats(REPO, likes=4)
        fault.clear()
        assert (await take(changes, 1))[REPO].stars == 4


async def test_an_absent_hub_is_asked_little_and_again(standin: HubStandIn, hub: HubClient) -> None:
    repos = [f"org/r{number}" for number in range(30)]
    for repo in repos:
        standin.add_repo(repo, {FILE: DATA}, downloads=1)
    fault = standin.faults.fail(503)
    cache, changes = cache_of(hub, repos, retry_s=0.3)
    async with running(cache):
        await asyncio.to_thread(standin.wait_until, lambda: fault.fired >= 9)
        fault.clear()
        await take(changes, 30)
    times = [request.time for request in standin.requests[:9]]
    assert (
        max(later - earlier for earlier, later in pairwise(times)) > 0.25
    )  # it paused well before the thirtieth


async def test_a_few_bad_repositories_do_not_keep_the_others_waiting(
    standin: HubStandIn, hub: HubClient
) -> None:
    repos = [f"org/r{number}" for number in range(30)]
    bad = repos[::5]
    for repo in repos:
        standin.add_repo(repo, {FILE: DATA}, downloads=1)
        if repo in bad:
            standin.faults.fail(500, repo=repo)
    cache, changes = cache_of(hub, repos, retry_s=3600)  # all in the first round, without a pause
    async with running(cache):
        assert set(await take(changes, 24)) == set(repos) - set(bad)


async def test_a_repository_that_always_fails_does_not_stop_the_refreshing(
    standin: HubStandIn, hub: HubClient
) -> None:
    standin.faults.fail(500, repo="org/bad")
    cache, changes = cache_of(hub, ["org/bad", REPO], interval_s=0.05)
    async with running(cache):
        await take(changes, 1)
        standin.set_stats(REPO, likes=4)
        assert (await take(changes, 1))[REPO].stars == 4


async def test_the_hub_is_not_asked_again_before_it_wants_to_be(standin: HubStandIn, hub: HubClient) -> None:
    standin.faults.fail(429, retry_after_s=1, times=1)
    cache, changes = cache_of(hub, [REPO])
    async with running(cache):
        await take(changes, 1)
    first, second = (request.time for request in standin.requests)
    assert second - first >= 1


async def test_a_black_hole_does_not_hold_up_the_stop(standin: HubStandIn, hub: HubClient) -> None:
    fault = standin.faults.black_hole()
    cache, _ = cache_of(hub, [REPO, "org/b", "org/c"])
    async with running(cache):
        await asyncio.to_thread(standin.wait_until, lambda: fault.fired == 3)
