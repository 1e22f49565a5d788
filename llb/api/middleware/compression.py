"""Gzip compression of responses: the page's files, and long lists."""

from __future__ import annotations

import asyncio
import gzip

from sanic import Request
from sanic.response import HTTPResponse

# A smaller body fits into one or two packets anyway.
MIN_COMPRESS_BYTES = 2000
# About one millisecond of compression.
_COMPRESS_IN_THREAD_BYTES = 64_000


def accepts_gzip(request: Request) -> bool:
    """Whether the client accepts gzip."""
    for item in ",".join(request.headers.getall("accept-encoding", [])).lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return not weight or weight.strip("0.") != ""
    return False


async def compress_response(request: Request, response: HTTPResponse) -> HTTPResponse:
    """Compress the body of `response` where that pays, and return it.

    Not for a body that holds both a secret and text from another person: its compressed length would reveal
    the secret (BREACH).
    """
    body = response.body or b""
    response.headers["Vary"] = "Accept-Encoding"
    if len(body) >= MIN_COMPRESS_BYTES and accepts_gzip(request):
        if len(body) >= _COMPRESS_IN_THREAD_BYTES:
            response.body = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
        else:
            response.body = gzip.compress(body, 6, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
    return response
