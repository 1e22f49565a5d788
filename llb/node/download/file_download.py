"""The download of one file: a thread and one connection, resumed at the byte it had, verified, cancelled at once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from llb.base import platform_compat
from llb.errors import InsufficientStorage, format_gigabytes
from llb.hub import HubClient, HubError, HubUnreachable
from llb.node.download import hub_fetch
from llb.node.download.bandwidth import BandwidthLimiter, TransferRate
from llb.node.download.download_errors import DownloadCancelled, DownloadFailed, translate_disk_errors
from llb.node.download.partial_file import PartialFile
from llb.node.download.peer_fetch import PeerCopyFailed, PeerFetchContext, open_peer_body
from llb.node.download.retry_policy import HubRetryPolicy
from llb.node.download.source_selector import PeerChoice, SourceSelector, WaitChoice
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import compute_sha256, file_stamp_of, partial_file_name, validate_file_name
from llb.node.sharing.growing_file import GrowingFile
from llb.wire import FileSpec, PeerSource

__all__ = [
    "BandwidthLimiter",
    "DownloadCancelled",
    "DownloadFailed",
    "DownloadPhase",
    "DownloadTimeouts",
    "FileDownload",
    "PeerFetchContext",
]

log = logging.getLogger(__name__)


class DownloadPhase(StrEnum):
    """What a download does; it only ever moves forward."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"


