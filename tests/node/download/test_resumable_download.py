"""File download: resuming, cancellation, network failures, disk errors."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from llb.base import platform_compat
from llb.node.download.download_errors import DownloadCancelled, DownloadFailed
from llb.node.download.partial_file import PartialFile
from llb.node.download.resumable_download import FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec
from tests.node.replica_fixture import (
    CONTENT,
    FAST_TIMEOUTS,
    NAME,
    DownloadFixture,
    FakeClockEvent,
    is_waiting_to_retry,
    wait_until,
)

# --- without faults --------------------------------------------------------------------------------


async def test_a_file_arrives_whole_under_its_name_alone(site: DownloadFixture) -> None:
    download = site.start_download()
    assert await download.wait() == site.path
    site.assert_complete()
    assert download.downloaded_bytes == download.synced_bytes == len(CONTENT)
    assert (download.waiting_reason, download.retry_at) == (None, None)
    assert download.bytes_per_second > 0
    assert site.requested_ranges() == ["bytes=0-"]


async def test_every_waiter_is_told_and_one_that_is_cancelled_does_not_end_it(site: DownloadFixture) -> None:
    throttle = site.hub.faults.throttle(1_000_000)
    download = site.start_download()
    first, second, third = (asyncio.ensure_future(download.wait()) for _ in range(3))
    await wait_until(lambda: download.downloaded_bytes > 0)
    first.cancel()
    throttle.clear()
    assert await second == await third == site.path


async def test_a_finished_file_is_adopted_without_the_network(site: DownloadFixture) -> None:
    site.directory.mkdir(parents=True)
    site.path.write_bytes(CONTENT)
    site.write_partial(CONTENT[:100])
    download = site.start_download()
    await download.wait()
    site.assert_complete()
    assert site.hub.requests == []
    assert download.downloaded_bytes == len(CONTENT)


async def test_a_finished_file_that_is_wrong_is_fetched_anew(site: DownloadFixture) -> None:
    site.directory.mkdir(parents=True)
    site.path.write_bytes(CONTENT[:-1] + b"?")
    await site.start_download().wait()
    site.assert_complete()


# --- resuming -------------------------------------------------------------------------------------


async def test_it_goes_on_at_the_byte_it_had(site: DownloadFixture) -> None:
    site.write_partial(CONTENT[:1_234_567])
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=1234567-"]


async def test_a_complete_partial_needs_no_network(site: DownloadFixture) -> None:
    site.write_partial(CONTENT)
    await site.start_download().wait()
    site.assert_complete()
    assert site.hub.requests == []


@pytest.mark.parametrize(
    ("left", "asked"),
    [
        (CONTENT + b"more", ["bytes=0-"]),
        (b"<html>", ["bytes=0-"]),
        (b"GG", ["bytes=2-"]),
        (b"", ["bytes=0-"]),
        (CONTENT[:500_000] + b"?" + CONTENT[500_001:1_000_000], ["bytes=1000000-", "bytes=0-"]),
        (CONTENT[:-1] + b"?", ["bytes=0-"]),
    ],
    ids=["too long", "not GGUF", "two bytes", "empty", "damaged", "complete and damaged"],
)
async def test_what_lies_on_disk_is_not_believed(
    site: DownloadFixture, left: bytes, asked: list[str]
) -> None:
    site.write_partial(left)
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == asked


async def test_a_partial_with_a_second_name_is_never_written_into(
    site: DownloadFixture, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(CONTENT[:1000])
    site.directory.mkdir(parents=True)
    site.partial_path.hardlink_to(theirs)
    await site.start_download().wait()
    site.assert_complete()
    assert theirs.read_bytes() == CONTENT[:1000]


async def test_cancel_keeps_what_arrived_and_the_next_goes_on(site: DownloadFixture) -> None:
    stall = site.hub.faults.stall(after=1_000_000, on="bytes")
    first = site.start_download()
    await wait_until(lambda: first.downloaded_bytes == 1_000_000)
    first.cancel()
    with pytest.raises(DownloadCancelled):
        await first.wait()
    assert site.partial_path.stat().st_size == 1_000_000
    assert not site.path.exists()
    stall.clear()
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-", "bytes=1000000-"]


# --- cancelling from every state ------------------------------------------------------------------


async def stalled(site: DownloadFixture) -> FileDownload:
    site.hub.faults.stall(after=100_000)
    download = site.start_download()
    await wait_until(lambda: download.downloaded_bytes == 100_000)
    return download


async def unanswered(site: DownloadFixture) -> FileDownload:
    hole = site.hub.faults.black_hole()
    download = site.start_download()
    await wait_until(lambda: hole.fired == 1)
    return download


async def backing_off(site: DownloadFixture) -> FileDownload:
    site.hub.faults.fail(503)
    download = site.start_download(
        timeouts=replace(FAST_TIMEOUTS, backoff_initial_s=600.0, backoff_max_s=600.0)
    )
    await wait_until(is_waiting_to_retry(download))
    return download


async def limited(site: DownloadFixture) -> FileDownload:
    download = site.start_download(rate_limit=1000)
    await wait_until(lambda: download.downloaded_bytes > 0)
    return download


async def just_started(site: DownloadFixture) -> FileDownload:
    return site.start_download()


@pytest.mark.parametrize("state", [stalled, unanswered, backing_off, limited, just_started])
async def test_cancel_ends_it_in_any_state(
    site: DownloadFixture, state: Callable[[DownloadFixture], Awaitable[FileDownload]]
) -> None:
    download = await state(site)
    download.cancel()
    download.cancel()
    # Each of these states would last far longer without the cancellation.
    async with asyncio.timeout(60):
        with pytest.raises(DownloadCancelled):
            await download.wait()
    assert not site.path.exists()


async def test_cancel_interrupts_the_reading_of_what_is_on_disk(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write_partial(CONTENT[:2_500_000])
    reached, may_continue = threading.Event(), threading.Event()
    steps = []
    original = PartialFile.rehash

    def rehash(partial: PartialFile) -> Iterator[int]:
        for done in original(partial):
            steps.append(done)
            reached.set()
            may_continue.wait(10)
            yield done

    monkeypatch.setattr(PartialFile, "rehash", rehash)
    download = site.start_download()
    await wait_until(reached.is_set)
    download.cancel()
    may_continue.set()
    with pytest.raises(DownloadCancelled):
        await download.wait()
    assert len(steps) == 1
    assert site.hub.requests == []
    assert site.partial_path.stat().st_size == 2_500_000


async def test_a_cancelled_connect_touches_no_file_afterwards(site: DownloadFixture) -> None:
    hole = site.hub.faults.black_hole(on="bytes")
    site.write_partial(CONTENT[:1000])
    first = site.start_download()
    await wait_until(lambda: hole.fired == 1)
    first.cancel()
    with pytest.raises(DownloadCancelled):
        await first.wait()
    # The first thread's request is still open while the second one downloads.
    hole.clear()
    await site.start_download().wait()
    site.assert_complete()


# --- network failures -----------------------------------------------------------------------------


async def test_a_connection_that_drops_is_taken_up_where_it_ended(site: DownloadFixture) -> None:
    site.hub.faults.drop(after=700_000, times=3)
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-", "bytes=700000-", "bytes=1400000-", "bytes=2100000-"]


async def test_a_body_that_ends_early_is_taken_up(site: DownloadFixture) -> None:
    site.hub.faults.short(after=700_000, times=1)
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-", "bytes=700000-"]


async def test_silence_leads_to_a_new_connection(site: DownloadFixture) -> None:
    site.hub.faults.stall(after=500_000, times=1)
    await site.start_download(timeouts=replace(FAST_TIMEOUTS, read_timeout_s=0.1)).wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-", "bytes=500000-"]


async def test_a_trickle_leads_to_a_new_connection(site: DownloadFixture) -> None:
    site.hub.faults.throttle(2000, times=None)
    download = site.start_download(
        timeouts=replace(FAST_TIMEOUTS, slow_window_s=0.15, min_bytes_per_s=50_000)
    )
    await wait_until(lambda: download.attempts >= 2)
    site.hub.faults.clear()
    await download.wait()
    site.assert_complete()


async def test_our_own_limit_is_not_taken_for_a_slow_server(site: DownloadFixture) -> None:
    timeouts = replace(FAST_TIMEOUTS, slow_window_s=0.1, min_bytes_per_s=10_000_000)
    download = site.start_download(timeouts=timeouts, rate_limit=1_500_000)
    await wait_until(lambda: download.downloaded_bytes > 1_000_000)
    assert download.attempts == 1


async def test_while_the_network_is_away_it_waits_and_says_so(site: DownloadFixture) -> None:
    site.hub.stop_listening()
    download = site.start_download()
    await wait_until(lambda: download.attempts >= 3 and download.retry_at is not None)
    assert download.waiting_reason is not None
    assert download.waiting_reason.startswith("waiting for the network: ")
    assert "refused" in download.waiting_reason
    assert "127.0.0.1" not in download.waiting_reason
    site.hub.listen()
    await download.wait()
    site.assert_complete()
    assert download.waiting_reason is None


async def test_an_expired_link_is_asked_for_again(site: DownloadFixture) -> None:
    site.hub.faults.expire_links(times=2)
    await site.start_download().wait()
    site.assert_complete()
    assert [request.status for request in site.hub.byte_requests(NAME)][-1] == 206


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_busy_hub_is_asked_again(site: DownloadFixture, status: int) -> None:
    fault = site.hub.faults.fail(status, times=5)
    await site.start_download().wait()
    assert fault.fired == 5
    site.assert_complete()


async def test_retry_after_is_honoured_and_capped(site: DownloadFixture) -> None:
    for asked, least, most in ((50, 49, 51), (5000, 299, 301)):
        fault = site.hub.faults.fail(429, retry_after_s=asked)
        download = site.start_download(timeouts=DownloadTimeouts())
        await wait_until(is_waiting_to_retry(download))
        assert download.retry_at is not None
        assert least < download.retry_at - time.time() < most
        await download.stop()
        fault.clear()


async def test_the_back_off_doubles_up_to_its_limit_and_ends_after_a_steady_stretch(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.hub.faults.fail(503, times=10)
    site.hub.faults.drop(after=1_500_000, times=1)
    download = site.create_download(timeouts=DownloadTimeouts())
    download._hub_retry_policy._backoff._uniform = lambda low, high: high
    download._wake_event = clock = FakeClockEvent()
    monkeypatch.setattr(download._source_selector, "_clock", lambda: clock.now)
    download.start()
    await download.wait()
    assert clock.waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 1]


# --- the disk -------------------------------------------------------------------------------------


async def test_too_little_disk_is_said_before_a_byte_is_asked_for(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda path: 5_000_000_000)
    spec = replace_size(site.spec, 9_000_000_000)
    with pytest.raises(DownloadFailed, match="Required: 9GB, Available: 3GB") as failure:
        await site.start_download(spec, reserve_bytes=2_000_000_000).wait()
    assert failure.value.code == "insufficient_storage"
    assert site.hub.requests == []


def replace_size(spec: FileSpec, size_bytes: int) -> FileSpec:
    return FileSpec(name=spec.name, size_bytes=size_bytes, sha256=spec.sha256, sources=spec.sources)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (errno.ENOSPC, "disk is full", "insufficient_storage"),
        (errno.EDQUOT, "quota", "insufficient_storage"),
        (errno.EROFS, "read-only", "disk_error"),
        (errno.EIO, "input/output", "disk_error"),
        (errno.EACCES, "is not writable", "disk_error"),
        (errno.ENXIO, "could not be written", "disk_error"),
    ],
)
async def test_a_disk_that_fails_is_named_and_the_partial_kept(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch, code: int, words: str, kind: str
) -> None:
    original = platform_compat.pwrite

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
        if offset >= 1_000_000:
            raise OSError(code, os.strerror(code), "/some/path")
        original(fd, data, offset)

    monkeypatch.setattr(platform_compat, "pwrite", pwrite)
    download = site.start_download()
    with pytest.raises(DownloadFailed, match=words) as failure:
        await download.wait()
    assert failure.value.code == kind
    assert "/" not in str(failure.value).replace("input/output", "")
    assert 1_000_000 <= site.partial_path.stat().st_size == download.downloaded_bytes


async def test_a_directory_in_the_way_is_an_error_in_words(site: DownloadFixture) -> None:
    site.directory.parent.mkdir(parents=True)
    site.directory.write_text("a file where a directory should be")
    with pytest.raises(DownloadFailed) as failure:
        await site.start_download().wait()
    assert failure.value.code == "disk_error"


async def test_bytes_are_synced_on_the_way(site: DownloadFixture) -> None:
    site.hub.faults.throttle(20_000_000)
    site.hub.faults.stall(after=2_000_000)
    download = site.start_download(timeouts=replace(FAST_TIMEOUTS, sync_interval_bytes=100_000))
    await wait_until(lambda: download.downloaded_bytes == 2_000_000)
    await wait_until(lambda: download.synced_bytes > 0)
    assert download.synced_bytes <= 2_000_000


async def test_a_slow_disk_does_not_hold_up_what_arrives_and_its_failure_is_not_lost(
    site: DownloadFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, failed = threading.Event(), threading.Event()
    original = os.fsync

    def fsync(fd: int) -> None:
        if threading.current_thread().name != "sync":
            original(fd)
            return
        arrived.wait(10)
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    stall = site.hub.faults.stall(after=2_000_000)
    download = site.start_download(timeouts=replace(FAST_TIMEOUTS, sync_interval_bytes=100_000))
    await wait_until(lambda: download.downloaded_bytes == 2_000_000)
    assert not failed.is_set()
    arrived.set()
    stall.clear()
    with pytest.raises(DownloadFailed, match="input/output"):
        await download.wait()
    assert not site.path.exists()
