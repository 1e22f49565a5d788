"""Parallel fetch: the rest of a file over several connections to the Hub.

Each connection writes segments, and the thread of the download moves the next bytes into the partial file.
The file grows from its start, is hashed while it arrives, and is copied by other nodes as with one
connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llb.hub import HubError, HubUnreachable
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.hub_fetch import RangeNotSupported
from llb.node.download.parallel.connection_policy import ConnectionPolicy
from llb.node.download.parallel.range_connection import OpenBody, RangeConnection
from llb.node.download.parallel.range_source import RangeSource
from llb.node.download.parallel.segments import Segment, SegmentStore
from llb.node.download.partial_file import PartialFile
from llb.node.download.timeouts import DownloadTimeouts

# Time that one range takes: long compared with a round trip, short compared with the download. In a trial it
# is short, because the trial may show that one connection is enough.
RANGE_S = 6.0
TRIAL_RANGE_S = 4.0
MAX_RANGE_BYTES = 64 << 20
# How far the last range may be ahead of the partial file, in ranges.
WINDOW_RANGES = 16
# Least time that half of a range takes, for which another connection is worth a request.
HALF_S = 0.5
POLL_INTERVAL_S = 0.05
# Bytes that are moved between two checks of the connections.
MOVE_BYTES = 8 << 20


class ParallelFetch:
    """One use of several connections; it ends when one is enough, when all have failed, or by `abort()`."""

    def __init__(
        self,
        partial: PartialFile,
        segments: SegmentStore,
        policy: ConnectionPolicy,
        source: RangeSource,
        limiter: BandwidthLimiter,
        timeouts: DownloadTimeouts,
        on_progress: Callable[[int], bool],
    ) -> None:
        """`on_progress` gets the number of bytes that arrived since its last call; False ends the fetch."""
        self._partial = partial
        self._segments = segments
        self._policy = policy
        self._source = source
        self._limiter = limiter
        self._timeouts = timeouts
        self._on_progress = on_progress
        self._changed = threading.Event()
        # Replaced as a whole, because `abort()` reads it in another thread.
        self._connections: tuple[RangeConnection, ...] = ()
        self._is_aborted = False
        # Guards the last two attributes.
        self._lock = threading.Lock()
        # Bytes of connections that have ended, and bytes of all that were reported.
        self._ended_bytes = self._reported_bytes = 0
        self._last_error: HubError | None = None

    def abort(self) -> None:
        """Interrupt every transfer in another thread; never blocks."""
        with self._lock:
            self._is_aborted = True
            connections = self._connections
        for connection in connections:
            connection.abort()
        self._changed.set()

    def run(self, first: OpenBody) -> None:
        """Fetch until the partial file is complete or several connections are of no use.

        `first` is the open connection, whose chunks continue the partial file. Raises `HubError`, OSError.
        """
        # Another thread receives the next chunks, in the buffer of the last one too.
        self._partial.finish_chunk()
        try:
            if (segment := self._next_segment()) is not None:
                self._open(segment, first if segment.start == self._partial.have_bytes else None)
            while not self._partial.is_complete:
                is_moving = self._move_bytes()
                if not self._on_progress(self._take_new_bytes()):
                    return
                self._remove_ended()
                self._assign_ranges()
                if not self._connections and not is_moving:
                    if self._last_error is not None:
                        raise self._last_error
                    return
                if not is_moving:
                    self._changed.wait(POLL_INTERVAL_S)
                self._changed.clear()
        finally:
            for connection in self._connections:
                connection.stop()
            self._segments.drop_empty()

    def _move_bytes(self) -> bool:
        """Move the next bytes into the partial file; returns whether there may be more."""
        moved_bytes = 0
        for size_bytes in self._segments.move_to(self._partial):
            moved_bytes += size_bytes
            if moved_bytes >= MOVE_BYTES:
                return True
        return False

    def _take_new_bytes(self) -> int:
        total_bytes = self._ended_bytes + sum(each.received_bytes for each in self._connections)
        new_bytes, self._reported_bytes = total_bytes - self._reported_bytes, total_bytes
        return new_bytes

    def _remove_ended(self) -> None:
        for connection in [each for each in self._connections if each.has_ended]:
            self._forget(connection)
            error = connection.error
            if error is None:
                continue
            if not isinstance(error, HubError):
                raise error
            if isinstance(error, RangeNotSupported):
                # The bytes of one connection are as good as before.
                self._policy.use_single_connection()
                continue
            self._last_error = error
            retry_after_s = error.retry_after_s if isinstance(error, HubUnreachable) else None
            self._policy.record_failure(len(self._connections), retry_after_s, time.monotonic())
        self._segments.drop_empty()

    def _forget(self, connection: RangeConnection) -> None:
        with self._lock:
            self._connections = tuple(each for each in self._connections if each is not connection)
        self._ended_bytes += connection.received_bytes

    def _assign_ranges(self) -> None:
        """Give idle connections another range, open further ones, and end superfluous ones."""
        for connection in [each for each in self._connections if each.is_idle]:
            self._last_error = None
            is_wanted = 1 < self._policy.connections >= len(self._connections)
            if is_wanted and (segment := self._next_segment()) is not None:
                connection.fetch(segment)
            else:
                self._forget(connection)
                connection.end()
        while (
            self._connections
            and len(self._connections) < self._policy.connections
            and (segment := self._next_segment()) is not None
        ):
            self._open(segment)

    def _open(self, segment: Segment, first: OpenBody | None = None) -> None:
        connection = RangeConnection(
            self._source.open_range, self._limiter, self._timeouts, self._changed.set
        )
        with self._lock:
            self._connections = (*self._connections, connection)
            if self._is_aborted:
                connection.abort()
        connection.fetch(segment, first)
        connection.start()

    def _next_segment(self) -> Segment | None:
        rate = self._policy.bytes_per_second / max(1, self._policy.connections)
        least_bytes = self._timeouts.min_range_bytes
        range_s = TRIAL_RANGE_S if self._policy.is_trying else RANGE_S
        range_bytes = min(max(least_bytes, int(rate * range_s)), MAX_RANGE_BYTES)
        return self._segments.add_next(
            self._partial.have_bytes, range_bytes, WINDOW_RANGES * range_bytes
        ) or self._segments.add_half(max(least_bytes, int(rate * HALF_S)))
