"""Document buffer: pieces of one bounded document, joined once."""

from __future__ import annotations

from llb.gateway.http.upstream_errors import InvalidResponse

# The vectors of a batch, and the longest answer of a model, are far smaller.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024


class DocumentBuffer:
    """Pieces of a document."""

    __slots__ = ("_max_bytes", "_pieces", "_size_bytes")

    def __init__(self, max_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def append(self, data: bytes) -> None:
        """Raises `InvalidResponse` for a document over the limit."""
        self._size_bytes += len(data)
        if self._size_bytes > self._max_bytes:
            self._pieces.clear()
            raise InvalidResponse(f"a document of more than {self._max_bytes} bytes")
        self._pieces.append(data)

    def clear(self) -> None:
        self._pieces.clear()
        self._size_bytes = 0

    @property
    def document(self) -> bytes:
        return b"".join(self._pieces)
