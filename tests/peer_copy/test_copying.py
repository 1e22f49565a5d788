"""Peer copies without faults: sources, chains, and the number of Hub requests."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tests.harness import wait_until
from tests.hub import HubStandIn
from tests.peer_copy.cluster import TIMEOUTS, ClusterNode, InProcessCluster
from tests.peer_copy.conftest import CONTENT, SHARD_CONTENTS

HALF = len(CONTENT) // 2


async def test_the_hub_is_asked_once_and_the_others_copy_while_it_arrives(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    _, cellar, loft = hosts = await cluster.add_nodes("attic", "cellar", "loft")
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    assert (cellar.source_node_ids("big"), loft.source_node_ids("big")) == (["attic"], ["cellar", "attic"])
    stall.clear()
    await cluster.wait_until_ready("big")
    assert_complete(*hosts)
    assert hub.bytes_sent <= 1.02 * len(CONTENT)
    assert len(hub.byte_requests()) == 1
    # A chain: attic → cellar → loft.
    assert [host.served_ranges() for host in hosts] == [["bytes=0-"], ["bytes=0-"], []]


async def test_every_file_of_a_model_is_copied(cluster: InProcessCluster, hub: HubStandIn) -> None:
    hosts = await cluster.add_nodes("attic", "cellar", "loft")
    await cluster.register_model("many")
    await cluster.wait_until_ready("many")
    for host in hosts:
        assert {name: host.file_path("many", name).read_bytes() for name in SHARD_CONTENTS} == SHARD_CONTENTS
    assert hub.bytes_sent <= 1.02 * sum(map(len, SHARD_CONTENTS.values()))
    assert len(hub.byte_requests()) == len(SHARD_CONTENTS)


async def test_a_file_that_is_whole_is_copied_while_the_next_one_arrives(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    first, second, _ = SHARD_CONTENTS
    hub.faults.stall(on="bytes", file=second)
    (attic,) = await cluster.add_nodes("attic")
    await cluster.register_model("many")
    await wait_until(lambda: attic.downloaded_bytes_of("many") == len(SHARD_CONTENTS[first]))
    (cellar,) = await cluster.add_nodes("cellar")
    await wait_until(lambda: cellar.downloaded_bytes_of("many") == len(SHARD_CONTENTS[first]))
    assert len(hub.byte_requests(first)) == 1


async def test_who_comes_later_copies_from_who_has_it(cluster: InProcessCluster, hub: HubStandIn) -> None:
    (attic,) = await cluster.add_nodes("attic")
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    hub.stop_listening()
    later = await cluster.add_nodes("cellar", "loft")
    await cluster.wait_until_ready("big")
    assert_complete(attic, *later)
    assert attic.source_node_ids("big") == []


async def test_who_cannot_be_dialled_copies_from_the_others(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    _, cellar, loft = hosts = await cluster.add_nodes("attic", "cellar", "loft")
    cellar.is_dialable = False
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    assert (cellar.source_node_ids("big"), loft.source_node_ids("big")) == (["loft", "attic"], ["attic"])
    stall.clear()
    await cluster.wait_until_ready("big")
    assert cellar.file_requests == []
    assert len(hub.byte_requests()) == 1


async def test_where_nobody_can_be_dialled_everybody_takes_the_hub(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    hosts = await cluster.add_nodes("attic", "cellar")
    for host in hosts:
        host.is_dialable = False
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    assert len(hub.byte_requests()) == 2


async def test_the_limit_of_the_internet_line_does_not_slow_a_copy(cluster: InProcessCluster) -> None:
    await cluster.add_nodes("attic")
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    await cluster.add_nodes("cellar", download_rate=100_000)
    await cluster.wait_until_ready("big")


async def test_a_want_that_names_other_sources_disturbs_no_copy(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar = await cluster.add_nodes("attic", "cellar")
    await cluster.register_model("big")
    await wait_until(lambda: cellar.downloaded_bytes_of("big") == HALF)
    before = peer_sources_of(cellar)
    hour_later = cluster.peer_sources._clock() + 3600
    cluster.peer_sources._clock = lambda: hour_later
    cluster.registrations.desired_state_changed.publish()
    await wait_until(lambda: peer_sources_of(cellar) != before)
    stall.clear()
    await cluster.wait_until_ready("big")
    assert attic.served_ranges() == ["bytes=0-"]


def peer_sources_of(host: ClusterNode) -> object:
    replica = host.replica("big")
    return replica is not None and replica.desired_model is not None and replica.desired_model.copies


# --- cancellation and restart ---------------------------------------------------------------------


async def test_a_copy_is_cancelled_at_once_and_its_partial_kept(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    hub.faults.stall(after=HALF, on="bytes")
    timeouts = replace(TIMEOUTS, read_timeout_s=60.0, peer_read_timeout_s=60.0)
    hosts = await cluster.add_nodes("attic", "cellar", "loft", timeouts=timeouts)
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    await cluster.registrations.delete("big")
    # Without the cancellation nothing would end for a minute.
    async with asyncio.timeout(30):
        await wait_until(lambda: all(host.replica("big") is None for host in hosts))
    for host in hosts:
        [partial] = host.file_path("big", "big.gguf").parent.iterdir()
        assert partial.stat().st_size == HALF


async def test_a_host_that_was_restarted_goes_on_at_the_byte_it_had(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar = await cluster.add_nodes("attic", "cellar")
    await cluster.register_model("big")
    await wait_until(lambda: cellar.downloaded_bytes_of("big") == HALF)
    await cellar.stop()
    await cellar.start()
    await wait_until(lambda: len(attic.served_ranges()) == 2)
    stall.clear()
    await cluster.wait_until_ready("big")
    assert attic.served_ranges() == ["bytes=0-", f"bytes={HALF}-"]
    assert len(hub.byte_requests()) == 1
    assert_complete(attic, cellar)


@pytest.mark.parametrize("victim", ["attic", "cellar", "loft"])
async def test_all_are_restarted_one_after_the_other_and_no_byte_is_lost(
    cluster: InProcessCluster, hub: HubStandIn, victim: str
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    hosts = await cluster.add_nodes("attic", "cellar", "loft")
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    await cluster.nodes[victim].stop()
    await cluster.nodes[victim].start()
    stall.clear()
    await cluster.wait_until_ready("big")
    assert_complete(*hosts)
    assert all(request.range_start >= HALF for request in hub.byte_requests()[1:])


def assert_complete(*hosts: ClusterNode) -> None:
    for host in hosts:
        assert host.file_path("big", "big.gguf").read_bytes() == CONTENT
        assert [path.name for path in host.file_path("big", "big.gguf").parent.iterdir()] == ["big.gguf"]
