"""Passes the answer of another HTTP server on to the client of this one, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.responses import PassthroughResponse
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError

IDLE_TIMEOUT_S = 3600.0  # whoever asked has deadlines of its own, and this connection ends with theirs


class InFlightCounter:
    """Counts the answers that are under way, so that a host which stops can let them end."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def track(self) -> Iterator[None]:
        """An answer is under way while the block runs."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until none is under way, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)


def select_headers(request: Request, names: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """The headers of `request` with these names (lower case), as the upstream client takes them: the bytes that came."""
    return [
        (name.encode("ascii"), value.encode(errors="surrogateescape"))
        for name in names
        for value in request.headers.getall(name, [])
    ]


async def proxy_response(
    request: Request, response: UpstreamResponse, *, headers: Mapping[str, str] | None = None
) -> HTTPResponse | None:
    """Write `response` to the client; head and first bytes leave together. Raises `UpstreamFault` while nothing was
    written; an answer that breaks later has its connection cut, which is the only thing that can still be said."""
    answer: HTTPResponse | None = None
    try:
        try:
            async for data in response.iter_chunks(IDLE_TIMEOUT_S):
                answer = answer or await _start_response(request, response, headers)
                await answer.send(data)
        except TransportError:
            if answer is None:
                raise
            cast(asyncio.Transport, request.transport).abort()
            return None
        answer = answer or await _start_response(request, response, headers)
        await answer.eof()  # type: ignore[no-untyped-call]
        return None
    finally:
        response.close()


async def _start_response(
    request: Request, response: UpstreamResponse, headers: Mapping[str, str] | None
) -> HTTPResponse:
    return cast(
        HTTPResponse,
        await request.respond(
            PassthroughResponse(
                status=response.status,
                headers=headers or {},
                content_type=response.content_type.decode("latin-1") or "application/octet-stream",
            )
        ),
    )
