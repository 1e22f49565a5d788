"""The download of one file: a thread and one connection, resumed at the byte it had, verified, cancelled at once."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llb import portable
from llb.errors import InsufficientStorage, gigabytes
from llb.hub import Hub, HubBadAnswer, HubError, HubGated, HubNotFound, HubUnreachable
from llb.node import fetch
from llb.node.files import partial_name, safe_name, sha256_of
from llb.node.partial import Partial
from llb.node.rates import RateLimiter, Speed
from llb.wire import FileSpec

__all__ = ["Download", "DownloadCancelled", "DownloadFailed", "Phase", "RateLimiter", "Timing"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How patient a download is."""

    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 20.0
    slow_window_s: float = 60.0
    slow_bytes_per_s: int = 2048
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    steady_bytes: int = 1 << 20  # gained in one attempt, they end the back-off
    misbehaved_limit: int = 3  # tries again after an answer that makes no sense
    sync_every_bytes: int = 64 << 20
    sync_every_s: float = 5.0


class Phase(StrEnum):
    """What a download does; it only ever moves forward."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"


class DownloadFailed(Exception):
    """A download ended for a reason that waiting will not mend; the message is for people and names no path."""

    retriable = False

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class DownloadCancelled(Exception):
    """`cancel()` ended the download; what had arrived is kept."""


class Download:
    """Fetches `spec` into `directory`. Counters may be read at any time; the thread never waits for the loop.

    `reserve_bytes` of the disk are left free (add what other downloads still need). `make_room` is called in the
    thread with the free bytes wanted before a full disk ends the download.
    """

    def __init__(
        self,
        spec: FileSpec,
        directory: Path,
        *,
        hub: Hub,
        limiter: RateLimiter,
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
        self._hub = hub
        self._limiter = limiter
        self._reserve_bytes = reserve_bytes
        self._make_room = make_room
        self._timing = timing or Timing()
        self._speed = Speed()
        self._partial = Partial(directory / partial_name(spec), spec.size_bytes)
        self._cancelled = threading.Event()
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
            body, connecting = self._body, self._connecting
        if body is not None:
            body.shut()
        if connecting:
            # Nothing can interrupt a connect, but the thread will touch no file after it: nobody needs to wait.
            self._finish(DownloadCancelled())

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
            with self._disk_errors_in_words():
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
            attempts = self.attempts
            self._fill()
            if self._partial.sha256 == self.spec.sha256:
                break
            log.warning("%s: wrong sha256 %s", self.spec.name, self._partial.sha256)
            self._partial.discard()
            self.downloaded_bytes = 0
            damaged += self.attempts > attempts  # bytes that only lay on disk say nothing of the source
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
            if self.path.stat().st_size != self.spec.size_bytes:
                return False
        except FileNotFoundError:
            return False
        self.waiting = "checking the file on disk"
        sha256 = sha256_of(self.path, self._cancelled, self._set_downloaded)
        self._check()
        self.waiting = None
        if sha256 == self.spec.sha256:
            self.phase = Phase.VERIFYING
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

    def _fill(self) -> None:
        """Fetch until the partial is complete, for as long as the network is away."""
        failures = misbehaved = 0
        ranged = True
        while (before := self._partial.have_bytes) < self.spec.size_bytes:
            self._check()
            self._preflight()
            error: HubError
            try:
                self._attempt(ranged=ranged)
                error = HubUnreachable("the connection ended early")
            except HubError as caught:
                error = caught
            self._check()  # a socket that cancel() shut down looks like a network that failed
            gained = self._partial.have_bytes - before
            if before + gained == self.spec.size_bytes:
                return
            if gained >= self._timing.steady_bytes:
                failures = misbehaved = 0
            ranged = ranged and not isinstance(error, fetch.RangeRefused)
            misbehaved += isinstance(error, HubBadAnswer)
            if misbehaved > self._timing.misbehaved_limit or not isinstance(
                error, (HubUnreachable, HubBadAnswer)
            ):
                raise _failure(self.spec.name, error)
            self._back_off(error, failures)
            failures += 1

    def _preflight(self) -> None:
        remaining = self.spec.size_bytes - self._partial.have_bytes
        directory = self.path.parent
        if self._make_room and portable.free_disk_bytes(directory) < remaining + self._reserve_bytes:
            self._make_room(remaining + self._reserve_bytes)
        available = max(0, portable.free_disk_bytes(directory) - self._reserve_bytes)
        if available < remaining:
            short = InsufficientStorage(remaining, available)
            raise DownloadFailed(short.message, short.code)

    def _attempt(self, *, ranged: bool) -> None:
        """One connection: append what it brings; raises `FetchError`."""
        body = self._connect(self._partial.have_bytes if ranged else None)
        try:
            self._check()
            self._receive(body)
        finally:
            with self._lock:
                self._body = None
            body.close()

    def _connect(self, start: int | None) -> fetch.Body:
        source = self.spec.sources[self.attempts % len(self.spec.sources)]
        self.attempts += 1
        with self._lock:
            self._check()
            self._connecting = True
        body = None
        try:
            body = fetch.open_body(
                self._hub,
                source,
                self.spec,
                start=start,
                connect_timeout_s=self._timing.connect_timeout_s,
                silence_timeout_s=self._timing.silence_timeout_s,
            )
            return body
        finally:
            with self._lock:
                self._connecting = False
                self._body = body

    def _receive(self, body: fetch.Body) -> None:
        partial, timing = self._partial, self._timing
        position = body.start
        window_at, window_bytes = time.monotonic(), 0
        synced_at = window_at
        for piece in body.pieces():
            self._check()
            now = time.monotonic()
            self._speed.add(len(piece), now)
            position += len(piece)
            # A server that ignored the range sends again what we have: skip it rather than lose it.
            fresh = min(position, self.spec.size_bytes) - partial.have_bytes
            if fresh > 0:
                partial.append(piece[len(piece) - (position - partial.have_bytes) :][:fresh])
                self.downloaded_bytes = partial.have_bytes
                self.waiting = None
            if partial.complete:
                return
            window_bytes += len(piece)
            if now - window_at >= timing.slow_window_s:
                if window_bytes < timing.slow_bytes_per_s * (now - window_at):
                    raise HubUnreachable("the server had become very slow")
                window_at, window_bytes = now, 0
            unsynced = partial.have_bytes - partial.synced_bytes
            if unsynced >= timing.sync_every_bytes or (unsynced and now - synced_at >= timing.sync_every_s):
                partial.sync_beside()
                synced_at = now
            # Waiting for our own limit is not the server's slowness.
            window_at += self._limiter.acquire(len(piece), self._cancelled)

    def _back_off(self, error: HubError, failures: int) -> None:
        timing = self._timing
        delay_s = min(timing.backoff_max_s, timing.backoff_first_s * 2 ** min(failures, 30))
        delay_s *= random.uniform(0.5, 1.0)  # noqa: S311  # so that a thousand nodes do not return at once
        if isinstance(error, HubUnreachable) and error.retry_after_s is not None:
            delay_s = min(timing.backoff_max_s, max(delay_s, error.retry_after_s))
        self.retry_at = time.time() + delay_s
        self.waiting = f"waiting for the network: {error}"
        self._cancelled.wait(delay_s)
        self.retry_at = None

    @contextmanager
    def _disk_errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            words, code = _DISK_ERRORS.get(
                error.errno or 0,
                (f"The file could not be written: {error.strerror or 'unknown error'}", "disk_error"),
            )
            raise DownloadFailed(words, code) from error


def _failure(name: str, error: HubError) -> DownloadFailed:
    match error:
        case fetch.NotGguf():
            return DownloadFailed(f"{name} is not a GGUF file: {error}", "not_gguf")
        case HubNotFound():
            return DownloadFailed(str(error), "not_found")
        case HubGated():
            return DownloadFailed(str(error), "gated")
        case HubBadAnswer():
            return DownloadFailed(f"{name} cannot be fetched: {error}", "bad_answer")
        case _:
            return DownloadFailed(str(error), "refused")


_DISK_ERRORS = {
    errno.ENOSPC: (
        "The disk is full; make room and try again, what has arrived is kept",
        "insufficient_storage",
    ),
    errno.EDQUOT: (
        "The disk quota is used up; make room and try again, what has arrived is kept",
        "insufficient_storage",
    ),
    errno.EROFS: ("The disk is read-only", "disk_error"),
    errno.EACCES: ("The models directory may not be written by the user llb runs as", "disk_error"),
    errno.EPERM: ("The models directory may not be written by the user llb runs as", "disk_error"),
    errno.EIO: ("The disk reports an input/output error; it may be failing", "disk_error"),
    errno.ENOENT: ("The file vanished from the models directory while it was downloaded", "disk_error"),
    errno.ELOOP: ("There is a symbolic link where the download belongs; remove it", "disk_error"),
}
