"""Peer copies with sources that die, hang or send wrong bytes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.harness import wait_until
from tests.hub import HubStandIn
from tests.peer_copy.cluster import TIMEOUTS, InProcessCluster
from tests.peer_copy.conftest import CONTENT
from tests.peer_copy.test_copying import HALF, assert_complete


async def test_who_follows_a_node_that_dies_goes_on_with_another_at_the_byte_it_had(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar, loft = hosts = await cluster.add_nodes("attic", "cellar", "loft")
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    await cellar.stop()
    stall.clear()
    await cluster.wait_until_ready("big", attic, loft)
    assert_complete(attic, loft)
    assert attic.served_ranges() == ["bytes=0-", f"bytes={HALF}-"]
    assert len(hub.byte_requests()) == 1


async def test_when_the_one_that_takes_the_hub_dies_the_next_one_takes_its_place(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=HALF, on="bytes")
    attic, cellar, loft = hosts = await cluster.add_nodes("attic", "cellar", "loft")
    await cluster.register_model("big")
    await wait_until(lambda: all(host.downloaded_bytes_of("big") == HALF for host in hosts))
    await attic.stop()
    stall.clear()
    await cluster.wait_until_ready("big", cellar, loft)
    assert_complete(cellar, loft)
    assert [request.range_start for request in hub.byte_requests()] == [0, HALF]
    assert hub.bytes_sent <= 1.02 * len(CONTENT)
    assert cellar.served_ranges()[0] == "bytes=0-"


async def test_a_source_that_hangs_is_left_for_the_hub_and_comes_back_to_by_itself(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    # One connection stalls.
    hub.faults.stall(after=HALF, on="bytes", times=1)
    timeouts = replace(TIMEOUTS, peer_read_timeout_s=0.5, hub_fallback_delay_s=1.0, read_timeout_s=4.0)
    attic, cellar = await cluster.add_nodes("attic", "cellar", timeouts=timeouts)
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    assert_complete(attic, cellar)
    assert [request.range_start for request in hub.byte_requests()] == [0, HALF]
    assert cellar.served_ranges() == [f"bytes={HALF}-"]


async def test_who_took_the_hub_in_place_of_a_node_looks_whether_it_can_be_copied_from_again(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    hub.faults.throttle(1_500_000)
    (attic,) = await cluster.add_nodes("attic")
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    attic.is_dialable = False
    (cellar,) = await cluster.add_nodes("cellar", timeouts=replace(TIMEOUTS, first_peer_recheck_s=0.1))
    await wait_until(lambda: cellar.downloaded_bytes_of("big") > 0)
    attic.is_dialable = True
    cluster.registrations.desired_state_changed.publish()
    await cluster.wait_until_ready("big")
    assert_complete(cellar)
    assert len(attic.served_ranges()) == 1
    assert len(hub.byte_requests()) == 2
    assert hub.bytes_sent < 2 * len(CONTENT)


async def test_a_source_with_a_bad_disk_is_blamed_and_costs_nobody_the_model(
    cluster: InProcessCluster, hub: HubStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    (attic,) = await cluster.add_nodes("attic")
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    flip_a_byte(attic.file_path("big", "big.gguf"))
    with caplog.at_level(logging.WARNING):
        cellar, loft = await cluster.add_nodes("cellar", "loft")
        await cluster.wait_until_ready("big")
    assert_complete(cellar, loft)
    # Loft may have copied from cellar, which passed the bytes on in good faith.
    assert set(cluster.peer_sources._bad_sources) == {("attic", "big")}
    assert len(hub.byte_requests()) <= 3
    assert [record.message for record in caplog.records if "wrong bytes" in record.message] == [
        "node cellar received wrong bytes of model big from node attic, which is no source until it has "
        "downloaded the model again; its disk or memory may be failing"
    ]

    (barn,) = await cluster.add_nodes("barn")
    await cluster.wait_until_ready("big")
    assert_complete(barn)
    assert "attic" not in barn.source_node_ids("big")


async def test_a_node_that_passed_on_wrong_bytes_in_good_faith_is_not_blamed(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    (attic,) = await cluster.add_nodes("attic")
    await cluster.register_model("big")
    await cluster.wait_until_ready("big")
    flip_a_byte(attic.file_path("big", "big.gguf"))
    attic.is_dialable = False
    hub.stop_listening()
    cellar, loft = await cluster.add_nodes("cellar", "loft")
    await wait_until(lambda: cellar.is_waiting_to_retry("big") and loft.is_waiting_to_retry("big"))
    attic.is_dialable = True
    # Both start at the same moment, cellar from attic and loft from cellar.
    cluster.registrations.desired_state_changed.publish()
    await wait_until(lambda: bool(cluster.peer_sources._bad_sources))
    hub.listen()
    await cluster.wait_until_ready("big")
    assert_complete(cellar, loft)
    assert cellar.served_ranges()
    assert set(cluster.peer_sources._bad_sources) == {("attic", "big")}
    assert len(hub.byte_requests()) == 2


async def test_wrong_bytes_of_the_hub_are_an_error_as_without_other_nodes(
    cluster: InProcessCluster, hub: HubStandIn
) -> None:
    hub.faults.corrupt()
    hosts = await cluster.add_nodes("attic", "cellar")
    await cluster.register_model("big")
    await wait_until(lambda: all(host.state("big") == "error" for host in hosts))
    for host in hosts:
        replica = host.replica("big")
        assert replica is not None
        assert "sha256" in (replica.error or "")


def flip_a_byte(path: Path) -> None:
    """Change the content as a failing disk does, without a trace in the file's metadata."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(HALF)
        byte = file.read(1)
        file.seek(HALF)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
