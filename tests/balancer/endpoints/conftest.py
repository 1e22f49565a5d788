"""One llb in front of a stand-in of each kind of target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.balancer.endpoints.matrix import KEY
from tests.conftest import balancer_factory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn
from tests.providers import KINDS, ProviderStandIn


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, ProviderStandIn]]:
    made = {kind: ProviderStandIn(kind, key=KEY).start() for kind in KINDS}
    yield made
    for stand_in in made.values():
        stand_in.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llb(
    tmp_path_factory: pytest.TempPathFactory, stand_ins: dict[str, ProviderStandIn]
) -> AsyncIterator[RunningBalancer]:
    """A balancer with an endpoint of each kind, called as its kind."""
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            running = await make().start()
            for kind, stand_in in stand_ins.items():
                body = {"base_url": stand_in.base_url, "key": KEY, "kind": kind, "name": kind}
                added = await running.http.post("/api/endpoints", json=body)
                assert added.status_code == 201, (kind, added.text)
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(llb: RunningBalancer) -> str:
    return await llb.create_key("inference", "cloud")
