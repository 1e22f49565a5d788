"""Segments: bytes of a download that arrived before those in front of them, each in a file of its own.

A segment file is only appended to, and its name tells its offset, so that the position of every byte is known
even after a process was killed. The partial file stays the beginning of the file without a hole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llb.base import platform_compat
from llb.node.download.partial_file import PartialFile
from llb.node.files import segment_file_name, segment_start_of
from llb.wire import FileSpec

COPY_CHUNK_BYTES = 1 << 20


class Segment:
    """Bytes of a file from `start` to `end`, which is `limit` when all have arrived.

    One thread appends, another one reads and may lower `limit`. Methods raise OSError for disk errors.
    """

    def __init__(self, path: Path, start: int, limit: int, end: int | None = None) -> None:
        self.path = path
        self.start = start
        self.limit = limit
        self.end = start if end is None else end
        self.is_growing = end is None
        # Offset after the bytes that are on the disk or being written.
        self._claimed_end = self.end
        # Guards `limit` and `_claimed_end`.
        self._lock = threading.Lock()
        self._fd: int | None = None

    @property
    def is_full(self) -> bool:
        return self.end >= self.limit

    @property
    def occupied_until(self) -> int:
        """Offset after the bytes that need no other connection."""
        return self.limit if self.is_growing else self.end

    def append(self, chunk: bytes | memoryview) -> None:
        """Write the bytes of a chunk that are before the limit."""
        with self._lock:
            size_bytes = min(len(chunk), self.limit - self._claimed_end)
            self._claimed_end += max(0, size_bytes)
        if size_bytes <= 0:
            return
        if self._fd is None:
            self._fd = platform_compat.open_for_update(self.path)
        platform_compat.pwrite(self._fd, memoryview(chunk)[:size_bytes], self.end - self.start)
        self.end += size_bytes

    def finish(self) -> None:
        """Close the file, which stays on disk; nothing is appended any more. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.is_growing = False

    def cut_off_half(self, least_bytes: int) -> tuple[int, int] | None:
        """Lower the limit to the middle of the missing bytes; returns the range after it.

        None if the halves would have less than `least_bytes`.
        """
        with self._lock:
            missing_bytes = self.limit - self._claimed_end
            if missing_bytes < 2 * least_bytes:
                return None
            middle, limit = self.limit - missing_bytes // 2, self.limit
            self.limit = middle
        return middle, limit

    def copy_to(self, partial: PartialFile) -> Iterator[int]:
        """Append what the partial file lacks of the bytes so far, yielding the size of each chunk."""
        if not self.start <= partial.have_bytes < self.end:
            return
        buffers = [memoryview(bytearray(COPY_CHUNK_BYTES)) for _ in range(2)]
        with self.path.open("rb", buffering=0) as file:
            file.seek(partial.have_bytes - self.start)
            while partial.have_bytes < self.end:
                # `append` works with a chunk until it gets the next one.
                buffers.reverse()
                size = file.readinto(buffers[0][: self.end - partial.have_bytes])
                if not size:
                    # Another program has cut the file: the rest is fetched again.
                    self.end = partial.have_bytes
                    return
                partial.append(buffers[0][:size])
                yield size


class SegmentStore:
    """Segments of one download. One thread uses it; growing segments are appended to by others."""

    def __init__(self, spec: FileSpec, directory: Path) -> None:
        self._spec = spec
        self._directory = directory
        # Ordered by their start.
        self._segments: list[Segment] = []

    def find_existing(self) -> None:
        """Find the segments that an earlier process left. Raises OSError."""
        self._segments = []
        for path in self._directory.iterdir():
            start = segment_start_of(self._spec, path.name)
            if start is None:
                continue
            end = start + path.lstat().st_size
            if path.is_symlink() or end > self._spec.size_bytes or end == start:
                path.unlink()
                continue
            self._segments.append(Segment(path, start, end, end))
        self._sort()

    def _sort(self) -> None:
        self._segments.sort(key=lambda segment: segment.start)

    def count_bytes_after(self, offset: int) -> int:
        """Bytes on disk after `offset`."""
        total_bytes = 0
        for segment in self._segments:
            total_bytes += max(0, segment.end - max(segment.start, offset))
            offset = max(offset, segment.end)
        return total_bytes

    def is_reached_by(self, offset: int) -> bool:
        """Whether the bytes from `offset` on, or bytes before it, are in a segment."""
        return bool(self._segments) and self._segments[0].start <= offset

    def move_to(self, partial: PartialFile) -> Iterator[int]:
        """Move the bytes that the partial file lacks next, yielding the size of each chunk."""
        while self._segments and (segment := self._segments[0]).start <= partial.have_bytes:
            was_growing = segment.is_growing
            yield from segment.copy_to(partial)
            if was_growing:
                return
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)

    def drop_empty(self) -> None:
        """Forget segments that were given up without a byte."""
        for segment in [each for each in self._segments if not each.is_growing and each.end == each.start]:
            self._remove(segment)

    def add_next(self, offset: int, size_bytes: int, window_bytes: int) -> Segment | None:
        """Add a segment for the first range from `offset` on that nothing occupies, of at most `size_bytes`.

        None if it is beyond `window_bytes`.
        """
        at, stop = offset, self._spec.size_bytes
        for segment in self._segments:
            if segment.start > at:
                stop = segment.start
                break
            at = max(at, segment.occupied_until)
        if at >= stop or at >= offset + window_bytes:
            return None
        return self._add(at, min(stop, at + size_bytes))

    def add_half(self, least_bytes: int) -> Segment | None:
        """Add a segment for half of the largest range that another one still lacks; None if all are small."""
        growing = [segment for segment in self._segments if segment.is_growing]
        largest = max(growing, key=lambda segment: segment.limit - segment.end, default=None)
        found = None if largest is None else largest.cut_off_half(least_bytes)
        return None if found is None else self._add(*found)

    def _add(self, start: int, limit: int) -> Segment:
        # A segment that was given up just now may have had the same file, which it would remove later.
        self.drop_empty()
        segment = Segment(self._directory / segment_file_name(self._spec, start), start, limit)
        # A useless segment with the same start may exist.
        segment.path.unlink(missing_ok=True)
        self._segments.append(segment)
        self._sort()
        return segment

    def discard_all(self) -> None:
        """Remove all segments of the download, also unknown ones. Raises OSError."""
        self._segments = []
        with suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if segment_start_of(self._spec, path.name) is not None:
                    path.unlink(missing_ok=True)
