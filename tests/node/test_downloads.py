from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llb import portable
from llb.hub import Hub
from llb.node.downloads import Download, DownloadCancelled, DownloadFailed, Phase, Timing
from llb.node.files import partial_name
from llb.node.partial import Partial
from llb.node.rates import RateLimiter, Speed
from llb.wire import FileSpec, HubSource
from tests.hub import HubStandIn, tiny_gguf

REPO, NAME = "org/tiny", "tiny.gguf"
CONTENT = tiny_gguf(3_000_000)
QUICK = Timing(backoff_first_s=0.01, backoff_max_s=0.02, silence_timeout_s=5.0, connect_timeout_s=2.0)


class Clock(threading.Event):
    """An event that is never set and waited for in no time: what passes is `now`, what was asked is `waits`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.now += timeout or 0.0
        return False


class Site:
    """A stand-in that holds one file, and what is needed to download it."""

    def __init__(self, stand_in: HubStandIn, directory: Path) -> None:
        self.hub = stand_in
        commit = stand_in.add_repo(REPO, {NAME: CONTENT})
        self.source = HubSource(repo=REPO, commit=commit)
        self.spec = FileSpec(
            name=NAME,
            size_bytes=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            sources=(self.source,),
        )
        self.directory = directory
        self.path = directory / NAME
        self.partial = directory / partial_name(self.spec)
        self.client = Hub(stand_in.url)
        self.started: list[Download] = []

    def prepare(
        self,
        spec: FileSpec | None = None,
        *,
        timing: Timing = QUICK,
        rate: int | None = None,
        reserve_bytes: int = 0,
        make_room: Callable[[int], object] | None = None,
    ) -> Download:
        download = Download(
            spec or self.spec,
            self.directory,
            hub=self.client,
            limiter=RateLimiter(rate),
            reserve_bytes=reserve_bytes,
            make_room=make_room,
            timing=timing,
        )
        self.started.append(download)
        return download

    def download(
        self,
        spec: FileSpec | None = None,
        *,
        timing: Timing = QUICK,
        rate: int | None = None,
        reserve_bytes: int = 0,
        make_room: Callable[[int], object] | None = None,
    ) -> Download:
        """One that has been started."""
        download = self.prepare(
            spec, timing=timing, rate=rate, reserve_bytes=reserve_bytes, make_room=make_room
        )
        download.start()
        return download

    def leave_partial(self, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.partial.write_bytes(content)

    def assert_complete(self) -> None:
        assert self.path.read_bytes() == CONTENT
        assert [path.name for path in self.directory.iterdir()] == [NAME]

    def ranges(self) -> list[str | None]:
        """What was asked for at the server that has the bytes."""
        return [request.range for request in self.hub.byte_requests(NAME)]


@pytest.fixture
def stand_in() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
async def site(stand_in: HubStandIn, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(stand_in, tmp_path / "models" / "tiny")
    yield site
    for download in site.started:
        await download.stop()
    stand_in.faults.clear()
    for download in site.started:
        assert await asyncio.to_thread(download.join, 10)
    await site.client.aclose()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a counter of a thread, as the agent does: by looking at it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def waits_for(download: Download) -> Callable[[], bool]:
    return lambda: download.retry_at is not None


# --- the straight way --------------------------------------------------------------------------------


async def test_a_file_arrives_whole_under_its_name_alone(site: Site) -> None:
    download = site.download()
    assert await download.wait() == site.path
    site.assert_complete()
    assert download.downloaded_bytes == download.synced_bytes == len(CONTENT)
    assert download.phase is Phase.VERIFYING
    assert (download.waiting, download.retry_at) == (None, None)
    assert download.bytes_per_second > 0
    assert site.ranges() == ["bytes=0-"]


async def test_every_waiter_is_told_and_one_that_is_cancelled_does_not_end_it(site: Site) -> None:
    throttle = site.hub.faults.throttle(1_000_000)
    download = site.download()
    first, second, third = (asyncio.ensure_future(download.wait()) for _ in range(3))
    await until(lambda: download.downloaded_bytes > 0)
    first.cancel()
    throttle.clear()
    assert await second == await third == site.path


async def test_a_finished_file_is_adopted_without_the_network(site: Site) -> None:
    site.directory.mkdir(parents=True)
    site.path.write_bytes(CONTENT)
    site.leave_partial(CONTENT[:100])
    download = site.download()
    await download.wait()
    site.assert_complete()
    assert site.hub.requests == []
    assert download.downloaded_bytes == len(CONTENT)


async def test_a_finished_file_that_is_wrong_is_fetched_anew(site: Site) -> None:
    site.directory.mkdir(parents=True)
    site.path.write_bytes(CONTENT[:-1] + b"?")
    await site.download().wait()
    site.assert_complete()


# --- resuming ----------------------------------------------------------------------------------------


async def test_it_goes_on_at_the_byte_it_had(site: Site) -> None:
    site.leave_partial(CONTENT[:1_234_567])
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=1234567-"]


async def test_a_complete_partial_needs_no_network(site: Site) -> None:
    site.leave_partial(CONTENT)
    await site.download().wait()
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
async def test_what_lies_on_disk_is_not_believed(site: Site, left: bytes, asked: list[str]) -> None:
    site.leave_partial(left)
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == asked


async def test_a_partial_with_a_second_name_is_never_written_into(site: Site, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(CONTENT[:1000])
    site.directory.mkdir(parents=True)
    site.partial.hardlink_to(theirs)
    await site.download().wait()
    site.assert_complete()
    assert theirs.read_bytes() == CONTENT[:1000]


async def test_cancel_keeps_what_arrived_and_the_next_goes_on(site: Site) -> None:
    stall = site.hub.faults.stall(after=1_000_000, on="bytes")
    first = site.download()
    await until(lambda: first.downloaded_bytes == 1_000_000)
    first.cancel()
    with pytest.raises(DownloadCancelled):
        await first.wait()
    assert site.partial.stat().st_size == 1_000_000
    assert not site.path.exists()
    stall.clear()
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=0-", "bytes=1000000-"]


# --- cancelling from every state ---------------------------------------------------------------------


async def stalled(site: Site) -> Download:
    site.hub.faults.stall(after=100_000)
    download = site.download()
    await until(lambda: download.downloaded_bytes == 100_000)
    return download


async def unanswered(site: Site) -> Download:
    hole = site.hub.faults.black_hole()
    download = site.download()
    await until(lambda: hole.fired == 1)
    return download


async def backing_off(site: Site) -> Download:
    site.hub.faults.fail(503)
    download = site.download(timing=replace(QUICK, backoff_first_s=600.0, backoff_max_s=600.0))
    await until(waits_for(download))
    return download


async def limited(site: Site) -> Download:
    download = site.download(rate=1000)
    await until(lambda: download.downloaded_bytes > 0)
    return download


async def just_started(site: Site) -> Download:
    return site.download()


@pytest.mark.parametrize("state", [stalled, unanswered, backing_off, limited, just_started])
async def test_cancel_ends_it_in_any_state(site: Site, state: Callable[[Site], Awaitable[Download]]) -> None:
    download = await state(site)
    download.cancel()
    download.cancel()
    async with asyncio.timeout(1):  # all of these states would last far longer by themselves
        with pytest.raises(DownloadCancelled):
            await download.wait()
    assert not site.path.exists()


async def test_cancel_interrupts_the_reading_of_what_is_on_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.leave_partial(CONTENT[:2_500_000])
    reached, go_on = threading.Event(), threading.Event()
    steps = []
    real = Partial.rehash

    def rehash(partial: Partial) -> Iterator[int]:
        for done in real(partial):
            steps.append(done)
            reached.set()
            go_on.wait(10)
            yield done

    monkeypatch.setattr(Partial, "rehash", rehash)
    download = site.download()
    await until(reached.is_set)
    download.cancel()
    go_on.set()
    with pytest.raises(DownloadCancelled):
        await download.wait()
    assert len(steps) == 1
    assert site.hub.requests == []
    assert site.partial.stat().st_size == 2_500_000


async def test_a_cancelled_connect_touches_no_file_afterwards(site: Site) -> None:
    hole = site.hub.faults.black_hole(on="bytes")
    site.leave_partial(CONTENT[:1000])
    first = site.download()
    await until(lambda: hole.fired == 1)
    first.cancel()
    with pytest.raises(DownloadCancelled):
        await first.wait()
    hole.clear()  # the first thread's request is still out while the second downloads
    await site.download().wait()
    site.assert_complete()


# --- a network that comes and goes -------------------------------------------------------------------


async def test_a_connection_that_drops_is_taken_up_where_it_ended(site: Site) -> None:
    site.hub.faults.drop(after=700_000, times=3)
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=0-", "bytes=700000-", "bytes=1400000-", "bytes=2100000-"]


async def test_a_body_that_ends_early_is_taken_up(site: Site) -> None:
    site.hub.faults.short(after=700_000, times=1)
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=0-", "bytes=700000-"]


async def test_silence_leads_to_a_new_connection(site: Site) -> None:
    site.hub.faults.stall(after=500_000, times=1)
    await site.download(timing=replace(QUICK, silence_timeout_s=0.1)).wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=0-", "bytes=500000-"]


async def test_a_trickle_leads_to_a_new_connection(site: Site) -> None:
    site.hub.faults.throttle(2000, times=None)
    download = site.download(timing=replace(QUICK, slow_window_s=0.15, slow_bytes_per_s=50_000))
    await until(lambda: download.attempts >= 2)
    site.hub.faults.clear()
    await download.wait()
    site.assert_complete()


async def test_our_own_limit_is_not_taken_for_a_slow_server(site: Site) -> None:
    timing = replace(QUICK, slow_window_s=0.1, slow_bytes_per_s=10_000_000)
    download = site.download(timing=timing, rate=1_500_000)
    await until(lambda: download.downloaded_bytes > 1_000_000)
    assert download.attempts == 1


async def test_while_the_network_is_away_it_waits_and_says_so(site: Site) -> None:
    site.hub.refuse()
    download = site.download()
    await until(lambda: download.attempts >= 3 and download.retry_at is not None)
    assert download.waiting is not None
    assert download.waiting.startswith("waiting for the network: ")
    assert "refused" in download.waiting
    assert "127.0.0.1" not in download.waiting
    site.hub.listen()
    await download.wait()
    site.assert_complete()
    assert download.waiting is None


async def test_an_expired_link_is_asked_for_again(site: Site) -> None:
    site.hub.faults.expire_links(times=2)
    await site.download().wait()
    site.assert_complete()
    assert [request.status for request in site.hub.byte_requests(NAME)][-1] == 206


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_busy_hub_is_asked_again(site: Site, status: int) -> None:
    fault = site.hub.faults.fail(status, times=5)
    await site.download().wait()
    assert fault.fired == 5
    site.assert_complete()


async def test_retry_after_is_honoured_and_capped(site: Site) -> None:
    for asked, least, most in ((50, 49, 51), (5000, 299, 301)):
        fault = site.hub.faults.fail(429, retry_after_s=asked)
        download = site.download(timing=Timing())
        await until(waits_for(download))
        assert download.retry_at is not None
        assert least < download.retry_at - time.time() < most
        await download.stop()
        fault.clear()


async def test_the_back_off_doubles_up_to_its_limit_and_ends_after_a_steady_stretch(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    site.hub.faults.fail(503, times=10)
    site.hub.faults.drop(after=1_500_000, times=1)
    download = site.prepare(timing=Timing())
    download._cancelled = clock = Clock()
    download.start()
    await download.wait()
    assert clock.waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 1]


# --- servers that do not do as they should -----------------------------------------------------------


async def test_a_server_without_ranges_costs_no_byte_that_was_there(site: Site) -> None:
    site.hub.faults.ignore_range()
    site.leave_partial(CONTENT[:2_000_000])
    download = site.download()
    sizes = set()

    def done() -> bool:
        sizes.add(site.partial.stat().st_size if site.partial.exists() else len(CONTENT))
        return download.downloaded_bytes == len(CONTENT)

    await until(done)
    await download.wait()
    site.assert_complete()
    assert min(sizes) >= 2_000_000


@pytest.mark.parametrize(("start", "total"), [(5, 0), (0, 5)])
async def test_a_wrong_range_is_not_used(site: Site, start: int, total: int) -> None:
    site.hub.faults.wrong_range(start=start, total=total)
    site.leave_partial(CONTENT[:2_000_000])
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=2000000-", None]


async def test_416_means_without_a_range(site: Site) -> None:
    site.hub.faults.answer(416, "", times=1, on="bytes")
    site.leave_partial(CONTENT[:2_000_000])
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=2000000-", None]


async def test_a_mirror_that_sends_the_bytes_itself_will_do(site: Site) -> None:
    site.hub.faults.direct()
    await site.download().wait()
    site.assert_complete()


async def test_a_log_in_page_is_waited_out(site: Site) -> None:
    site.leave_partial(CONTENT[:2_000_000])
    site.hub.faults.html(times=3)
    download = site.download()
    await download.wait()
    site.assert_complete()
    assert site.ranges()[-1] == "bytes=2000000-"


async def test_a_mirror_that_always_sends_a_page_is_given_up_with_the_partial_kept(site: Site) -> None:
    site.leave_partial(CONTENT[:2_000_000])
    page = site.hub.faults.html()
    with pytest.raises(DownloadFailed, match=r"is not a GGUF file: .* web page") as failure:
        await site.download().wait()
    assert failure.value.code == "not_gguf"
    assert page.fired == 4
    assert site.partial.read_bytes() == CONTENT[:2_000_000]


async def test_bytes_without_the_magic_are_not_written(site: Site) -> None:
    other = b"PK\x03\x04" + CONTENT[4:]
    commit = site.hub.add_repo(REPO, {NAME: other})
    spec = FileSpec(
        name=NAME,
        size_bytes=len(other),
        sha256=hashlib.sha256(other).hexdigest(),
        sources=(HubSource(repo=REPO, commit=commit),),
    )
    with pytest.raises(DownloadFailed, match="is not a GGUF file"):
        await site.download(spec).wait()
    assert (site.directory / partial_name(spec)).stat().st_size == 0


async def test_a_file_of_another_size_is_given_up(site: Site) -> None:
    spec = FileSpec(
        name=NAME, size_bytes=len(CONTENT) + 10, sha256=site.spec.sha256, sources=site.spec.sources
    )
    with pytest.raises(DownloadFailed, match=rf"{len(CONTENT)} bytes instead of {len(CONTENT) + 10}"):
        await site.download(spec).wait()


async def test_a_damaged_transfer_is_fetched_once_more(site: Site) -> None:
    site.hub.faults.corrupt(times=1)
    await site.download().wait()
    site.assert_complete()
    assert site.ranges() == ["bytes=0-", "bytes=0-"]


async def test_a_damaged_source_is_given_up_after_one_more_fetch(site: Site) -> None:
    corrupt = site.hub.faults.corrupt()
    with pytest.raises(DownloadFailed, match="sha256") as failure:
        await site.download().wait()
    assert failure.value.code == "sha256_mismatch"
    assert not failure.value.retriable
    assert corrupt.fired == 2
    assert not site.path.exists()
    assert site.partial.stat().st_size == 0


# --- what waiting does not mend ----------------------------------------------------------------------


async def test_a_repository_that_is_gone_ends_it(site: Site) -> None:
    site.client = Hub(site.hub.url, "hf_known")
    site.hub.add_token("hf_known")
    site.hub.remove_repo(REPO)
    with pytest.raises(DownloadFailed, match=REPO) as failure:
        await site.download().wait()
    assert failure.value.code == "not_found"


async def test_a_file_that_is_gone_ends_it(site: Site) -> None:
    site.hub.remove_file(REPO, NAME)
    with pytest.raises(DownloadFailed, match=NAME) as failure:
        await site.download().wait()
    assert failure.value.code == "not_found"


async def test_gated_without_a_token_and_without_the_licence_are_told_apart(site: Site) -> None:
    site.hub.set_gated(REPO)
    messages = []
    for token in (None, "hf_stranger"):
        site.hub.add_token("hf_stranger")
        site.client = Hub(site.hub.url, token)
        with pytest.raises(DownloadFailed, match="licence") as failure:
            await site.download().wait()
        assert failure.value.code == "gated"
        messages.append(str(failure.value))
    assert messages[0] != messages[1]


async def test_the_token_opens_the_door_and_goes_to_its_own_origin_only(site: Site) -> None:
    site.hub.set_gated(REPO)
    site.hub.add_token("hf_friend", licences=[REPO])
    site.client = Hub(site.hub.url, "hf_friend")
    await site.download().wait()
    site.assert_complete()
    assert not site.hub.tokens_seen_by_cdn()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/"])
async def test_a_redirect_leads_to_the_web_only(site: Site, location: str) -> None:
    site.hub.faults.answer(302, "", headers={"Location": location}, on="resolve")
    with pytest.raises(DownloadFailed, match="not a web address"):
        await site.download().wait()


async def test_redirects_in_a_circle_are_given_up(site: Site) -> None:
    url = site.client.file_url(REPO, site.source.commit, NAME)
    circle = site.hub.faults.answer(302, "", headers={"Location": url}, on="resolve")
    with pytest.raises(DownloadFailed, match="redirected more than 5 times"):
        await site.download().wait()
    assert circle.fired == 4 * 6


# --- the disk ----------------------------------------------------------------------------------------


async def test_too_little_disk_is_said_before_a_byte_is_asked_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "free_disk_bytes", lambda path: 5_000_000_000)
    spec = replace_size(site.spec, 9_000_000_000)
    with pytest.raises(DownloadFailed, match="Required: 9GB, Available: 3GB") as failure:
        await site.download(spec, reserve_bytes=2_000_000_000).wait()
    assert failure.value.code == "insufficient_storage"
    assert site.hub.requests == []


async def test_room_is_made_before_the_disk_counts_as_full(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1_000_000
    monkeypatch.setattr(portable, "free_disk_bytes", lambda path: free)
    asked = []

    def make_room(needed_bytes: int) -> None:
        nonlocal free
        asked.append(needed_bytes)
        free = needed_bytes

    await site.download(make_room=make_room, reserve_bytes=500).wait()
    site.assert_complete()
    assert asked == [len(CONTENT) + 500]


def replace_size(spec: FileSpec, size_bytes: int) -> FileSpec:
    return FileSpec(name=spec.name, size_bytes=size_bytes, sha256=spec.sha256, sources=spec.sources)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (errno.ENOSPC, "disk is full", "insufficient_storage"),
        (errno.EDQUOT, "quota", "insufficient_storage"),
        (errno.EROFS, "read-only", "disk_error"),
        (errno.EIO, "input/output", "disk_error"),
        (errno.EACCES, "may not be written", "disk_error"),
        (errno.ENXIO, "could not be written", "disk_error"),
    ],
)
async def test_a_disk_that_fails_is_named_and_the_partial_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch, code: int, words: str, kind: str
) -> None:
    real = portable.pwrite

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
        if offset >= 1_000_000:
            raise OSError(code, os.strerror(code), "/some/path")
        real(fd, data, offset)

    monkeypatch.setattr(portable, "pwrite", pwrite)
    download = site.download()
    with pytest.raises(DownloadFailed, match=words) as failure:
        await download.wait()
    assert failure.value.code == kind
    assert "/" not in str(failure.value).replace("input/output", "")
    assert 1_000_000 <= site.partial.stat().st_size == download.downloaded_bytes


async def test_a_directory_in_the_way_is_an_error_in_words(site: Site) -> None:
    site.directory.parent.mkdir(parents=True)
    site.directory.write_text("a file where a directory should be")
    with pytest.raises(DownloadFailed) as failure:
        await site.download().wait()
    assert failure.value.code == "disk_error"


async def test_bytes_are_synced_on_the_way(site: Site) -> None:
    site.hub.faults.throttle(20_000_000)
    site.hub.faults.stall(after=2_000_000)
    download = site.download(timing=replace(QUICK, sync_every_bytes=100_000))
    await until(lambda: download.downloaded_bytes == 2_000_000)
    await until(lambda: download.synced_bytes > 0)
    assert download.synced_bytes <= 2_000_000


async def test_a_slow_disk_does_not_hold_up_what_arrives_and_its_failure_is_not_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, failed = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        if threading.current_thread().name != "sync":
            real(fd)
            return
        arrived.wait(10)
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    stall = site.hub.faults.stall(after=2_000_000)
    download = site.download(timing=replace(QUICK, sync_every_bytes=100_000))
    await until(lambda: download.downloaded_bytes == 2_000_000)
    assert not failed.is_set()
    arrived.set()
    stall.clear()
    with pytest.raises(DownloadFailed, match="input/output"):
        await download.wait()
    assert not site.path.exists()


# --- rates -------------------------------------------------------------------------------------------


def test_a_limit_is_shared_and_idle_time_is_not_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    limiter = RateLimiter(1000, burst_s=0.0)
    assert [limiter.acquire(500, clock) for _ in range(4)] == [0.5] * 4
    clock.now += 3600
    assert limiter.acquire(500, clock) == 0.5
    assert RateLimiter(None).acquire(10**12, clock) == 0.0


def test_speed_settles_at_the_truth_and_falls_when_nothing_comes() -> None:
    speed = Speed(window_s=3.0)
    assert speed.read(0.0) == 0.0
    for tick in range(1, 101):
        speed.add(100_000, tick * 0.1)
    assert speed.read(10.0) == pytest.approx(1_000_000, rel=0.05)
    assert speed.read(13.0) < 500_000
    assert speed.read(100.0) < 1
