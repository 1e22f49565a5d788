"""Fixture of the download tests: a Hub stand-in with one file, and the parts of a download."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from llb.hub import HubClient
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.peer_fetch import PeerClient, PeerFetchContext
from llb.node.download.resumable_download import FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import partial_file_name
from llb.wire import FileSpec, HubSource, PeerSource
from tests.hub import HubStandIn, tiny_gguf

REPO, NAME = "org/tiny", "tiny.gguf"
CONTENT = tiny_gguf(3_000_000)
FAST_TIMEOUTS = DownloadTimeouts(
    backoff_initial_s=0.01, backoff_max_s=0.02, read_timeout_s=5.0, connect_timeout_s=2.0
)


class FakeClockEvent(threading.Event):
    """Event that is never set; `wait()` returns at once, advances `now` and records the wait in `waits`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.now += timeout or 0.0
        return False


class DownloadFixture:
    """A Hub stand-in with one file, and the parts that a download of it needs."""

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
        self.partial_path = directory / partial_file_name(self.spec)
        self.hub_client = HubClient(stand_in.url)
        self.peer_client = PeerClient()
        # The peer sources of every download.
        self.peer_sources: tuple[PeerSource, ...] = ()
        self.downloads: list[FileDownload] = []

    def create_download(
        self,
        spec: FileSpec | None = None,
        *,
        timeouts: DownloadTimeouts = FAST_TIMEOUTS,
        rate_limit: int | None = None,
        reserve_bytes: int = 0,
    ) -> FileDownload:
        download = FileDownload(
            spec or self.spec,
            self.directory,
            hub=self.hub_client,
            bandwidth_limiter=BandwidthLimiter(rate_limit),
            peer_context=PeerFetchContext("tiny", self.peer_client, lambda: self.peer_sources),
            reserve_bytes=reserve_bytes,
            timeouts=timeouts,
        )
        self.downloads.append(download)
        return download

    def start_download(
        self,
        spec: FileSpec | None = None,
        *,
        timeouts: DownloadTimeouts = FAST_TIMEOUTS,
        rate_limit: int | None = None,
        reserve_bytes: int = 0,
    ) -> FileDownload:
        """Create and start a download."""
        download = self.create_download(
            spec,
            timeouts=timeouts,
            rate_limit=rate_limit,
            reserve_bytes=reserve_bytes,
        )
        download.start()
        return download

    def write_partial(self, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.partial_path.write_bytes(content)

    def assert_complete(self) -> None:
        assert self.path.read_bytes() == CONTENT
        assert [path.name for path in self.directory.iterdir()] == [NAME]

    def requested_ranges(self) -> list[str | None]:
        """The ranges requested from the server that has the bytes."""
        return [request.range for request in self.hub.byte_requests(NAME)]


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll the counters of a download thread, as the agent does."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


def is_waiting_to_retry(download: FileDownload) -> Callable[[], bool]:
    return lambda: download.retry_at is not None
