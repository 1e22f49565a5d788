"""Content-Encoding of request bodies: gzip, deflate and zstd, undone piece by piece within the limits.

A few kilobytes can stand for gigabytes: each piece is counted before the next one is made.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

import zstandard
from sanic.compat import Header

from llb.api.connection.body_budget import BodyShare
from llb.api.request_body import LargeBodyWorker
from llb.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

PIECE_BYTES = 256 * 1024
# Larger windows are for files: the decoder takes this memory.
MAX_WINDOW_BYTES = 8 * 1024 * 1024
# Clients send one member. Each needs a decoder, even if it is nearly empty.
MAX_GZIP_MEMBERS = 16
# Input for a piece of output. Even incompressible input is about as large as its output.
MAX_ZSTD_INPUT_BYTES = 4 * PIECE_BYTES
_NO_DATA = "it has a long part without data"
_GZIP_BITS = zlib.MAX_WBITS + 16
_DECODE_ERRORS = (zlib.error, OSError, EOFError, zstandard.ZstdError)


class PieceReader(Protocol):
    """Reader of a decoded body; empty at its end."""

    def read(self, size: int, /) -> bytes: ...


class _ZlibReader:
    """Reader of one format of zlib, which gets a piece of its input at a time."""

    def __init__(self, body: bytes, window_bits: int, *, max_members: int = 1) -> None:
        """A body may have `max_members` in a row; what follows the last one is ignored if that is one."""
        self._body = memoryview(body)
        self._window_bits = window_bits
        self._max_members = max_members
        self._members = 1
        self._decoder = zlib.decompressobj(window_bits)
        # Input of the decoder that is not yet decoded, and where the rest begins.
        self._input = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof and not self._begin_member():
                return b""
            if not self._input:
                self._input = self._next_input()
            is_last = self._at == len(self._body)
            given_bytes = len(self._input)
            piece = self._decoder.decompress(self._input, size)
            self._input = self._decoder.unused_data or self._decoder.unconsumed_tail
            if piece:
                return piece
            if self._decoder.eof:
                continue
            if is_last:
                raise EOFError("it is cut off")
            if given_bytes - len(self._input) >= PIECE_BYTES:
                # The name of a file in a header, or blocks of nothing.
                raise EOFError(_NO_DATA)

    def _next_input(self) -> bytes:
        begin, self._at = self._at, min(self._at + PIECE_BYTES, len(self._body))
        return bytes(self._body[begin : self._at])

    def _begin_member(self) -> bool:
        """Begin the next member; returns whether there is one. Zeros may fill a file up."""
        if self._max_members == 1:
            return False
        self._input = self._input.lstrip(b"\0")
        while not self._input:
            if self._at == len(self._body):
                return False
            self._input = self._next_input().lstrip(b"\0")
        if self._members == self._max_members:
            raise EOFError(f"it has more than {self._max_members} members")
        self._members += 1
        self._decoder = zlib.decompressobj(self._window_bits)
        return True


def _read_gzip(body: bytes) -> PieceReader:
    return _ZlibReader(body, _GZIP_BITS, max_members=MAX_GZIP_MEMBERS)


def _read_deflate(body: bytes) -> PieceReader:
    """Return a reader of `deflate`: with the header of zlib, as the standard says, or without it."""
    has_header = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _ZlibReader(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


class _ZstdReader:
    """Reader of frames of zstd."""

    def __init__(self, body: bytes) -> None:
        self._source = _BoundedSource(body)
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._reader = decoder.stream_reader(self._source, read_across_frames=True)

    def read(self, size: int, /) -> bytes:
        self._source.left_bytes = MAX_ZSTD_INPUT_BYTES
        return self._reader.read(size)


class _BoundedSource(io.BytesIO):
    """Input of a decoder, of which one piece of output takes `left_bytes` at most."""

    left_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.left_bytes -= len(piece)
        if self.left_bytes < 0:
            raise EOFError(_NO_DATA)
        return piece


_READERS: Mapping[str, Callable[[bytes], PieceReader]] = MappingProxyType(
    {"gzip": _read_gzip, "x-gzip": _read_gzip, "deflate": _read_deflate, "zstd": _ZstdReader}
)


def take_content_encoding(headers: Header) -> str | None:
    """Remove the encoding of a body from its headers and return it, None for none.

    Raises `UnsupportedMediaType` for another one, and for several.
    """
    given = headers.popall("content-encoding", None)
    if given is None:
        return None
    names: list[str] = [name for text in given for part in text.split(",") if (name := part.strip().lower())]
    names = [name for name in names if name != "identity"]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _READERS:
        raise UnsupportedMediaType("Content-Encoding must be one of gzip, deflate and zstd")
    return names[0]


async def decode_body(
    body: bytes, encoding: str, *, max_bytes: int, share: BodyShare | None, worker: LargeBodyWorker
) -> bytes:
    """Return `body` without its encoding; `worker` decodes bodies that are large before or after it.

    Raises `PayloadTooLarge` beyond `max_bytes`, the errors of `share`, which counts each piece, and
    `InvalidRequest` for a body that is not in this encoding.
    """
    decoded = bytearray()
    try:
        reader = _READERS[encoding](body)
        while True:
            piece = await worker.run(max(len(body), len(decoded)), partial(reader.read, PIECE_BYTES))
            if not piece:
                return bytes(decoded)
            if len(decoded) + len(piece) > max_bytes:
                raise PayloadTooLarge(f"The decoded body of this request is larger than {max_bytes} bytes")
            if share is not None:
                share.add(len(piece))
            decoded += piece
    except _DECODE_ERRORS as error:
        reason = f": {error}" if isinstance(error, EOFError) else ""
        raise InvalidRequest(
            f"The request body is not valid {encoding}{reason}", code="invalid_json", param=None
        ) from error
