"""Server-Sent Events: framing, data lines, keep-alive comments and error events.

The one place that splits them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from llb.errors import LlbError
from llb.gateway.http.upstream_errors import InvalidResponse

SSE_KEEPALIVE = b": heartbeat\n\n"
# A longer event is passed on in pieces.
MAX_EVENT_BYTES = 256 * 1024
# The longest line of a real provider is the last event of a Responses stream, or an image in Base64.
MAX_LINE_BYTES = 16 * 1024 * 1024
_DATA = b"data:"


def is_event_stream_type(content_type: bytes) -> bool:
    """Whether a body of this content type is a stream of server-sent events."""
    return content_type.startswith(b"text/event-stream")


def format_event(data: bytes, name: bytes = b"") -> bytes:
    """One event with `data`, a single line, and its `name` if it has one."""
    return (b"event: " + name + b"\n" if name else b"") + _DATA + b" " + data + b"\n\n"


def format_error_event(error: LlbError) -> bytes:
    """An error inside a stream, in OpenAI's shape."""
    body = {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}
    return format_event(msgspec.json.encode(body))


def parse_data_line(line: bytes) -> bytes | None:
    """The value of a `data:` line, None for any other line."""
    return line[len(_DATA) :].strip() if line.startswith(_DATA) else None


def iter_data(events: bytes) -> Iterator[bytes]:
    """Values of the `data:` lines in `events`, which holds whole lines."""
    for line in events.splitlines():
        if line.startswith(_DATA):
            yield line[len(_DATA) :].strip()


class StreamSplitter:
    """Splits a stream that arrives in pieces of any size.

    The pieces of one long part are joined once, so that its cost grows with its length only.
    """

    __slots__ = ("_held", "_held_bytes", "_max_bytes", "_separator")

    def __init__(self, separator: bytes, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._separator = separator
        self._max_bytes = max_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def has_partial(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The parts that end in `data`. Raises `InvalidResponse` for one over the limit, and drops it."""
        overlap = len(self._separator) - 1
        if overlap and self._held:
            # The separator may be cut: the held bytes may end with a part of it.
            last = self._held.pop()
            start, data = last[:-overlap], last[-overlap:] + data
            self._held_bytes -= len(last) - len(start)
            if start:
                self._held.append(start)
        head, separator, rest = data.partition(self._separator)
        if head:
            self._held.append(head)
            self._held_bytes += len(head)
        if self._held_bytes > self._max_bytes:
            self._held, self._held_bytes = [], 0
            raise InvalidResponse("a line without an end")
        if not separator:
            return []
        parts = [b"".join(self._held), *rest.split(self._separator)]
        last = parts.pop()
        self._held, self._held_bytes = ([last], len(last)) if last else ([], 0)
        return parts

    def take_partial(self) -> bytes:
        """The bytes after the last separator, at the end of the stream."""
        partial = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return partial


class DataLineReader:
    """Reads the `data:` lines of a stream that arrives in pieces of any size."""

    __slots__ = ("_lines",)

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lines = StreamSplitter(b"\n", max_line_bytes)

    @property
    def has_partial_line(self) -> bool:
        return self._lines.has_partial

    def feed(self, data: bytes) -> list[bytes]:
        """Values of the `data:` lines that end in `data`. Raises `InvalidResponse` for an endless line."""
        return [value for line in self._lines.feed(data) if (value := parse_data_line(line)) is not None]

    def flush(self) -> list[bytes]:
        """Values of a last line that the end of the stream ends."""
        return self.feed(b"\n") if self.has_partial_line else []


class SseFramer:
    """Cuts a byte stream at event boundaries, so that a comment or an error can stand between two events.

    An event over `MAX_EVENT_BYTES` is passed on in pieces; `is_mid_event` is true in between.
    """

    __slots__ = ("held", "is_mid_event")

    def __init__(self) -> None:
        self.is_mid_event = False
        self.held = b""

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes; empty while none is complete."""
        if self.held:
            data, self.held = self.held + data, b""
        if data.endswith((b"\n\n", b"\r\n\r\n")):
            self.is_mid_event = False
            return data
        end = _last_event_end(data)
        if end:
            self.held = data[end:]
            self.is_mid_event = False
            return data[:end]
        if not self.is_mid_event and len(data) <= MAX_EVENT_BYTES:
            self.held = data
            return b""
        self.is_mid_event = True
        return data

    def flush(self) -> bytes:
        """The bytes after the last event boundary, at the end of the stream."""
        held, self.held = self.held, b""
        return held


def _last_event_end(data: bytes) -> int:
    """Offset after the last whole event in `data`, 0 if there is none."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)
