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

from llb import portable
from llb.errors import InsufficientStorage, gigabytes
from llb.hub import Hub, HubError, HubUnreachable
from llb.node import fetch
from llb.node.failures import DownloadCancelled, DownloadFailed, disk_errors_in_words
from llb.node.files import fingerprint_of, partial_name, safe_name, sha256_of
from llb.node.partial import Partial
from llb.node.patience import HubPatience
from llb.node.peers import CopyFailed, Copying, open_copy
from llb.node.rates import RateLimiter, Speed
from llb.node.shared import SharedFile
from llb.node.timing import Timing
from llb.node.turns import Ask, Turns, Wait
from llb.wire import CopySource, FileSpec

__all__ = ["Copying", "Download", "DownloadCancelled", "DownloadFailed", "Phase", "RateLimiter", "Timing"]

log = logging.getLogger(__name__)


class Phase(StrEnum):
    """What a download does; it only ever moves forward."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"


class Download:
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
        hub: Hub,
        limiter: RateLimiter,
        copying: Copying | None = None,
        reserve_bytes: int = 0,
        make_room: Callable[[int], object] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.spec = spec
        self.path = directory / safe_name(spec.name)
        self.phase = Phase.DOWNLOADING
        self.downloaded_bytes = 0
        self.waiting: str | None = None  # why nothing arrives just now
        self.retry_at: float | None = None  # Unix time of the next attempt, while one is waited for
        self.attempts = 0  # connections tried
        self.blamed: tuple[str, ...] = ()  # nodes that have sent wrong bytes
        self._hub = hub
        self._limiter = limiter
        self._reserve_bytes = reserve_bytes
        self._make_room = make_room
        self._timing = timing or Timing()
        self._copying = copying
        self._turns = Turns(copying.sources if copying is not None else lambda: (), self._timing)
        self._patience = HubPatience(spec.name, self._timing)
        self._hub_attempts = 0
        self._refused: DownloadFailed | None = None  # what the Hub said for good
        self._sender = ""  # who sent the last piece, in words
        self._speed = Speed()
        self._partial = Partial(directory / partial_name(spec), spec.size_bytes)
        self._cancelled = threading.Event()
        self._woken = threading.Event()  # ends a wait for somebody's turn
        self._lock = threading.Lock()  # guards the next two; never held across I/O
        self._body: fetch.Body | None = None
        self._connecting = False
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    # --- from the event loop -------------------------------------------------------------------------

    @property
    def bytes_per_second(self) -> float:
        """Smoothed over a few seconds."""
        return self._speed.read(time.monotonic())

    @property
    def synced_bytes(self) -> int:
        """Bytes that survive a power cut."""
        return self._partial.synced_bytes

    @property
    def shared(self) -> SharedFile:
        """What has arrived, for others to read."""
        return self._partial.shared

    def start(self) -> None:
        """Begin, in a thread. Call once, in the event loop that will `wait()`."""
        if self._thread is not None:
            raise RuntimeError("a download starts once")
        self._done = asyncio.get_running_loop().create_future()
        # A daemon: a thread inside a name look-up cannot be interrupted and must not hold up the exit.
        self._thread = threading.Thread(target=self._run, name=f"download {self.spec.name}", daemon=True)
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
            self._woken.set()
            body, connecting = self._body, self._connecting
        if body is not None:
            body.shut()
        if connecting:
            # Nothing can interrupt a connect, but the thread will touch no file after it: nobody needs to wait.
            self.shared.end()
            self._finish(DownloadCancelled())

    def look_again(self) -> None:
        """There are other nodes to copy from than before. What arrives goes on; who waits looks at once."""
        self._woken.set()

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

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            with disk_errors_in_words():
                self._work()
        except (DownloadFailed, DownloadCancelled) as error:
            failure = error
        except Exception:
            log.exception("the download of %s crashed", self.spec.name)
            failure = DownloadFailed(
                "The download failed for a reason that llb does not know; see its log", "internal_error"
            )
        finally:
            self._partial.close()
            self.shared.end()
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

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise DownloadCancelled

    def _work(self) -> None:
        self._check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._already_there():
            self._partial.path.unlink(missing_ok=True)
            return
        self._partial.open()
        self._resume()
        damaged = 0
        while True:
            self._fill()
            if self._partial.sha256 == self.spec.sha256:
                break
            verdict = self._turns.condemn()
            log.warning("%s: wrong sha256 %s", self.spec.name, self._partial.sha256)
            self.blamed += verdict.blamed
            self._partial.discard()
            self.downloaded_bytes = 0
            damaged += verdict.hub_alone
            if damaged == 2:
                raise DownloadFailed(
                    f"The sha256 of {self.spec.name} is wrong, twice in a row: the source is damaged",
                    "sha256_mismatch",
                )
        self.phase = Phase.VERIFYING
        self._check()
        self._partial.become(self.path)

    def _already_there(self) -> bool:
        """Whether the finished file is on disk, complete and right."""
        try:
            mark = fingerprint_of(self.path.stat())
        except FileNotFoundError:
            return False
        if mark.size_bytes != self.spec.size_bytes:
            return False
        self.waiting = "checking the file on disk"
        sha256 = sha256_of(self.path, self._cancelled, self._set_downloaded)
        self._check()
        self.waiting = None
        if sha256 == self.spec.sha256:
            self.phase = Phase.VERIFYING
            self.shared.settle(self.path, mark)
            return True
        self.downloaded_bytes = 0
        return False

    def _set_downloaded(self, size_bytes: int) -> None:
        self.downloaded_bytes = size_bytes

    def _resume(self) -> None:
        """Trust what is on disk only after reading it."""
        have_bytes = self.downloaded_bytes = self._partial.have_bytes
        for done in self._partial.rehash():
            self._check()
            self.waiting = f"checking the {gigabytes(have_bytes)} on disk: {100 * done // have_bytes} %"
        self.waiting = None
        self.downloaded_bytes = self._partial.have_bytes
        if self.downloaded_bytes:
            self._turns.found_on_disk()

    def _fill(self) -> None:
        """Fetch until the partial is complete, for as long as the network is away."""
        while not self._partial.complete:
            self._check()
            self._preflight()
            if self._refused is not None and not self._turns.copies:
                raise self._refused
            turn = self._turns.next()
            if isinstance(turn, Wait):
                self._wait(turn)
            elif turn is None:
                self._ask_hub()
            else:
                self._ask_node(turn)

    def _wait(self, turn: Wait) -> None:
        self.waiting = turn.reason
        self.retry_at = time.time() + turn.seconds
        self._woken.wait(turn.seconds)
        self._woken.clear()
        self.retry_at = None

    def _preflight(self) -> None:
        remaining = self.spec.size_bytes - self._partial.have_bytes
        directory = self.path.parent
        if self._make_room and portable.free_disk_bytes(directory) < remaining + self._reserve_bytes:
            self._make_room(remaining + self._reserve_bytes)
        available = max(0, portable.free_disk_bytes(directory) - self._reserve_bytes)
        if available < remaining:
            short = InsufficientStorage(remaining, available)
            raise DownloadFailed(short.message, short.code)

    def _ask_hub(self) -> None:
        """One connection to the Hub."""
        before = self._partial.have_bytes
        start = before if self._patience.ranged else None
        source = self.spec.sources[self._hub_attempts % len(self.spec.sources)]
        self._hub_attempts += 1
        self._refused = None
        error: HubError = HubUnreachable("the connection ended early")
        try:
            if self._attempt(
                lambda: fetch.open_body(self._hub, source, self.spec, start, self._timing), None
            ):
                return
        except HubError as caught:
            error = caught
        self._check()  # a socket that cancel() shut down looks like a network that failed
        if self._partial.complete:
            return
        try:
            pause_s = self._patience.after(error, self._partial.have_bytes - before)
        except DownloadFailed as refused:
            # A node may still have what the Hub does not give us: somebody else's token, for one.
            self._refused, pause_s = refused, self._timing.backoff_max_s
        self._turns.hub_failed(pause_s, f"waiting for the network: {error}")

    def _ask_node(self, ask: Ask) -> None:
        """One connection to another node."""
        before, source, copying = self._partial.have_bytes, ask.source, self._copying
        assert copying is not None  # noqa: S101  # it named the source
        failure = CopyFailed(f"the connection to node {source.node_name} ended early", is_behind=True)
        try:
            self._attempt(
                lambda: open_copy(copying, source, self.spec, before, self._timing, patient=ask.patient),
                source,
            )
        except CopyFailed as caught:
            failure = caught
        self._check()
        self._turns.node_ended(source, self._partial.have_bytes - before, failure)

    def _attempt(self, connect: Callable[[], fetch.Body], source: CopySource | None) -> bool:
        """One connection: append what it brings; True if it was left to look for a better one."""
        body = self._connect(connect)
        try:
            self._check()
            return self._receive(body, source)
        finally:
            with self._lock:
                self._body = None
            body.close()

    def _connect(self, connect: Callable[[], fetch.Body]) -> fetch.Body:
        self.attempts += 1
        with self._lock:
            self._check()
            self._connecting = True
        body = None
        try:
            body = connect()
            return body
        finally:
            with self._lock:
                self._connecting = False
                self._body = body

    def _receive(self, body: fetch.Body, source: CopySource | None) -> bool:
        partial, timing = self._partial, self._timing
        position = body.start
        began = window_at = time.monotonic()
        window_bytes = 0
        synced_at = window_at
        for piece in body.pieces():
            self._check()
            now = time.monotonic()
            self._speed.add(len(piece), now)
            position += len(piece)
            # A server that ignored the range sends again what we have: skip it rather than lose it.
            fresh = min(position, self.spec.size_bytes) - partial.have_bytes
            if fresh > 0:
                self._note(body, source)
                partial.append(piece[len(piece) - (position - partial.have_bytes) :][:fresh])
                self.downloaded_bytes = partial.have_bytes
                self.waiting = None
            if partial.complete:
                return False
            window_bytes += len(piece)
            if now - window_at >= timing.slow_window_s:
                if window_bytes < timing.slow_bytes_per_s * (now - window_at):
                    raise _slow(source)
                window_at, window_bytes = now, 0
            unsynced = partial.have_bytes - partial.synced_bytes
            if unsynced >= timing.sync_every_bytes or (unsynced and now - synced_at >= timing.sync_every_s):
                partial.sync_beside()
                synced_at = now
            if source is None:
                # Waiting for our own limit is not the server's slowness. It is one for the line to the internet.
                window_at += self._limiter.acquire(len(piece), self._cancelled)
            if now - began >= timing.copy_look_s and not self._turns.is_first(source):
                return True
        return False

    def _note(self, body: fetch.Body, source: CopySource | None) -> None:
        self._turns.gave(source, verified=body.verified)
        if body.who != self._sender:
            self._sender = body.who
            log.info("%s comes from %s, from byte %d on", self.spec.name, body.who, self._partial.have_bytes)


def _slow(source: CopySource | None) -> Exception:
    if source is None:
        return HubUnreachable("the server had become very slow")
    return CopyFailed(f"node {source.node_name} had become very slow")
