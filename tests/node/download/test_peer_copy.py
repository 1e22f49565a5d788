"""Download with peer sources, when these and the Hub fail in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from llb.node.download.download_errors import DownloadCancelled, DownloadFailed
from llb.wire import PeerSource
from tests.hub import HubStandIn
from tests.node.download.test_peer_fetch import FakeNode, build_partial_response
from tests.node.replica_fixture import CONTENT, FAST_TIMEOUTS, REPO, DownloadFixture, wait_until

SHORT_TIMEOUTS = replace(
    FAST_TIMEOUTS,
    peer_read_timeout_s=0.2,
    peer_backoff_initial_s=0.01,
    peer_backoff_max_s=0.02,
    first_peer_stall_timeout_s=0.1,
    hub_fallback_delay_s=0.3,
    hub_fallback_step_s=0.05,
)


@pytest.fixture
def node(site: DownloadFixture) -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


def create_source(node: FakeNode, site: DownloadFixture, name: str = "attic") -> PeerSource:
    return PeerSource(
        node_id=name, node_name=name, address=node.address, tickets={site.spec.sha256: "a token"}
    )


async def test_where_no_node_gives_anything_the_hub_does(site: DownloadFixture, node: FakeNode) -> None:
    # A thousand bytes, then silence.
    node.answer = build_partial_response(0)
    site.peer_sources = (create_source(node, site),)
    await site.start_download(timeouts=SHORT_TIMEOUTS).wait()
    site.assert_complete()
    assert site.requested_ranges()[0] == "bytes=1000-"


async def test_what_a_node_says_is_shown_while_it_is_waited_for(
    site: DownloadFixture, node: FakeNode
) -> None:
    node.answer = b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"
    site.peer_sources = (create_source(node, site),)
    download = site.start_download(timeouts=replace(SHORT_TIMEOUTS, hub_fallback_delay_s=600.0))
    await wait_until(lambda: download.waiting_reason is not None)
    assert download.waiting_reason == "waiting for a copy: node attic has not got so far"
    assert site.hub.requests == []
    # This node is the first in the chain now.
    site.peer_sources = ()
    download.on_sources_changed()
    await download.wait()
    site.assert_complete()


async def test_a_hub_that_refuses_is_not_the_end_while_a_node_may_have_it(
    site: DownloadFixture, node: FakeNode, stand_in: HubStandIn
) -> None:
    stand_in.set_gated(REPO)
    # It sends nothing.
    site.peer_sources = (create_source(node, site),)
    download = site.start_download(timeouts=SHORT_TIMEOUTS)
    await wait_until(lambda: bool(stand_in.requests) and download.retry_at is not None)
    await asyncio.to_thread(stand_in.wait_until, lambda: len(node.requests) >= 3)
    site.peer_sources = ()
    download.on_sources_changed()
    with pytest.raises(DownloadFailed, match="licence"):
        await download.wait()


async def test_a_copy_is_cancelled_at_once(site: DownloadFixture, node: FakeNode) -> None:
    node.answer = build_partial_response(0)
    site.peer_sources = (create_source(node, site),)
    download = site.start_download(timeouts=replace(SHORT_TIMEOUTS, peer_read_timeout_s=600.0))
    await wait_until(lambda: download.downloaded_bytes == 1000)
    download.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(DownloadCancelled):
            await download.wait()
    assert site.partial_path.read_bytes() == CONTENT[:1000]


async def test_a_copy_that_is_being_opened_is_cancelled_at_once_and_shows_no_more_bytes(
    site: DownloadFixture, node: FakeNode
) -> None:
    site.write_partial(CONTENT[:1000])
    # It does not answer.
    site.peer_sources = (create_source(node, site),)
    download = site.start_download(timeouts=replace(SHORT_TIMEOUTS, peer_read_timeout_s=600.0))
    await wait_until(lambda: bool(node.requests))
    assert download.growing_file.have_bytes == 1000
    download.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(DownloadCancelled):
            await download.wait()
    assert download.growing_file.have_bytes == 0


async def test_a_node_whose_copy_crawls_is_left(site: DownloadFixture, node: FakeNode) -> None:
    """Slow nodes are treated as slow servers."""
    node.answer = build_partial_response(0)
    site.peer_sources = (create_source(node, site),)
    timing = replace(
        SHORT_TIMEOUTS,
        slow_window_s=0.0,
        min_bytes_per_s=10**12,
        peer_backoff_initial_s=60.0,
        peer_backoff_max_s=60.0,
    )
    download = site.start_download(timeouts=replace(timing, hub_fallback_delay_s=600.0))
    await wait_until(lambda: download.waiting_reason is not None)
    assert download.waiting_reason == "waiting for a copy: node attic became very slow"


async def test_who_sends_wrong_bytes_is_named_and_not_asked_again(
    site: DownloadFixture, node: FakeNode
) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 0xFF])
    head = build_partial_response(0, "X-LLB-Verified: true").partition(b"\r\n\r\n")[0]
    node.answer = head + b"\r\n\r\n" + wrong
    site.peer_sources = (create_source(node, site),)
    download = site.start_download(timeouts=SHORT_TIMEOUTS)
    await download.wait()
    site.assert_complete()
    assert download.bad_sources == ("attic",)
    assert len(node.requests) == 1
    assert site.requested_ranges() == ["bytes=0-"]
