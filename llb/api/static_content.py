"""Contents that stay the same for as long as the process runs: compressed once, and not sent to whoever has them."""

from __future__ import annotations

import asyncio
import gzip

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.middleware.compression import accepts_gzip

_COMPRESSED_CONTENT_TYPES = frozenset({"image/png", "font/woff2"})


class StaticContent:
    """One such content, and its compressed form once somebody has asked for it."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self.content = content
        self.content_type = content_type
        self._gzipped: bytes | None = None
        self._gzip_lock = asyncio.Lock()

    async def compress(self) -> bytes | None:
        """The content after gzip, None where that makes it no smaller."""
        if self.content_type in _COMPRESSED_CONTENT_TYPES:
            return None
        async with self._gzip_lock:
            if self._gzipped is None:
                self._gzipped = await asyncio.to_thread(gzip.compress, self.content, 9, mtime=0)
        return self._gzipped if len(self._gzipped) < len(self.content) else None

    async def encode_for(self, request: Request) -> tuple[bytes, dict[str, str]]:
        """The bytes to send to this client and the headers that say how they are encoded."""
        headers = {"Vary": "Accept-Encoding"}
        packed = await self.compress() if accepts_gzip(request) else None
        if packed is None:
            return self.content, headers
        return packed, {**headers, "Content-Encoding": "gzip"}

    async def conditional_response(self, request: Request, version: str) -> HTTPResponse:
        """The content, or 304 for a client that holds this `version` of it. It is to ask each time."""
        body, headers = await self.encode_for(request)
        # A strong tag names the bytes that travel, so the compressed form has its own.
        tag = f'"{version}-gzip"' if "Content-Encoding" in headers else f'"{version}"'
        headers |= {"Cache-Control": "no-cache", "ETag": tag}
        if _matches_etag(request, tag):
            return HTTPResponse(status=304, headers=headers)
        return HTTPResponse(body, headers=headers, content_type=self.content_type)


def _matches_etag(request: Request, etag: str) -> bool:
    """Whether the client says that it holds the content of this tag already."""
    given = ",".join(request.headers.getall("if-none-match", []))
    return etag in {item.strip().removeprefix("W/") for item in given.split(",")} or given.strip() == "*"
