"""Download gate: the limit, and the order of those that wait."""

from __future__ import annotations

import asyncio

from llb.node.download.gate import DownloadGate


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_lowest_rank_is_next_and_ranks_may_change_meanwhile() -> None:
    gate = DownloadGate(1)
    ranks = {"a": 0, "b": 1, "c": 2, "d": 2}
    admitted: list[str] = []
    ends = {name: asyncio.Event() for name in ranks}

    async def download(name: str) -> None:
        async with gate.place(lambda: ranks[name]):
            admitted.append(name)
            await ends[name].wait()

    tasks = {name: asyncio.create_task(download(name)) for name in ranks}
    await settle()
    assert admitted == ["a"]
    ranks |= {"b": 9, "c": 1, "d": 1}
    for name in ("a", "c", "d"):
        ends[name].set()
        await settle()
    assert admitted == ["a", "c", "d", "b"]
    ends["b"].set()
    await asyncio.gather(*tasks.values())


async def test_a_place_of_a_cancelled_download_is_not_lost() -> None:
    gate = DownloadGate(1)
    holds, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with gate.place(lambda: 0):
            holds.set()
            await release.wait()

    async def take() -> None:
        async with gate.place(lambda: 0):
            pass

    holder = asyncio.create_task(hold())
    await holds.wait()
    waiting, granted, last = (asyncio.create_task(take()) for _ in range(3))
    await settle()
    waiting.cancel()
    await settle()
    # The place is given to the next one, which is cancelled before it runs.
    release.set()
    await holder
    granted.cancel()
    await asyncio.wait_for(last, 30)
    assert waiting.cancelled()
    await asyncio.wait_for(take(), 30)
