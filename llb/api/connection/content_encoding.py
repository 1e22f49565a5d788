"""Content-Encoding of request bodies: gzip, deflate and zstd, undone piece by piece within the limits.

A few kilobytes can stand for gigabytes: each piece is counted before the next one is made.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import zstandard
from sanic.compat import Header

from llb.api.connection.body_budget import BodyShare
from llb.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

PIECE_BYTES = 256 * 1024
# Larger windows are for files: the decoder takes this memory.
MAX_WINDOW_BYTES = 8 * 1024 * 1024
_DECODE_ERRORS = (zlib.error, OSError, EOFError, zstandard.ZstdError)


class PieceReader(Protocol):
    """Reader of a decoded body; empty at its end."""

    def read(self, size: int, /) -> bytes: ...


class _DeflateReader:
    """Reader of `deflate`: with the header of zlib, as the standard says, or without it."""

    def __init__(self, body: bytes) -> None:
        has_header = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        self._rest = body

    def read(self, size: int, /) -> bytes:
        piece = self._decoder.decompress(self._rest, size)
        self._rest = self._decoder.unconsumed_tail
        if not piece and not self._decoder.eof:
            raise EOFError("it is cut off")
        return piece


def _read_gzip(body: bytes) -> PieceReader:
    return gzip.GzipFile(fileobj=io.BytesIO(body))


def _read_zstd(body: bytes) -> PieceReader:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return decoder.stream_reader(body, read_across_frames=True)


_READERS: Mapping[str, Callable[[bytes], PieceReader]] = MappingProxyType(
    {"gzip": _read_gzip, "x-gzip": _read_gzip, "deflate": _DeflateReader, "zstd": _read_zstd}
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


async def decode_body(body: bytes, encoding: str, *, max_bytes: int, share: BodyShare | None) -> bytes:
    """Return `body` without its encoding.

    Raises `PayloadTooLarge` beyond `max_bytes`, the errors of `share`, which counts each piece, and
    `InvalidRequest` for what is not in this encoding.
    """
    decoded = bytearray()
    try:
        reader = _READERS[encoding](body)
        while True:
            # Most bodies are one small piece.
            is_small = len(decoded) < PIECE_BYTES
            piece = (
                reader.read(PIECE_BYTES) if is_small else await asyncio.to_thread(reader.read, PIECE_BYTES)
            )
            if not piece:
                return bytes(decoded)
            if len(decoded) + len(piece) > max_bytes:
                raise PayloadTooLarge(f"The decoded body of this request is larger than {max_bytes} bytes")
            if share is not None:
                share.add(len(piece))
            decoded += piece
    except _DECODE_ERRORS as error:
        raise InvalidRequest(
            f"The request body is not valid {encoding}", code="invalid_json", param=None
        ) from error
