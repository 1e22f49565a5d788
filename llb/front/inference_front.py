"""Inference front: which requests are answered without Sanic, and how one is answered.

It takes what most programs send: a whole request with a length, for a route of the dialects. Whatever else
comes over the same connection is Sanic's, so there is one place for each rule that is not here: chunks,
encodings, `100 Continue`, slow bodies, other methods, WebSockets. Both doors read heads with the same strict
parser, so no bytes are one request to one of them and two to the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from llb.api.connection.http_head import MalformedHead, parse_request_head
from llb.api.connection.turns import RequestTurns
from llb.api.head_facts import facts_of
from llb.api.inference.handler import BegunAnswer
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import ErrorResponder
from llb.front.known_head import MAX_BODY_BYTES, KnownHead
from llb.front.request import FrontRequest

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8192
# A body that is not there after this is Sanic's to wait for. Many programs send head and body separately.
BODY_WAIT_S = 0.01
_POST = b"POST "
# Headers of requests that Sanic answers.
_OTHER_HEADERS = frozenset({"content-encoding", "cookie", "expect", "upgrade"})


class FrontConnection(Protocol):
    """Connection whose requests the front reads."""

    def give_to_sanic(self) -> None:
        """Have Sanic wait for the rest of a body."""
        ...

    def begin_answer(self) -> None:
        """Begin to answer the request that was read; no effect if the connection has ended."""
        ...


class InferenceFront:
    """The front of one app; its connections share it."""

    def __init__(self, guard: AuthMiddleware, respond_to_error: ErrorResponder) -> None:
        """`respond_to_error` returns the response to an error that left a handler."""
        self._guard = guard
        self._respond_to_error = respond_to_error
        self._routes: dict[bytes, Any] = {}
        self._waiting: dict[FrontConnection, None] = {}
        # Read, and not begun yet.
        self._turns = RequestTurns()

    def add_routes(self, routes: Iterable[Any]) -> None:
        """Answer the requests with POST of these routes of Sanic, which have one address each."""
        for route in routes:
            self._routes[f"/{route.path}".encode("ascii")] = route

    @property
    def routes(self) -> tuple[Any, ...]:
        return tuple(self._routes.values())

    # --- reading ---

    def find_head(self, data: bytes) -> KnownHead | None:
        """Return the head of the request that `data` begins with.

        None where Sanic answers it, or where the head is not complete or not valid.
        """
        if not data.startswith(_POST):
            return None
        target = data[len(_POST) : data.find(b" ", len(_POST))]
        route = self._routes.get(target.partition(b"?")[0])
        if route is None:
            return None
        end = data.find(b"\r\n\r\n")
        if not 0 <= end < MAX_HEAD_BYTES:
            return None
        try:
            head = parse_request_head(data[:end])
        except MalformedHead:
            return None
        is_plain = (
            head.version == "1.1"
            and head.keep_alive
            and head.content_length is not None
            # Without a body, less of the head is examined than with one.
            and 0 < head.content_length <= MAX_BODY_BYTES
        )
        if not is_plain or any(name in _OTHER_HEADERS for name, _ in head.headers):
            return None
        begin_direct = getattr(route.ctx, "begin_direct", None)
        return KnownHead(data[: end + 4], head.path, head.header_map(), route, begin_direct)

    def wait_for_body(self, connection: FrontConnection) -> None:
        """Give the connection to Sanic unless `stop_waiting` is called soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(BODY_WAIT_S, self._give_up)
        self._waiting[connection] = None

    def stop_waiting(self, connection: FrontConnection) -> None:
        """The body is complete, or the connection has ended; idempotent."""
        self._waiting.pop(connection, None)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            connection.give_to_sanic()

    # --- answering ---

    def schedule(self, connection: FrontConnection) -> None:
        """Have the request of `connection` begun soon."""
        self._turns.schedule(connection.begin_answer)

    def finish_head(self, request: FrontRequest, head: Any) -> None:
        """Add the headers that every response has."""
        self._guard.add_response_headers(request, head)

    def begin(self, request: FrontRequest) -> BegunAnswer | None:
        """Begin to answer an ordinary request of an admitted head without a task; None for all others."""
        head = request.head
        if (
            head.begin_direct is None
            or head.admission is None
            or not self._guard.admit_again(request, head.admission)
        ):
            return None
        return head.begin_direct(request)

    async def answer(self, request: FrontRequest, begun: BegunAnswer | None = None) -> bool:
        """Answer `request`, from where an answer stands that was `begun`.

        Returns whether the response is complete. Raises `CancelledError` only.
        """
        try:
            if begun is not None:
                self._guard.bind_log(request)
                await begun.resume()
            else:
                await self._admit(request)
                document = await request.route.handler(request)
                if document is not None:
                    await request.respond_whole(document)
        except Exception as error:
            if request.response is not None:
                log.error("%s failed after its response had begun", request.path, exc_info=error)
                return False
            await request.respond_whole(await self._respond_to_error(request, error))
        return request.response is not None and request.response.is_complete

    async def _admit(self, request: FrontRequest) -> None:
        """Have the guard admit a request; raises the error that denies it."""
        head = request.head
        if head.admission is not None and self._guard.admit_again(request, head.admission):
            self._guard.bind_log(request)
            return
        head.admission = None
        await self._guard.on_request(request)
        head.admission = self._guard.note_admission(request)
        head.facts = facts_of(request)
        request.note_admitted()
