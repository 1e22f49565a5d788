"""Reverse proxy: forwards the response of another HTTP server unchanged, and counts requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from sanic import Request
from sanic.http import Http

from llb.api.incoming_request import IncomingRequest
from llb.api.responses import OCTET_STREAM, PassthroughResponse, abort_connection
from llb.engine.watch_policy import Blame
from llb.gateway.http.connection import BLAME_TRAILER
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError, UpstreamTimeout
from llb.gateway.stream.keepalive import ClientPipe, open_pipe

# Longer than any deadline of the caller, which closes this connection when its own deadline expires.
HEADER_TIMEOUT_S = IDLE_TIMEOUT_S = 3600.0
# A body up to this size that has come with its head is sent in one write, with its length.
MAX_WHOLE_BYTES = 64 * 1024


class InFlightCounter:
    """Counts the requests in flight, so that a host can finish them before it stops."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count a request as in flight while the block runs."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Count one more request as in flight, until `end`."""
        self._count += 1
        self._idle.clear()

    def end(self) -> None:
        """Count one request less."""
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until no request is in flight, at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


def select_headers(request: IncomingRequest, names: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Return the headers of `request` with these names (lower case), as the bytes that were received."""
    return [
        (name.encode("ascii"), value.encode(errors="surrogateescape"))
        for name in names
        for value in request.headers.getall(name, [])
    ]


async def proxy_response(
    request: IncomingRequest,
    response: UpstreamResponse,
    *,
    headers: Mapping[str, str] | None = None,
    get_blame: Callable[[TransportError], Awaitable[Blame | None]] | None = None,
    started: Any = None,
) -> None:
    """Write `response` to the client; its head and first bytes leave in one write.

    Raises `TransportError` only while nothing is written. Later errors abort the client's connection, after a
    trailer with the result of `get_blame`. `started` is a chunked response that callbacks have begun; only
    the rest is written.
    """
    try:
        try:
            pipe = None if started is None else open_pipe(started)
            if pipe is not None:
                await pipe.wait_writable()
            elif whole := response.take_whole(MAX_WHOLE_BYTES):
                started = await _start_response(request, response, headers)
                await started.send(whole, end_stream=True)
                return
            while pipe is None and (data := await response.read_chunk(IDLE_TIMEOUT_S)) != b"":
                if data is None:
                    raise UpstreamTimeout("idle")
                started = started or await _start_response(request, response, headers)
                await started.send(data)
                pipe = open_pipe(started)
            if pipe is not None:
                await _pipe(response, pipe)
        except TransportError as error:
            if started is None:
                raise
            blame = None if get_blame is None else await get_blame(error)
            if blame is None:
                abort_connection(request)
            else:
                await _end_with_trailer(request, started, blame)
            return
        started = started or await _start_response(request, response, headers)
        await started.eof()
    finally:
        response.close()


async def _pipe(response: UpstreamResponse, pipe: ClientPipe) -> None:
    """Pass on the rest of the body; nothing wakes the task of the request for each piece."""

    def write_frame(events: bytes, frame: bytes) -> bool:
        return pipe.write_frame(events, frame, False)

    while (is_end := await response.pipe(pipe.write_chunk, IDLE_TIMEOUT_S, write_frame)) is not True:
        if is_end is None:
            raise UpstreamTimeout("idle")
        await pipe.wait_writable()


async def _end_with_trailer(request: IncomingRequest, started: Any, blame: Blame) -> None:
    """End the chunks of the response, and the connection."""
    trailer = b"0\r\n%b: %b\r\n\r\n" % (BLAME_TRAILER, blame.encode("ascii"))
    write_last = getattr(started, "write_last", None)
    if write_last is not None:
        await write_last(trailer)
    else:
        # Sanic knows no trailers.
        await cast(Http, cast(Request, request).stream).protocol.send(trailer)  # type: ignore[no-untyped-call]
    cast(asyncio.Transport, request.transport).close()


async def _start_response(
    request: IncomingRequest, response: UpstreamResponse, headers: Mapping[str, str] | None
) -> Any:
    return await request.respond(make_response_head(response, headers))


def make_response_head(
    response: UpstreamResponse, headers: Mapping[str, str] | None = None
) -> PassthroughResponse:
    """Return the head of the response to the client: status and content type of `response`, and `headers`."""
    return PassthroughResponse(
        status=response.status,
        headers=headers or {},
        content_type=response.content_type.decode("latin-1") or OCTET_STREAM,
    )
