"""Reader of the `data:` lines of a stream from an endpoint, with a bound on the length of a line."""

from __future__ import annotations

from llb.gateway.stream.sse import parse_data_line
from llb.gateway.translation.provider_errors import ProviderFailure

# The longest line of a real provider is the last event of a Responses stream, or an image in Base64.
MAX_LINE_BYTES = 16 * 1024 * 1024


class EventReader:
    """Reads the `data:` lines of a stream that arrives in pieces of any size.

    The pieces of one long line are joined once, so that its cost grows with its length only.
    """

    __slots__ = ("_held", "_held_bytes")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Values of the `data:` lines that end in `data`. Raises `ProviderFailure` for an endless line."""
        head, separator, rest = data.partition(b"\n")
        self._held.append(head)
        self._held_bytes += len(head)
        if self._held_bytes > MAX_LINE_BYTES:
            raise ProviderFailure(502, "The endpoint sent a line without an end")
        if not separator:
            return []
        lines = [b"".join(self._held), *rest.split(b"\n")]
        last = lines.pop()
        self._held, self._held_bytes = ([last], len(last)) if last else ([], 0)
        return [value for line in lines if (value := parse_data_line(line)) is not None]

    def flush(self) -> list[bytes]:
        """Values of a last line that the end of the stream ends."""
        return self.feed(b"\n") if self._held else []