class FileDownload:
    """Fetches `spec` into `directory`: from other nodes if it may be copied, else from the Hub.

    Counters may be read at any time; the thread never waits for the loop. `reserve_bytes` of the disk are left free (add
    what other downloads still need). `make_room` is called in the thread with the free bytes wanted before a full disk
    ends the download.
    """

    def __init__(
        self,
        spec: FileSpec,
        directory: Path,
        *,
        hub: HubClient,
        bandwidth_limiter: BandwidthLimiter,
        peer_context: PeerFetchContext | None = None,
        reserve_bytes: int = 0,
        make_room: Callable[[int], object] | None = None,
        timeouts: DownloadTimeouts | None = None,
    ) -> None:
        self.spec = spec
        self.path = directory / validate_file_name(spec.name)
        self.phase = DownloadPhase.DOWNLOADING
        self.downloaded_bytes = 0
        self.waiting_reason: str | None = None  # why nothing arrives just now
        self.retry_at: float | None = None  # Unix time of the next attempt, while one is waited for
        self.attempts = 0  # connections tried
        self.bad_sources: tuple[str, ...] = ()  # nodes that have sent wrong bytes
        self._hub = hub
        self._bandwidth_limiter = bandwidth_limiter
        self._reserve_bytes = reserve_bytes
        self._make_room = make_room
        self._timeouts = timeouts or DownloadTimeouts()
        self._peer_context = peer_context
        self._source_selector = SourceSelector(
            peer_context.get_sources if peer_context is not None else lambda: (), self._timeouts
        )
        self._hub_retry_policy = HubRetryPolicy(spec.name, self._timeouts)
        self._hub_attempts = 0
        self._hub_failure: DownloadFailed | None = None  # what the Hub said for good
        self._current_sender = ""  # who sent the last piece, in words
        self._transfer_rate = TransferRate()
        self._partial_file = PartialFile(directory / partial_file_name(spec), spec.size_bytes)
        self._cancelled = threading.Event()
        self._wake_event = threading.Event()  # ends a wait for somebody's turn
        self._lock = threading.Lock()  # guards the next two; never held across I/O
        self._body: hub_fetch.DownloadBody | None = None
        self._is_connecting = False
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    # --- from the event loop -------------------------------------------------------------------------

    @property
    def bytes_per_second(self) -> float:
        """Smoothed over a few seconds."""
        return self._transfer_rate.bytes_per_second(time.monotonic())

    @property
    def synced_bytes(self) -> int:
        """Bytes that survive a power cut."""
        return self._partial_file.synced_bytes

    @property
    def growing_file(self) -> GrowingFile:
        """What has arrived, for others to read."""
        return self._partial_file.growing_file

    def start(self) -> None:
        """Begin, in a thread. Call once, in the event loop that will `wait()`."""
        if self._thread is not None:
            raise RuntimeError("a download starts once")
        self._done = asyncio.get_running_loop().create_future()
        # A daemon: a thread inside a name look-up cannot be interrupted and must not hold up the exit.
        self._thread = threading.Thread(
            target=self._run_thread, name=f"download {self.spec.name}", daemon=True
        )
        self._thread.start()

    async def wait(self) -> Path:
        """The finished file; raises `DownloadFailed` or `DownloadCancelled`. Any number of callers may wait."""
        if self._done is None:
            raise RuntimeError("the download has not been started")
        await asyncio.shield(self._done)
        if self._failure is not None:
            raise self._failure
        return self.path

    def cancel(self) -> None:
        """End it now, keeping what has arrived; idempotent, never blocks."""
        with self._lock:
            self._cancelled.set()
            self._wake_event.set()
            body, connecting = self._body, self._is_connecting
        if body is not None:
            body.abort()
        if connecting:
            # Nothing can interrupt a connect, but the thread will touch no file after it: nobody needs to wait.
            self.growing_file.close()
            self._finish(DownloadCancelled())

    def on_sources_changed(self) -> None:
        """There are other nodes to copy from than before. What arrives goes on; who waits looks at once."""
        self._wake_event.set()

    async def stop(self) -> None:
        """`cancel()`, and wait until it touches no file any more."""
        self.cancel()
        if self._done is not None:
            await asyncio.shield(self._done)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait (blocking) until the thread has ended; False after `timeout_s`."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    # --- the thread ----------------------------------------------------------------------------------

    def _run_thread(self) -> None:
        failure: Exception | None = None
        try:
            with translate_disk_errors():
                self._download_file()
        except (DownloadFailed, DownloadCancelled) as error:
            failure = error
        except Exception:
            log.exception("the download of %s crashed", self.spec.name)
            failure = DownloadFailed(
                "The download failed for a reason that llb does not know; see its log", "internal_error"
            )
        finally:
            self._partial_file.close()
            self.growing_file.close()
        self._finish(failure)

    def _finish(self, failure: Exception | None) -> None:
        done = self._done
        if done is None:
            return

        def set_done() -> None:
            if not done.done():
                self._failure = failure
                done.set_result(None)

        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            done.get_loop().call_soon_threadsafe(set_done)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise DownloadCancelled

    def _download_file(self) -> None:
        self._raise_if_cancelled()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._verify_existing_file():
            self._partial_file.path.unlink(missing_ok=True)
            return
        self._partial_file.open()
        self._resume_partial()
        damaged = 0
        while True:
            self._fetch_until_complete()
            if self._partial_file.sha256 == self.spec.sha256:
                break
            verdict = self._source_selector.handle_hash_mismatch()
            log.warning("%s: wrong sha256 %s", self.spec.name, self._partial_file.sha256)
            self.bad_sources += verdict.bad_sources
            self._partial_file.discard()
            self.downloaded_bytes = 0
            damaged += verdict.is_hub_only
            if damaged == 2:
                raise DownloadFailed(
                    f"The sha256 of {self.spec.name} is wrong, twice in a row: the source is damaged",
                    "sha256_mismatch",
                )
        self.phase = DownloadPhase.VERIFYING
        self._raise_if_cancelled()
        self._partial_file.commit_to(self.path)

    def _verify_existing_file(self) -> bool:
        """Whether the finished file is on disk, complete and right."""
        try:
            mark = file_stamp_of(self.path.stat())
        except FileNotFoundError:
            return False
        if mark.size_bytes != self.spec.size_bytes:
            return False
        self.waiting_reason = "checking the file on disk"
        sha256 = compute_sha256(self.path, self._cancelled, self._on_hash_progress)
        self._raise_if_cancelled()
        self.waiting_reason = None
        if sha256 == self.spec.sha256:
            self.phase = DownloadPhase.VERIFYING
            self.growing_file.mark_complete(self.path, mark)
            return True
        self.downloaded_bytes = 0
        return False

    def _on_hash_progress(self, size_bytes: int) -> None:
        self.downloaded_bytes = size_bytes

    def _resume_partial(self) -> None:
        """Trust what is on disk only after reading it."""
        have_bytes = self.downloaded_bytes = self._partial_file.have_bytes
        for done in self._partial_file.rehash():
            self._raise_if_cancelled()
            self.waiting_reason = (
                f"checking the {format_gigabytes(have_bytes)} on disk: {100 * done // have_bytes} %"
            )
        self.waiting_reason = None
        self.downloaded_bytes = self._partial_file.have_bytes
        if self.downloaded_bytes:
            self._source_selector.record_disk_bytes()

    def _fetch_until_complete(self) -> None:
        """Fetch until the partial is complete, for as long as the network is away."""
        while not self._partial_file.is_complete:
            self._raise_if_cancelled()
            self._ensure_disk_space()
            if self._hub_failure is not None and not self._source_selector.usable_sources:
                raise self._hub_failure
            turn = self._source_selector.select_source()
            if isinstance(turn, WaitChoice):
                self._wait_for_source(turn)
            elif turn is None:
                self._fetch_from_hub()
            else:
                self._fetch_from_peer(turn)

    def _wait_for_source(self, choice: WaitChoice) -> None:
        self.waiting_reason = choice.reason
        self.retry_at = time.time() + choice.delay_s
        self._wake_event.wait(choice.delay_s)
        self._wake_event.clear()
        self.retry_at = None

    def _ensure_disk_space(self) -> None:
        remaining = self.spec.size_bytes - self._partial_file.have_bytes
        directory = self.path.parent
        if self._make_room and platform_compat.free_disk_bytes(directory) < remaining + self._reserve_bytes:
            self._make_room(remaining + self._reserve_bytes)
        available = max(0, platform_compat.free_disk_bytes(directory) - self._reserve_bytes)
        if available < remaining:
            short = InsufficientStorage(remaining, available)
            raise DownloadFailed(short.message, short.code)

    def _fetch_from_hub(self) -> None:
        """One connection to the Hub."""
        before = self._partial_file.have_bytes
        start = before if self._hub_retry_policy.can_use_ranges else None
        source = self.spec.sources[self._hub_attempts % len(self.spec.sources)]
        self._hub_attempts += 1
        self._hub_failure = None
        error: HubError = HubUnreachable("the connection ended early")
        try:
            if self._fetch_once(
                lambda: hub_fetch.open_hub_body(self._hub, source, self.spec, start, self._timeouts), None
            ):
                return
        except HubError as caught:
            error = caught
        self._raise_if_cancelled()  # a socket that cancel() shut down looks like a network that failed
        if self._partial_file.is_complete:
            return
        try:
            pause_s = self._hub_retry_policy.next_delay_s(error, self._partial_file.have_bytes - before)
        except DownloadFailed as refused:
            # A node may still have what the Hub does not give us: somebody else's token, for one.
            self._hub_failure, pause_s = refused, self._timeouts.backoff_max_s
        self._source_selector.record_hub_failure(pause_s, f"waiting for the network: {error}")

    def _fetch_from_peer(self, choice: PeerChoice) -> None:
        """One connection to another node."""
        before, source, copying = self._partial_file.have_bytes, choice.source, self._peer_context
        assert copying is not None  # noqa: S101  # it named the source
        failure = PeerCopyFailed(f"the connection to node {source.node_name} ended early", is_behind=True)
        try:
            self._fetch_once(
                lambda: open_peer_body(
                    copying, source, self.spec, before, self._timeouts, may_wait=choice.may_wait
                ),
                source,
            )
        except PeerCopyFailed as caught:
            failure = caught
        self._raise_if_cancelled()
        self._source_selector.record_peer_end(source, self._partial_file.have_bytes - before, failure)

    def _fetch_once(self, open_body: Callable[[], hub_fetch.DownloadBody], source: PeerSource | None) -> bool:
        """One connection: append what it brings; True if it was left to look for a better one."""
        body = self._connect(open_body)
        try:
            self._raise_if_cancelled()
            return self._receive_body(body, source)
        finally:
            with self._lock:
                self._body = None
            body.close()

    def _connect(self, open_body: Callable[[], hub_fetch.DownloadBody]) -> hub_fetch.DownloadBody:
        self.attempts += 1
        with self._lock:
            self._raise_if_cancelled()
            self._is_connecting = True
        body = None
        try:
            body = open_body()
            return body
        finally:
            with self._lock:
                self._is_connecting = False
                self._body = body

    def _receive_body(self, body: hub_fetch.DownloadBody, source: PeerSource | None) -> bool:
        partial, timing = self._partial_file, self._timeouts
        position = body.start
        began = window_at = time.monotonic()
        window_bytes = 0
        synced_at = window_at
        for piece in body.iter_chunks():
            self._raise_if_cancelled()
            now = time.monotonic()
            self._transfer_rate.record_bytes(len(piece), now)
            position += len(piece)
            # A server that ignored the range sends again what we have: skip it rather than lose it.
            fresh = min(position, self.spec.size_bytes) - partial.have_bytes
            if fresh > 0:
                self._record_sender(body, source)
                partial.append(piece[len(piece) - (position - partial.have_bytes) :][:fresh])
                self.downloaded_bytes = partial.have_bytes
                self.waiting_reason = None
            if partial.is_complete:
                return False
            window_bytes += len(piece)
            if now - window_at >= timing.slow_window_s:
                if window_bytes < timing.min_bytes_per_s * (now - window_at):
                    raise _slow_source_error(source)
                window_at, window_bytes = now, 0
            unsynced = partial.have_bytes - partial.synced_bytes
            if unsynced >= timing.sync_interval_bytes or (
                unsynced and now - synced_at >= timing.sync_interval_s
            ):
                partial.sync_in_background()
                synced_at = now
            if source is None:
                # Waiting for our own limit is not the server's slowness. It is one for the line to the internet.
                window_at += self._bandwidth_limiter.acquire(len(piece), self._cancelled)
            if now - began >= timing.first_peer_recheck_s and not self._source_selector.is_preferred_source(
                source
            ):
                return True
        return False

    def _record_sender(self, body: hub_fetch.DownloadBody, source: PeerSource | None) -> None:
        self._source_selector.record_chunk(source, verified=body.is_verified)
        if body.sender != self._current_sender:
            self._current_sender = body.sender
            log.info(
                "%s comes from %s, from byte %d on",
                self.spec.name,
                body.sender,
                self._partial_file.have_bytes,
            )


def _slow_source_error(source: PeerSource | None) -> Exception:
    if source is None:
        return HubUnreachable("the server had become very slow")
    return PeerCopyFailed(f"node {source.node_name} had become very slow")
