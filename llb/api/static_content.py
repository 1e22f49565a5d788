"""Static content: compressed once, and answered with 304 where the client holds it already."""

from __future__ import annotations

import asyncio
import gzip

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.middleware.compression import accepts_gzip

_COMPRESSED_CONTENT_TYPES = frozenset({"image/png", "font/woff2"})


class StaticContent:
    """Content that stays the same while the process runs, with its compressed form once requested."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self.content = content
        self.content_type = content_type
        self._gzipped: bytes | None = None
        self._gzip_lock = asyncio.Lock()

    async def compress(self) -> bytes | None:
        """Return the content compressed with gzip, None where that is no smaller."""
        if self.content_type in _COMPRESSED_CONTENT_TYPES:
            return None
        async with self._gzip_lock:
            if self._gzipped is None:
                self._gzipped = await asyncio.to_thread(gzip.compress, self.content, 9, mtime=0)
        return self._gzipped if len(self._gzipped) < len(self.content) else None

    async def encode_for(self, request: Request) -> tuple[bytes, dict[str, str]]:
        """Return the bytes for this client, and the headers that describe their encoding."""
        headers = {"Vary": "Accept-Encoding"}
        compressed = await self.compress() if accepts_gzip(request) else None
        if compressed is None:
            return self.content, headers
        return compressed, {**headers, "Content-Encoding": "gzip"}

    async def conditional_response(self, request: Request, version: str) -> HTTPResponse:
        """Return the content, or 304 for a client that holds this `version`; clients revalidate each time."""
        body, headers = await self.encode_for(request)
        # A strong ETag identifies the bytes on the wire, so the compressed form has its own.
        etag = f'"{version}-gzip"' if "Content-Encoding" in headers else f'"{version}"'
        headers |= {"Cache-Control": "no-cache", "ETag": etag}
        if _matches_etag(request, etag):
            return HTTPResponse(status=304, headers=headers)
        return HTTPResponse(body, headers=headers, content_type=self.content_type)


def _matches_etag(request: Request, etag: str) -> bool:
    """Whether the client sent `If-None-Match` with this ETag."""
    given = ",".join(request.headers.getall("if-none-match", []))
    return etag in {item.strip().removeprefix("W/") for item in given.split(",")} or given.strip() == "*"
