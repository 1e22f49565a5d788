"""Download of one file in a thread: resumable, verified, and cancelled at once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from llb.base import platform_compat
from llb.errors import InsufficientStorage, format_gigabytes
from llb.hub import HubClient, HubError, HubUnreachable
from llb.node.download import hub_fetch
from llb.node.download.bandwidth import BandwidthLimiter, TransferRate
from llb.node.download.download_errors import (
    UNEXPECTED_FAILURE,
    DownloadCancelled,
    DownloadFailed,
    translate_disk_errors,
)
from llb.node.download.parallel.connection_policy import ConnectionPolicy
from llb.node.download.parallel.parallel_fetch import ParallelFetch
from llb.node.download.parallel.range_source import RangeSource
from llb.node.download.parallel.segments import SegmentStore
from llb.node.download.partial_file import PartialFile
from llb.node.download.peer_fetch import PeerCopyFailed, PeerFetchContext, node_text, open_peer_body
from llb.node.download.retry_policy import HubRetryPolicy
from llb.node.download.source_selector import PeerChoice, SourceSelector, WaitChoice
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.download.verification import DownloadVerifier
from llb.node.files import partial_file_name, validate_file_name
from llb.node.sharing.growing_file import GrowingFile
from llb.texts.coded_text import CodedText
from llb.wire import FileSpec, HubSource, PeerSource

log = logging.getLogger(__name__)

# A download ends when other programs have left less of the disk than this.
MIN_FREE_BYTES = 200_000_000
# Further connections are of no use to a download that has this much of the limit on its rate.
LIMITED_SHARE = 0.8
# Nor for a file that is complete after this time.
MIN_PARALLEL_S = 4.0


class FileDownload:
    """Download of `spec` into `directory`, from the nodes that `peer_context` names, else from the Hub.

    Counters may be read at any time; the thread never waits for the event loop. The download fails if it
    would leave less than `reserve_bytes` of the disk, which include the space for other downloads.
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
        timeouts: DownloadTimeouts | None = None,
    ) -> None:
        self.spec = spec
        self.path = directory / validate_file_name(spec.name)
        self.downloaded_bytes = 0
        # The reason why no bytes arrive at the moment.
        self.waiting_reason: str | None = None
        # Unix time of the next attempt, while the download waits for it.
        self.retry_at: float | None = None
        # Number of connections opened.
        self.attempts = 0
        # Ids of the nodes that have sent wrong bytes.
        self.bad_sources: tuple[str, ...] = ()
        self._hub = hub
        self._bandwidth_limiter = bandwidth_limiter
        self._reserve_bytes = reserve_bytes
        self._timeouts = timeouts or DownloadTimeouts()
        self._peer_context = peer_context
        self._source_selector = SourceSelector(
            peer_context.get_sources if peer_context is not None else lambda: (), self._timeouts
        )
        self._hub_retry_policy = HubRetryPolicy(spec.name, self._timeouts)
        self._hub_attempts = 0
        # The last error of the Hub that a retry does not repair.
        self._hub_failure: DownloadFailed | None = None
        # Name of the sender of the last chunk.
        self._current_sender = ""
        self._transfer_rate = TransferRate()
        self._verifier = DownloadVerifier(spec)
        self._partial_file = PartialFile(directory / partial_file_name(spec), spec.size_bytes)
        self._segments = SegmentStore(spec, directory)
        self._connection_policy = ConnectionPolicy(
            self._timeouts.max_connections, self._timeouts.connection_window_s
        )
        # Bytes that the Hub has sent to this download.
        self._hub_bytes = 0
        self._synced_at = 0.0
        self._cancelled = threading.Event()
        # Ends the wait for a source.
        self._wake_event = threading.Event()
        # Guards `attempts` and the next three attributes; never held across I/O.
        self._lock = threading.Lock()
        self._body: hub_fetch.DownloadBody | None = None
        self._parallel_fetch: ParallelFetch | None = None
        self._is_connecting = False
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    # --- from the event loop -------------------------------------------------------------------------

    @property
    def bytes_per_second(self) -> float:
        """The transfer rate, averaged over a few seconds."""
        return self._transfer_rate.bytes_per_second(time.monotonic())

    @property
    def synced_bytes(self) -> int:
        """Bytes that survive a power cut."""
        return self._partial_file.synced_bytes

    @property
    def growing_file(self) -> GrowingFile:
        """The downloaded bytes, for other nodes to read."""
        return self._partial_file.growing_file

    def start(self) -> None:
        """Start the thread. Call once, in the event loop of `wait()`."""
        if self._thread is not None:
            raise RuntimeError("the download has already been started")
        self._done = asyncio.get_running_loop().create_future()
        # A daemon: a thread inside a name resolution cannot be interrupted and must not delay the exit.
        self._thread = threading.Thread(
            target=self._run_thread, name=f"download {self.spec.name}", daemon=True
        )
        self._thread.start()

    async def wait(self) -> Path:
        """Return the finished file to any number of waiters. Raises `DownloadFailed`, `DownloadCancelled`."""
        if self._done is None:
            raise RuntimeError("the download has not been started")
        await asyncio.shield(self._done)
        if self._failure is not None:
            raise self._failure
        return self.path

    def cancel(self) -> None:
        """Cancel at once and keep the downloaded bytes; idempotent, never blocks."""
        with self._lock:
            self._cancelled.set()
            self._wake_event.set()
            body, is_connecting, parallel_fetch = self._body, self._is_connecting, self._parallel_fetch
        if body is not None:
            body.abort()
        if parallel_fetch is not None:
            parallel_fetch.abort()
        if is_connecting:
            # Nothing can interrupt a connect, but the thread touches no file after it, so it is left.
            self.growing_file.close()
            self._finish(DownloadCancelled())

    def on_sources_changed(self) -> None:
        """Let a waiting download use the new peer sources at once; a running transfer continues."""
        self._wake_event.set()

    async def stop(self) -> None:
        """Cancel, and wait until the thread no longer uses any file."""
        self.cancel()
        if self._done is not None:
            await asyncio.shield(self._done)

    # --- the thread ----------------------------------------------------------------------------------

    def _run_thread(self) -> None:
        failure: Exception | None = None
        try:
            with translate_disk_errors():
                self._download_file()
        except (DownloadFailed, DownloadCancelled) as error:
            failure = error
        except Exception:
            # A defect must end the wait for this thread, too.
            log.exception("the download of %s crashed", self.spec.name)
            failure = DownloadFailed(UNEXPECTED_FAILURE, "internal_error")
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

        # The event loop may have been closed, and then there is no waiter left.
        with suppress(RuntimeError):
            done.get_loop().call_soon_threadsafe(set_done)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise DownloadCancelled

    def _download_file(self) -> None:
        self._raise_if_cancelled()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._has_verified_file():
            self._partial_file.path.unlink(missing_ok=True)
            self._segments.discard_all()
            return
        self._partial_file.open()
        self._resume_partial()
        while True:
            self._fetch_until_complete()
            if self._verifier.accepts(self._partial_file.sha256):
                break
            cause = self._source_selector.handle_hash_mismatch()
            self.bad_sources += cause.bad_sources
            self._segments.discard_all()
            self._partial_file.discard()
            self.downloaded_bytes = 0
            if cause.is_hub_only:
                self._verifier.record_hub_mismatch()
        self._raise_if_cancelled()
        self._segments.discard_all()
        self._partial_file.commit_to(self.path)

    def _has_verified_file(self) -> bool:
        """Whether the finished file is already on disk with the right content."""
        stamp = self._verifier.find_verified_file(self.path, self._cancelled, self._on_hash_progress)
        self.waiting_reason = None
        if stamp is None:
            self.downloaded_bytes = 0
            return False
        self.growing_file.mark_complete(self.path, stamp)
        return True

    def _on_hash_progress(self, size_bytes: int) -> None:
        self.waiting_reason = CodedText("checking_file", "checking the file on disk")
        self.downloaded_bytes = size_bytes

    def _resume_partial(self) -> None:
        """Resume the partial file after hashing it: its bytes are not trusted unread."""
        have_bytes = self.downloaded_bytes = self._partial_file.have_bytes
        for hashed_bytes in self._partial_file.rehash():
            self._raise_if_cancelled()
            self.waiting_reason = CodedText(
                "checking_partial",
                "checking {size} on disk: {percent} %",
                size=format_gigabytes(have_bytes),
                percent=100 * hashed_bytes // have_bytes,
            )
        self.waiting_reason = None
        if self._partial_file.have_bytes:
            self._segments.find_existing()
            self._source_selector.record_disk_bytes()
        else:
            # The bytes before the segments are gone.
            self._segments.discard_all()
        self._update_downloaded_bytes()

    def _update_downloaded_bytes(self) -> None:
        have_bytes = self._partial_file.have_bytes
        self.downloaded_bytes = have_bytes + self._segments.count_bytes_after(have_bytes)

    def _use_segments(self) -> None:
        """Move the bytes that come next and are on disk already into the partial file."""
        for _ in self._segments.move_to(self._partial_file):
            self._raise_if_cancelled()

    def _fetch_until_complete(self) -> None:
        """Download until the partial file is complete, waiting for the network as long as necessary."""
        while True:
            self._raise_if_cancelled()
            self._use_segments()
            if self._partial_file.is_complete:
                return
            self._ensure_disk_space()
            if self._hub_failure is not None and not self._source_selector.usable_sources:
                raise self._hub_failure
            choice = self._source_selector.select_source()
            if isinstance(choice, WaitChoice):
                self._wait_for_source(choice)
            elif choice is None:
                self._fetch_from_hub()
            else:
                self._fetch_from_peer(choice)

    def _wait_for_source(self, choice: WaitChoice) -> None:
        self.waiting_reason = choice.reason
        self.retry_at = time.time() + choice.delay_s
        self._wake_event.wait(choice.delay_s)
        self._wake_event.clear()
        self.retry_at = None

    def _ensure_disk_space(self) -> None:
        have_bytes = self._partial_file.have_bytes
        remaining_bytes = self.spec.size_bytes - have_bytes - self._segments.count_bytes_after(have_bytes)
        free_bytes = platform_compat.free_disk_bytes(self.path.parent)
        available_bytes = max(0, free_bytes - self._reserve_bytes)
        if available_bytes < remaining_bytes:
            text = CodedText(
                "disk_too_small",
                "Insufficient disk space. Required: {required}, Available: {available}",
                required=format_gigabytes(remaining_bytes),
                available=format_gigabytes(available_bytes),
            )
            raise DownloadFailed(text, InsufficientStorage.code)

    def _leave_last_bytes(self) -> None:
        """Raise `DownloadFailed` on an almost full disk, which may be that of the database too."""
        free_bytes = platform_compat.free_disk_bytes(self.path.parent)
        if free_bytes < min(self._reserve_bytes, MIN_FREE_BYTES):
            text = CodedText(
                "disk_almost_full",
                "The disk is almost full; free some space and retry, the downloaded bytes are kept",
            )
            raise DownloadFailed(text, InsufficientStorage.code)

    def _fetch_from_hub(self) -> None:
        """Download over one connection to the Hub, or over several where that is quicker."""
        offset = self._partial_file.have_bytes
        start = offset if self._hub_retry_policy.can_use_ranges else None
        source = self.spec.sources[self._hub_attempts % len(self.spec.sources)]
        self._hub_attempts += 1
        self._hub_failure = None
        error: HubError = HubUnreachable(CodedText("connection_ended", "the connection ended early"))
        try:
            if self._fetch_once(
                lambda: hub_fetch.open_hub_body(self._hub, source, self.spec, start, self._timeouts),
                None,
                source,
            ):
                return
        except HubError as caught:
            error = caught
        # A socket that `cancel()` has shut down looks like a network failure.
        self._raise_if_cancelled()
        if self._partial_file.is_complete:
            return
        try:
            delay_s = self._hub_retry_policy.next_delay_s(error, self._partial_file.have_bytes - offset)
        except DownloadFailed as failure:
            # A node may have a file that the Hub denies to this one, for example with another token.
            self._hub_failure, delay_s = failure, self._timeouts.backoff_max_s
        reason = CodedText("waiting_for_network", "waiting for the network: {cause}", cause=error.message)
        self._source_selector.record_hub_failure(delay_s, reason)

    def _fetch_from_peer(self, choice: PeerChoice) -> None:
        """Download over one connection to another node."""
        offset, source, context = self._partial_file.have_bytes, choice.source, self._peer_context
        # The source comes from the context.
        assert context is not None  # noqa: S101
        failure = PeerCopyFailed(
            CodedText("peer_ended", "the connection to {who} ended early", who=node_text(source)),
            is_behind=True,
        )
        try:
            self._fetch_once(
                lambda: open_peer_body(
                    context, source, self.spec, offset, self._timeouts, may_wait=choice.may_wait
                ),
                source,
            )
        except PeerCopyFailed as caught:
            failure = caught
        self._raise_if_cancelled()
        self._source_selector.record_peer_end(source, self._partial_file.have_bytes - offset, failure)

    def _fetch_once(
        self,
        open_body: Callable[[], hub_fetch.DownloadBody],
        source: PeerSource | None,
        hub_source: HubSource | None = None,
    ) -> bool:
        """Append the bytes of one connection; True if it was left to look for a better source."""
        body = self._connect(open_body)
        try:
            self._raise_if_cancelled()
            return self._receive_body(body, source, hub_source)
        finally:
            with self._lock:
                self._body = None
            body.close()

    def _connect(self, open_body: Callable[[], hub_fetch.DownloadBody]) -> hub_fetch.DownloadBody:
        with self._lock:
            self.attempts += 1
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

    def _receive_body(
        self, body: hub_fetch.DownloadBody, source: PeerSource | None, hub_source: HubSource | None
    ) -> bool:
        partial, timeouts = self._partial_file, self._timeouts
        position = body.start
        started_at = window_started_at = self._synced_at = time.monotonic()
        window_bytes = 0
        self._connection_policy.restart_measurement()
        chunks = body.iter_chunks()
        for chunk in chunks:
            self._raise_if_cancelled()
            now = time.monotonic()
            self._transfer_rate.record_bytes(len(chunk), now)
            position += len(chunk)
            # A server that ignored the range sends bytes again that are already on disk: these are skipped.
            new_bytes = min(position, self.spec.size_bytes) - partial.have_bytes
            if new_bytes > 0:
                self._record_sender(body, source)
                partial.append(chunk[len(chunk) - (position - partial.have_bytes) :][:new_bytes])
                self._update_downloaded_bytes()
                self.waiting_reason = None
            if partial.is_complete:
                return False
            window_bytes += len(chunk)
            if now - window_started_at >= timeouts.slow_window_s:
                if window_bytes < timeouts.min_bytes_per_s * (now - window_started_at):
                    raise _slow_source_error(source)
                window_started_at, window_bytes = now, 0
            self._sync_if_due(now)
            if source is None:
                # The limit is for the internet connection; waiting for it does not count as a slow server.
                window_started_at += self._bandwidth_limiter.acquire(len(chunk), self._cancelled)
            if body.is_range and self._segments.is_reached_by(partial.have_bytes):
                # The next bytes are on disk, those after them are requested.
                return True
            if hub_source is not None and self._needs_more_connections(body, len(chunk), now):
                return self._fetch_in_parallel(body, chunks, hub_source)
            if self._is_better_source_due(source, started_at, now):
                return True
        return False

    def _sync_if_due(self, now: float) -> None:
        partial, timeouts = self._partial_file, self._timeouts
        unsynced_bytes = partial.have_bytes - partial.synced_bytes
        is_time = now - self._synced_at >= timeouts.sync_interval_s
        if is_time or unsynced_bytes >= timeouts.sync_interval_bytes:
            if unsynced_bytes:
                partial.sync_in_background()
            # Segments may fill the disk while the partial file does not grow.
            self._synced_at = now
            self._leave_last_bytes()

    def _is_better_source_due(self, source: PeerSource | None, started_at: float, now: float) -> bool:
        """Whether it is time to look for a better source than the present one, and there may be one."""
        is_recheck_due = now - started_at >= self._timeouts.first_peer_recheck_s
        return is_recheck_due and not self._source_selector.is_preferred_source(source)

    # --- several connections to the Hub ---------------------------------------------------------------

    def _needs_more_connections(self, body: hub_fetch.DownloadBody, size_bytes: int, now: float) -> bool:
        """Whether a connection to the Hub that has sent `size_bytes` more is held down, as measured."""
        self._hub_bytes += size_bytes
        self._connection_policy.record_total(
            self._hub_bytes, now, may_grow=bool(body.version) and self._is_worth_more_connections()
        )
        return bool(body.version) and self._connection_policy.connections > 1

    def _is_worth_more_connections(self) -> bool:
        rate, limit = self._connection_policy.bytes_per_second, self._bandwidth_limiter.bytes_per_s
        if limit is not None and rate >= LIMITED_SHARE * limit:
            return False
        return self.spec.size_bytes - self.downloaded_bytes >= max(
            self._timeouts.min_parallel_bytes, rate * MIN_PARALLEL_S
        )

    def _fetch_in_parallel(
        self, body: hub_fetch.DownloadBody, chunks: Iterator[bytes | memoryview], hub_source: HubSource
    ) -> bool:
        """Download over several connections; True if one is enough now, or a better source may be there."""
        started_at = time.monotonic()

        def open_range(start: int, end: int, address: str) -> hub_fetch.DownloadBody:
            with self._lock:
                self.attempts += 1
            return hub_fetch.open_hub_body(
                self._hub, hub_source, self.spec, start, self._timeouts, end=end, address=address
            )

        def on_progress(new_bytes: int) -> bool:
            self._raise_if_cancelled()
            now = time.monotonic()
            if new_bytes:
                self._hub_bytes += new_bytes
                self._transfer_rate.record_bytes(new_bytes, now)
                self._source_selector.record_chunk(None, verified=False)
                self._update_downloaded_bytes()
                self.waiting_reason = None
            self._connection_policy.record_total(
                self._hub_bytes, now, may_grow=self._is_worth_more_connections()
            )
            self._sync_if_due(now)
            return not self._is_better_source_due(None, started_at, now)

        fetch = ParallelFetch(
            self._partial_file,
            self._segments,
            self._connection_policy,
            RangeSource(body, open_range),
            self._bandwidth_limiter,
            self._timeouts,
            on_progress,
        )
        with self._lock:
            self._raise_if_cancelled()
            self._parallel_fetch = fetch
        try:
            fetch.run((body, chunks))
        finally:
            with self._lock:
                self._parallel_fetch = None
            self._update_downloaded_bytes()
        return not self._partial_file.is_complete

    def _record_sender(self, body: hub_fetch.DownloadBody, source: PeerSource | None) -> None:
        self._source_selector.record_chunk(source, verified=body.is_verified)
        if body.sender != self._current_sender:
            self._current_sender = body.sender
            log.info(
                "downloading %s from %s, starting at byte %d",
                self.spec.name,
                body.sender,
                self._partial_file.have_bytes,
            )


def _slow_source_error(source: PeerSource | None) -> Exception:
    if source is None:
        return HubUnreachable(CodedText("hub_slow", "the server became very slow"))
    return PeerCopyFailed(CodedText("peer_slow", "{who} became very slow", who=node_text(source)))
