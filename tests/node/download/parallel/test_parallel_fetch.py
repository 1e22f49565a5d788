"""Parallel fetch: several connections to the Hub for one file, their segments, their failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llb.base import platform_compat
from llb.node.download import hub_fetch, resumable_download, running_hash
from llb.node.download.download_errors import DownloadCancelled, DownloadFailed
from llb.node.download.parallel import parallel_fetch
from llb.node.download.parallel.connection_policy import ConnectionPolicy
from llb.node.download.parallel.range_connection import RangeConnection
from llb.node.download.parallel.segments import SegmentStore
from llb.node.download.resumable_download import FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles, segment_file_name
from tests.hub.record import RecordedRequest
from tests.node.replica_fixture import CONTENT, FAST_TIMEOUTS, NAME, DownloadFixture, wait_until

RANGE_BYTES = 300_000
assert RANGE_BYTES > hub_fetch.READ_BYTES
# A connection that stalls on purpose stays, however busy this machine is.
TIMEOUTS = replace(FAST_TIMEOUTS, min_range_bytes=RANGE_BYTES, read_timeout_s=30.0)
SENT_BYTES = 50_000


class FourConnections(ConnectionPolicy):
    """Policy without a clock: four connections from the first chunk on, before which it calls `prepare`."""

    def __init__(self, prepare: Callable[[], object] = lambda: None) -> None:
        super().__init__(4, 1.0)
        self._prepare: Callable[[], object] | None = prepare

    def restart_measurement(self) -> None:
        pass

    def record_total(self, received_bytes: int, now: float, *, may_grow: bool) -> None:
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
            self.connections = 4


def start_download(
    site: DownloadFixture,
    policy: ConnectionPolicy | None = None,
    timeouts: DownloadTimeouts = TIMEOUTS,
    reserve_bytes: int = 0,
) -> FileDownload:
    download = site.create_download(timeouts=timeouts, reserve_bytes=reserve_bytes)
    download._connection_policy = policy or FourConnections()
    download.start()
    return download


def byte_requests(site: DownloadFixture) -> list[RecordedRequest]:
    return site.hub.byte_requests(NAME)


async def stalled_download(
    site: DownloadFixture, timeouts: DownloadTimeouts = TIMEOUTS, reserve_bytes: int = 0
) -> FileDownload:
    """A download with four connections, each of which has sent `SENT_BYTES`."""
    site.hub.faults.stall(after=SENT_BYTES)
    download = start_download(site, timeouts=timeouts, reserve_bytes=reserve_bytes)
    await wait_until(lambda: download.downloaded_bytes == 4 * SENT_BYTES)
    return download


async def test_four_connections_fetch_each_byte_once(site: DownloadFixture) -> None:
    download = await stalled_download(site)
    assert download.attempts == len(byte_requests(site)) == 4
    site.hub.faults.clear()
    await download.wait()
    site.assert_complete()
    assert download.downloaded_bytes == download.synced_bytes == len(CONTENT)
    # Beside the bytes that were on their way on the first connection, which had asked for all.
    ranges = sorted(str(request.range).removeprefix("bytes=") for request in byte_requests(site)[1:])
    starts, ends = zip(*(map(int, text.split("-")) for text in ranges), strict=True)
    assert len(set(starts)) == len(starts)
    assert max(ends) == len(CONTENT) - 1


async def test_no_buffer_is_filled_again_while_it_is_hashed(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each chunk is hashed in the other thread.
    monkeypatch.setattr(running_hash, "LARGE_CHUNK_BYTES", 1)
    hashing_at_start: list[bool] = []

    class WatchedConnection(RangeConnection):
        def start(self) -> None:
            hashing_at_start.append(download._partial_file._hash._is_hashing)
            super().start()

    monkeypatch.setattr(parallel_fetch, "RangeConnection", WatchedConnection)
    download = start_download(site)
    await download.wait()
    site.assert_complete()
    assert hashing_at_start[0] is False


def test_a_segment_that_was_given_up_takes_no_file_with_it(site: DownloadFixture) -> None:
    site.directory.mkdir(parents=True)
    store = SegmentStore(site.spec, site.directory)
    given_up = store.add_next(0, 1000, 1000)
    assert given_up is not None
    given_up.finish()
    # Its connection has not been looked at yet when another one is idle.
    segment = store.add_next(0, 1000, 1000)
    assert segment is not None
    segment.append(CONTENT[:10])
    store.drop_empty()
    segment.finish()
    assert segment.path.read_bytes() == CONTENT[:10]


async def test_what_came_before_its_turn_survives_the_process(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No read is longer than a range, so that each range that lacks bytes gets a request of its own.
    monkeypatch.setattr(hub_fetch, "FAST_READ_BYTES", hub_fetch.READ_BYTES)
    first = await stalled_download(site)
    await first.stop()
    with pytest.raises(DownloadCancelled):
        await first.wait()
    requests = byte_requests(site)
    site.hub.wait_until(lambda: all(request.done for request in requests))
    assert sum(path.stat().st_size for path in site.directory.iterdir()) >= 4 * SENT_BYTES
    site.hub.faults.clear()
    second = site.start_download()
    await second.wait()
    site.assert_complete()
    later = [request.range_start for request in byte_requests(site)[4:]]
    assert later[0] == SENT_BYTES
    for start, gap in zip(later, sorted(request.range_start for request in requests), strict=True):
        assert start >= gap + SENT_BYTES


async def test_segments_need_no_network_when_they_are_all_there(site: DownloadFixture) -> None:
    site.write_partial(CONTENT[:1_000_000])
    for start, end in ((900_000, 2_000_000), (2_000_000, 2_000_000), (2_000_000, len(CONTENT))):
        (site.directory / segment_file_name(site.spec, start)).write_bytes(CONTENT[start:end])
    download = site.start_download()
    await download.wait()
    site.assert_complete()
    assert site.hub.requests == []


async def test_a_wrong_segment_is_found_by_the_hash(site: DownloadFixture) -> None:
    site.write_partial(CONTENT[:1_000_000])
    (site.directory / segment_file_name(site.spec, 1_000_000)).write_bytes(bytes(len(CONTENT) - 1_000_000))
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-"]


async def test_a_segment_without_a_beginning_is_not_used(site: DownloadFixture) -> None:
    site.directory.mkdir(parents=True)
    (site.directory / segment_file_name(site.spec, 1_000_000)).write_bytes(CONTENT[1_000_000:])
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-"]


async def test_damage_in_one_range_is_found_by_the_hash(site: DownloadFixture) -> None:
    corrupt = site.hub.faults.corrupt(times=1)
    await start_download(site).wait()
    site.assert_complete()
    assert corrupt.fired == 1


@pytest.mark.parametrize(
    "prepare",
    [
        lambda site: site.hub.faults.ignore_range(),
        lambda site: site.hub.faults.omit_headers("ETag", on="bytes"),
    ],
    ids=["no ranges", "no ETag"],
)
async def test_a_server_that_may_mix_versions_gets_one_connection(
    site: DownloadFixture, prepare: Callable[[DownloadFixture], object]
) -> None:
    prepare(site)
    await start_download(site).wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-"]


async def test_bytes_of_another_version_are_not_used(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = hub_fetch.open_hub_body

    def open_hub_body(*arguments: Any, end: int | None = None, **more: Any) -> hub_fetch.DownloadBody:
        body = original(*arguments, end=end, **more)
        if end is not None:
            body._response.headers["etag"] = '"another"'
            monkeypatch.setattr(body, "iter_chunks", None)
        return body

    monkeypatch.setattr(hub_fetch, "open_hub_body", open_hub_body)
    policy = FourConnections()
    await start_download(site, policy).wait()
    site.assert_complete()
    assert policy.connections == 1
    assert str(site.requested_ranges()[-1]).endswith("-")


async def test_a_busy_hub_means_fewer_connections(site: DownloadFixture) -> None:
    policy = FourConnections(lambda: site.hub.faults.fail(503, retry_after_s=600, on="bytes", times=3))
    await start_download(site, policy).wait()
    site.assert_complete()
    assert policy.connections == 1


@pytest.mark.parametrize("kind", ["drop", "short"])
async def test_connections_that_end_early_are_replaced(site: DownloadFixture, kind: str) -> None:
    getattr(site.hub.faults, kind)(after=100_000, times=3)
    await start_download(site).wait()
    site.assert_complete()


async def test_an_expired_link_is_asked_for_again(site: DownloadFixture) -> None:
    # The first connection continues; another one finds that the link of the first has expired.
    policy = FourConnections(lambda: site.hub.faults.answer(403, "", on="bytes", times=1))
    site.hub.add_token("hf_good")
    site.hub_client.set_token("hf_good")
    await start_download(site, policy).wait()
    site.assert_complete()
    assert policy.connections == 4
    resolved = [request for request in site.hub.requests if request.on == "resolve"]
    # The token is for the Hub, whatever address a range is asked for at.
    assert [request.authorization for request in resolved] == 2 * ["Bearer hf_good"]
    assert site.hub.tokens_seen_by_cdn() == []


async def test_an_almost_full_disk_ends_it_also_while_nothing_can_be_moved(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable_download, "MIN_FREE_BYTES", 1000)
    download = await stalled_download(site, replace(TIMEOUTS, sync_interval_s=0.0), reserve_bytes=1000)
    await wait_until(lambda: download.synced_bytes == download._partial_file.have_bytes)
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda _path: 999)
    with pytest.raises(DownloadFailed) as failed:
        await download.wait()
    assert failed.value.code == "insufficient_storage"


async def test_segments_are_removed_with_the_model(site: DownloadFixture, tmp_path: Path) -> None:
    site.write_partial(CONTENT[:1000])
    other = site.directory / "other.gguf.at5.0123456789abcdef.partial"
    for path in (site.directory / segment_file_name(site.spec, 5000), other):
        path.write_bytes(b"later")
    files = ModelFiles(site.directory.parent)
    assert files.partial_bytes_of(site.directory.name) == 1010
    files.remove_files(site.directory.name, [NAME])
    assert list(site.directory.iterdir()) == [other]
