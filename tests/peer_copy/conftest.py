from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness import write_catalog
from tests.hub import HubStandIn, tiny_gguf
from tests.peer_copy.cluster import InProcessCluster

CONTENT = tiny_gguf(6_000_000)
SHARD_CONTENTS = {f"many-{number}.gguf": tiny_gguf(1_500_000, seed=f"shard {number}") for number in (1, 2, 3)}


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        stand_in.add_repo("test/big", {"big.gguf": CONTENT})
        stand_in.add_repo("test/many", SHARD_CONTENTS)
        yield stand_in


@pytest.fixture
async def cluster(tmp_path: Path, hub: HubStandIn) -> AsyncIterator[InProcessCluster]:
    """A balancer without nodes; the Hub has the models `big` (one file) and `many` (three files)."""
    first, *more = SHARD_CONTENTS
    catalog = write_catalog(
        tmp_path / "catalog.json",
        {"id": "big", "size_bytes": len(CONTENT)},
        {
            "id": "many",
            "size_bytes": sum(map(len, SHARD_CONTENTS.values())),
            "recommended_filename": first,
            "extra_filenames": more,
        },
    )
    cluster = await InProcessCluster(tmp_path, hub, catalog).start()
    yield cluster
    hub.faults.clear()
    await cluster.stop()
