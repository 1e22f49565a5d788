from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.hub import HubStandIn
from tests.node.replica_fixture import DownloadFixture


@pytest.fixture
def stand_in() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
async def site(stand_in: HubStandIn, tmp_path: Path) -> AsyncIterator[DownloadFixture]:
    site = DownloadFixture(stand_in, tmp_path / "models" / "tiny")
    yield site
    for download in site.downloads:
        await download.stop()
    stand_in.faults.clear()
    for download in site.downloads:
        if download._thread is not None:
            await asyncio.to_thread(download._thread.join, 10)
            assert not download._thread.is_alive()
    await site.hub_client.aclose()
    site.peer_client.close()
