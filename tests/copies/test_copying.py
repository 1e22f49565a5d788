"""Models spread from node to node: what each one asks whom for, when all goes well and when it does not."""

from __future__ import annotations

from tests.copies.cluster import Cluster
from tests.copies.conftest import CONTENT
from tests.harness import eventually
from tests.hub import HubStandIn


async def test_the_hub_is_asked_once_and_the_others_copy_while_it_arrives(
    cluster: Cluster, hub: HubStandIn
) -> None:
    half = len(CONTENT) // 2
    stall = hub.faults.stall(after=half, on="bytes")
    attic, cellar, loft = await cluster.add("attic", "cellar", "loft")
    await cluster.register("big")
    await eventually(lambda: all(host.has_bytes("big") == half for host in (attic, cellar, loft)))
    assert (cellar.sources("big"), loft.sources("big")) == (["attic"], ["cellar", "attic"])
    stall.clear()
    await cluster.ready("big")
    for host in (attic, cellar, loft):
        assert host.path("big", "big.gguf").read_bytes() == CONTENT
    assert hub.bytes_sent <= 1.02 * len(CONTENT)
    assert len(hub.byte_requests()) == 1
    assert (attic.served(), cellar.served()) == (["bytes=0-"], ["bytes=0-"])  # a chain
    assert loft.served() == []
