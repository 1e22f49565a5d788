"""Models spread from node to node while all goes well: who asks whom, and how often the Hub is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.harness import eventually
from tests.hub import HubStandIn
from tests.peer_copy.cluster import TIMING, Cluster, Host
from tests.peer_copy.conftest import CONTENT, SHARDS

HALF = len(CONTENT) // 2


async def test_the_hub_is_asked_once_and_the_others_copy_while_it_arrives(
    cluster: Cluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    _, cellar, loft = hosts = await cluster.add("attic", "cellar", "loft")
    await cluster.register("big")
    await eventually(lambda: all(host.has_bytes("big") == HALF for host in hosts))
    assert (cellar.sources("big"), loft.sources("big")) == (["attic"], ["cellar", "attic"])
    stall.clear()
    await cluster.ready("big")
    assert_complete(*hosts)
    assert hub.bytes_sent <= 1.02 * len(CONTENT)
    assert len(hub.byte_requests()) == 1
    assert [host.served() for host in hosts] == [["bytes=0-"], ["bytes=0-"], []]  # a chain


async def test_every_file_of_a_model_is_copied(cluster: Cluster, hub: HubStandIn) -> None:
    hosts = await cluster.add("attic", "cellar", "loft")
    await cluster.register("many")
    await cluster.ready("many")
    for host in hosts:
        assert {name: host.path("many", name).read_bytes() for name in SHARDS} == SHARDS
    assert hub.bytes_sent <= 1.02 * sum(map(len, SHARDS.values()))
    assert len(hub.byte_requests()) == len(SHARDS)


async def test_a_file_that_is_whole_is_copied_while_the_next_one_arrives(
    cluster: Cluster, hub: HubStandIn
) -> None:
    first, second, _ = SHARDS
    hub.faults.stall(on="bytes", file=second)
    (attic,) = await cluster.add("attic")
    await cluster.register("many")
    await eventually(lambda: attic.has_bytes("many") == len(SHARDS[first]))
    (cellar,) = await cluster.add("cellar")
    await eventually(lambda: cellar.has_bytes("many") == len(SHARDS[first]))
    assert len(hub.byte_requests(first)) == 1


async def test_who_comes_later_copies_from_who_has_it(cluster: Cluster, hub: HubStandIn) -> None:
    (attic,) = await cluster.add("attic")
    await cluster.register("big")
    await cluster.ready("big")
    hub.refuse()
    later = await cluster.add("cellar", "loft")
    await cluster.ready("big")
    assert_complete(attic, *later)
    assert attic.sources("big") == []


async def test_who_cannot_be_dialled_copies_from_the_others(cluster: Cluster, hub: HubStandIn) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    _, cellar, loft = hosts = await cluster.add("attic", "cellar", "loft")
    cellar.dialable = False
    await cluster.register("big")
    await eventually(lambda: all(host.has_bytes("big") == HALF for host in hosts))
    assert (cellar.sources("big"), loft.sources("big")) == (["loft", "attic"], ["attic"])
    stall.clear()
    await cluster.ready("big")
    assert cellar.asked == []
    assert len(hub.byte_requests()) == 1


async def test_where_nobody_can_be_dialled_everybody_takes_the_hub(cluster: Cluster, hub: HubStandIn) -> None:
    hosts = await cluster.add("attic", "cellar")
    for host in hosts:
        host.dialable = False
    await cluster.register("big")
    await cluster.ready("big")
    assert len(hub.byte_requests()) == 2


async def test_the_limit_of_the_internet_line_does_not_slow_a_copy(cluster: Cluster) -> None:
    await cluster.add("attic")
    await cluster.register("big")
    await cluster.ready("big")
    await cluster.add("cellar", download_rate="100kB")
    await cluster.ready("big")


async def test_a_want_that_names_other_sources_disturbs_no_copy(cluster: Cluster, hub: HubStandIn) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar = await cluster.add("attic", "cellar")
    await cluster.register("big")
    await eventually(lambda: cellar.has_bytes("big") == HALF)
    before = copies_of(cellar)
    hour_later = cluster.copies._clock() + 3600
    cluster.copies._clock = lambda: hour_later
    cluster.registrations.desired_state_changed.publish()
    await eventually(lambda: copies_of(cellar) != before)
    stall.clear()
    await cluster.ready("big")
    assert attic.served() == ["bytes=0-"]


def copies_of(host: Host) -> object:
    replica = host.replica("big")
    return replica is not None and replica.desired_model is not None and replica.desired_model.copies


# --- stopping and starting ---------------------------------------------------------------------------


async def test_a_copy_is_cancelled_at_once_and_its_partial_kept(cluster: Cluster, hub: HubStandIn) -> None:
    hub.faults.stall(after=HALF, on="bytes")
    timing = replace(TIMING, read_timeout_s=60.0, peer_read_timeout_s=60.0)
    hosts = await cluster.add("attic", "cellar", "loft", timing=timing)
    await cluster.register("big")
    await eventually(lambda: all(host.has_bytes("big") == HALF for host in hosts))
    await cluster.registrations.delete("big")
    async with asyncio.timeout(3):  # nothing would end by itself for a minute
        await eventually(lambda: all(host.replica("big") is None for host in hosts))
    for host in hosts:
        [partial] = host.path("big", "big.gguf").parent.iterdir()
        assert partial.stat().st_size == HALF


async def test_a_host_that_was_restarted_goes_on_at_the_byte_it_had(
    cluster: Cluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar = await cluster.add("attic", "cellar")
    await cluster.register("big")
    await eventually(lambda: cellar.has_bytes("big") == HALF)
    await cellar.stop()
    await cellar.start()
    await eventually(lambda: len(attic.served()) == 2)
    stall.clear()
    await cluster.ready("big")
    assert attic.served() == ["bytes=0-", f"bytes={HALF}-"]
    assert len(hub.byte_requests()) == 1
    assert_complete(attic, cellar)


@pytest.mark.parametrize("victim", ["attic", "cellar", "loft"])
async def test_all_are_restarted_one_after_the_other_and_no_byte_is_lost(
    cluster: Cluster, hub: HubStandIn, victim: str
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    hosts = await cluster.add("attic", "cellar", "loft")
    await cluster.register("big")
    await eventually(lambda: all(host.has_bytes("big") == HALF for host in hosts))
    await cluster.hosts[victim].stop()
    await cluster.hosts[victim].start()
    stall.clear()
    await cluster.ready("big")
    assert_complete(*hosts)
    assert all(request.range_start >= HALF for request in hub.byte_requests()[1:])


def assert_complete(*hosts: Host) -> None:
    for host in hosts:
        assert host.path("big", "big.gguf").read_bytes() == CONTENT
        assert [path.name for path in host.path("big", "big.gguf").parent.iterdir()] == ["big.gguf"]
