"""One llb in front of a stand-in of each kind of target, and of another llb."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.balancer.endpoints.matrix import KEY, KIND_BEHIND_LLB, LLB, MODELS_OF_LLB
from tests.conftest import balancer_factory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn
from tests.providers import KINDS, ProviderStandIn


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, ProviderStandIn]]:
    """Stand-ins by kind. That of `llb` is the one that answers behind the second llb."""
    made = {kind: ProviderStandIn(kind, key=KEY).start() for kind in KINDS}
    yield {**made, LLB: made[KIND_BEHIND_LLB]}
    for stand_in in made.values():
        stand_in.stop()


async def add_endpoint(llb: RunningBalancer, kind: str, base_url: str, key: str) -> str:
    """Add an endpoint; returns its path."""
    body = {"base_url": base_url, "key": key, "kind": kind, "name": kind}
    added = await llb.http.post("/api/endpoints", json=body)
    assert added.status_code == 201, (kind, added.text)
    return f"/api/endpoints/{added.json()['id']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llb(
    tmp_path_factory: pytest.TempPathFactory, stand_ins: dict[str, ProviderStandIn]
) -> AsyncIterator[RunningBalancer]:
    """A balancer with an endpoint of each kind, called as its kind."""
    folder = tmp_path_factory.mktemp("front")
    chat, embedder = MODELS_OF_LLB
    catalog = write_catalog(
        folder / "catalog.json",
        {"id": chat, "size_bytes": 1000},
        {"id": embedder, "size_bytes": 1000, "capabilities": ["Embedding"]},
    )
    with HubStandIn() as hub:
        async with (
            balancer_factory(folder / "second", hub, catalog) as make_second,
            balancer_factory(folder / "home", hub, catalog) as make,
        ):
            second, running = await make_second().start(), await make().start()
            behind = stand_ins[KIND_BEHIND_LLB]
            path = await add_endpoint(second, KIND_BEHIND_LLB, behind.base_url, KEY)
            mapped = dict(zip([model.id for model in behind.provider.models], MODELS_OF_LLB, strict=True))
            assert (await second.http.patch(path, json={"mapped": mapped})).status_code == 200
            for kind in KINDS:
                await add_endpoint(running, kind, stand_ins[kind].base_url, KEY)
            await add_endpoint(running, LLB, second.url, await second.create_key("inference", "models:read"))
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(llb: RunningBalancer) -> str:
    return await llb.create_key("inference", "cloud")
