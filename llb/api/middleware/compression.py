"""Compression of what is sent to browsers: the page's parts, and long lists."""

from __future__ import annotations

import asyncio
import gzip

from sanic import Request
from sanic.response import HTTPResponse

MIN_COMPRESS_BYTES = 2000  # below that a packet is a packet
_COMPRESS_IN_THREAD_BYTES = 64_000  # a millisecond of work


def accepts_gzip(request: Request) -> bool:
    """Whether the client says that it understands gzip."""
    for item in ",".join(request.headers.getall("accept-encoding", [])).lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return not weight or weight.strip("0.") != ""
    return False


async def compress_response(request: Request, response: HTTPResponse) -> HTTPResponse:
    """`response`, compressed where that is worth it. Not for what holds a secret beside something a stranger chose."""
    body = response.body or b""
    response.headers["Vary"] = "Accept-Encoding"
    if len(body) >= MIN_COMPRESS_BYTES and accepts_gzip(request):
        if len(body) >= _COMPRESS_IN_THREAD_BYTES:
            response.body = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
        else:
            response.body = gzip.compress(body, 6, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    return response
