from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.hub import HubStandIn
from tests.node.replica_fixture import Site


@pytest.fixture
def stand_in() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
async def site(stand_in: HubStandIn, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(stand_in, tmp_path / "models" / "tiny")
    yield site
    for download in site.started:
        await download.stop()
    stand_in.faults.clear()
    for download in site.started:
        assert await asyncio.to_thread(download.join, 10)
    await site.client.aclose()
    site.peers.close()
