"""Range connection: a thread that fetches ranges from the Hub into segments, one after the other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from llb.hub import HubUnreachable
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.hub_fetch import DownloadBody
from llb.node.download.parallel.segments import Segment
from llb.node.download.timeouts import DownloadTimeouts
from llb.texts.coded_text import CodedText

# A body, and the rest of its chunks.
OpenBody = tuple[DownloadBody, Iterator[bytes | memoryview]]


class RangeConnection:
    """Connection of a parallel fetch, whose thread gives it segments to fill and ends it.

    `on_changed` is called in this connection's thread when it is idle or has ended.
    """

    def __init__(
        self,
        open_range: Callable[[int, int], DownloadBody],
        limiter: BandwidthLimiter,
        timeouts: DownloadTimeouts,
        on_changed: Callable[[], None],
    ) -> None:
        self.received_bytes = 0
        self.is_idle = False
        self.has_ended = False
        # Error that ended the connection, if any.
        self.error: Exception | None = None
        self._open_range = open_range
        self._limiter = limiter
        self._timeouts = timeouts
        self._on_changed = on_changed
        self._orders: queue.SimpleQueue[tuple[Segment, OpenBody | None] | None] = queue.SimpleQueue()
        # The segment that was ordered last.
        self._segment: Segment | None = None
        self._stopped = threading.Event()
        # Guards the next two attributes; never held across I/O.
        self._lock = threading.Lock()
        self._body: DownloadBody | None = None
        self._is_connecting = False
        # A daemon: a thread inside a name resolution cannot be interrupted and must not delay the exit.
        self._thread = threading.Thread(target=self._run, name="range", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def fetch(self, segment: Segment, first: OpenBody | None = None) -> None:
        """Fill a segment, with a request of its own unless `first` continues it."""
        self.is_idle = False
        self._segment = segment
        self._orders.put((segment, first))

    def end(self) -> None:
        """End the thread after the present segment."""
        self._orders.put(None)

    def abort(self) -> None:
        """Interrupt the transfer in another thread; never blocks."""
        self._stopped.set()
        with self._lock:
            body = self._body
        if body is not None:
            body.abort()

    def stop(self) -> None:
        """End the thread at once. One that connects touches no file afterwards and is not waited for."""
        self.abort()
        self.end()
        with self._lock:
            is_connecting = self._is_connecting
        if not is_connecting:
            self._thread.join()
        if self._segment is not None:
            self._segment.finish()

    # --- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (order := self._orders.get()) is not None and not self._stopped.is_set():
                self._fill(*order)
                self.is_idle = True
                self._on_changed()
        except Exception as error:
            # Kept for the thread of the download, which raises it.
            self.error = error
        finally:
            self.has_ended = True
            self._on_changed()

    def _fill(self, segment: Segment, first: OpenBody | None) -> None:
        try:
            body = self._connect(segment.start, segment.limit) if first is None else self._use(first[0])
            if body is None:
                return
            try:
                self._receive(segment, body.iter_chunks() if first is None else first[1], body.end)
            finally:
                with self._lock:
                    self._body = None
                body.close()
        finally:
            segment.finish()

    def _use(self, body: DownloadBody) -> DownloadBody | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            self._body = body
        return body

    def _connect(self, start: int, end: int) -> DownloadBody | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            self._is_connecting = True
        body = None
        try:
            body = self._open_range(start, end)
        finally:
            with self._lock:
                self._is_connecting = False
                is_stopped = self._stopped.is_set()
                self._body = None if is_stopped else body
            if is_stopped and body is not None:
                body.close()
        return None if is_stopped else body

    def _receive(self, segment: Segment, chunks: Iterator[bytes | memoryview], range_end: int | None) -> None:
        timeouts = self._timeouts
        window_started_at, window_bytes, position = time.monotonic(), 0, segment.start
        for chunk in chunks:
            if self._stopped.is_set():
                return
            segment.append(chunk)
            position += len(chunk)
            window_bytes += len(chunk)
            self.received_bytes += len(chunk)
            if segment.is_full and position != range_end:
                # The rest of the body is not wanted any more, or was never.
                return
            now = time.monotonic()
            if now - window_started_at >= timeouts.slow_window_s:
                if window_bytes < timeouts.min_bytes_per_s * (now - window_started_at):
                    raise HubUnreachable(CodedText("hub_slow", "the server became very slow"))
                window_started_at, window_bytes = now, 0
            # Waiting for the limit does not count as a slow server.
            window_started_at += self._limiter.acquire(len(chunk), self._stopped)
        if not segment.is_full and not self._stopped.is_set():
            raise HubUnreachable(CodedText("connection_ended", "the connection ended early"))
