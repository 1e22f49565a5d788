"""Front: the connections of the server, and inference requests answered without Sanic.

The front takes what most programs send: a whole request with a length, for a route of the dialects. Sanic
gets everything else on the same connection: chunks, encodings, `100 Continue`, slow bodies, other methods,
WebSockets. Both read heads with the same strict parser, so they never disagree about where a request ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from llb.api.connection.connection_limiter import EvictionRank
from llb.api.connection.http_head import MalformedHead, parse_request_head
from llb.api.connection.http_protocol import PROCESSING_RESPONSE, ServerProtocol
from llb.api.connection.turns import RequestTurns
from llb.api.head_facts import facts_of
from llb.api.incoming_request import BegunAnswer
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import ErrorResponder
from llb.front.request import MAX_BODY_BYTES, Admission, FrontRequest, FrontRoute, KnownHead
from llb.gateway.http.chunk_frames import frame_chunk

log = logging.getLogger(__name__)

# Maximum bytes of later requests that are held while one is answered.
MAX_HELD_BYTES = 64 * 1024
MAX_HEAD_BYTES = 8192
# Many programs send head and body separately. After this time the request goes to Sanic, which waits for its
# body.
BODY_WAIT_S = 0.01
_POST = b"POST "
# Headers of requests that Sanic answers.
_OTHER_HEADERS = frozenset({"content-encoding", "cookie", "expect", "upgrade"})


class InferenceFront:
    """The front of one app; its connections share it."""

    def __init__(self, auth: AuthMiddleware, respond_to_error: ErrorResponder) -> None:
        """`respond_to_error` returns the response to an error that left a handler."""
        self._auth = auth
        self._respond_to_error = respond_to_error
        self._routes: dict[bytes, FrontRoute] = {}
        self._waiting: dict[FrontProtocol, None] = {}
        # Heads of open connections, by the hash of their bytes: programs open many with the same one.
        self._heads: WeakValueDictionary[int, KnownHead] = WeakValueDictionary()
        # Requests that are read but not begun.
        self._turns = RequestTurns()

    def add_route(self, address: str, route: Any, **arguments: str) -> None:
        """Answer POST requests for `address` with the handler of a Sanic route and these path `arguments`."""
        self._routes[address.encode("ascii")] = FrontRoute(route, arguments)

    @property
    def routes(self) -> tuple[Any, ...]:
        return tuple(known.route for known in self._routes.values())

    # --- reading ---

    def find_head(self, data: bytes) -> KnownHead | None:
        """Return the head of the request that `data` begins with.

        None if Sanic answers it, or if the head is incomplete or invalid.
        """
        if not data.startswith(_POST):
            return None
        target = data[len(_POST) : data.find(b" ", len(_POST))]
        known = self._routes.get(target.partition(b"?")[0])
        if known is None:
            return None
        end = data.find(b"\r\n\r\n")
        if not 0 <= end < MAX_HEAD_BYTES:
            return None
        raw = data[: end + 4]
        alike = self._heads.get(hash(raw))
        if alike is not None and alike.match(data) is not None:
            return alike.copy()
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
        found = KnownHead(raw, head.target.decode("ascii"), head.header_map(), known)
        # `AuthMiddleware` removes llb's own headers.
        if not any(name.startswith("x-llb-") for name, _ in head.headers):
            self._heads[hash(raw)] = found
        return found

    def wait_for_body(self, connection: FrontProtocol) -> None:
        """Give the connection to Sanic unless `stop_waiting` is called soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(BODY_WAIT_S, self._give_up)
        self._waiting[connection] = None

    def stop_waiting(self, connection: FrontProtocol) -> None:
        """The body is complete, or the connection has ended; idempotent."""
        self._waiting.pop(connection, None)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            connection.give_to_sanic()

    # --- answering ---

    def schedule(self, connection: FrontProtocol) -> None:
        """Begin the request of `connection` soon, after those that were read before it."""
        self._turns.schedule(connection.begin_answer)

    def finish_head(self, request: FrontRequest, head: Any) -> None:
        """Add the headers that every response has."""
        self._auth.add_response_headers(request, head)

    def begin(self, request: FrontRequest) -> BegunAnswer | None:
        """Begin to answer an ordinary request of an admitted head without a task; None for all others."""
        head = request.head
        if head.route.begin_direct is None or head.admission is None or not head.admission.admit(request):
            return None
        return head.route.begin_direct(request)

    async def answer(
        self, request: FrontRequest, begun: BegunAnswer | None, start: Callable[[BegunAnswer], bool]
    ) -> bool | None:
        """Answer `request`, or continue the answer that was `begun`.

        Returns whether the response is complete, None if callbacks complete it (`start` returned True).
        Raises `CancelledError` only.
        """
        try:
            if begun is None and request.head.admission is None:
                await self._admit(request)
                begun = self.begin(request)
                if begun is not None and start(begun):
                    return None
            elif begun is None:
                await self._admit(request)
            if begun is not None:
                self._auth.bind_log(request)
                await begun.resume()
            else:
                document = await request.head.route.answer(request)
                if document is not None:
                    await request.respond_whole(document)
        except Exception as error:
            # Every error of a handler gets a response, as in Sanic.
            if request.response is not None:
                log.error("%s failed after its response had begun", request.path, exc_info=error)
                return False
            await request.respond_whole(await self._respond_to_error(request, error))
        return request.response is not None and request.response.is_complete

    async def _admit(self, request: FrontRequest) -> None:
        """Authorise a request; raises the error that denies it."""
        head = request.head
        if head.admission is not None and head.admission.admit(request):
            self._auth.bind_log(request)
            return
        head.admission = None
        await self._auth.on_request(request)
        head.admission = Admission.of(request, self._auth.authenticator)
        head.facts = facts_of(request)
        request.note_admitted()


class FrontProtocol(ServerProtocol):
    """Connection that gives each request to the front or to Sanic, one after the other.

    A request is the front's if it is whole, or whole within `BODY_WAIT_S`, while Sanic waits for one. Later
    bytes are held back until its response is written.
    """

    __slots__ = ("_begun", "_front", "_head", "_held", "_is_half_closed", "_request", "_work")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._front: InferenceFront = self.app.ctx.front
        # Head of the last request that the front has answered.
        self._head: KnownHead | None = None
        # Received bytes that have not been read.
        self._held = b""
        # The request that the front is answering.
        self._request: FrontRequest | None = None
        # Its answer, while callbacks give it and until a task has taken over.
        self._begun: BegunAnswer | None = None
        # Its task, while a task answers.
        self._work: asyncio.Task[None] | None = None
        self._is_half_closed = False

    async def write(self, data: bytes) -> None:
        """Write, at the pace of the client. Raises `CancelledError` once the connection has ended."""
        if not self._can_write.is_set():
            await self._can_write.wait()
        transport = self.transport
        if transport is None or transport.is_closing():
            raise asyncio.CancelledError
        transport.write(data)

    def write_now(self, data: bytes) -> None:
        """Write at once, whatever the pace of the client; no effect once the connection has ended."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_chunk(self, data: bytes) -> bool:
        """Write a chunk at once, which must not be empty.

        False if the client must catch up, or has gone: `wait_writable` tells which.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(frame_chunk(data))
        return self._blocked_since is None

    def write_frame(self, events: bytes, frame: bytes, is_single: bool) -> bool:
        """Like `write_chunk`, with a chunk that has its frame."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(frame)
        return self._blocked_since is None

    async def wait_writable(self) -> None:
        """Wait until the client can take more. Raises `CancelledError` once the connection has ended."""
        if not self._can_write.is_set():
            await self._can_write.wait()
        if self.transport is None or self.transport.is_closing():
            raise asyncio.CancelledError

    def give_to_sanic(self) -> None:
        """Give the received bytes to Sanic: the rest of the body has not arrived."""
        self._front.stop_waiting(self)
        held, self._held = self._held, b""
        if held:
            super().data_received(held)

    def _begin(self, data: bytes) -> bool:
        """Whether `data`, which begins with a request, was taken."""
        head = self._head
        match = None if head is None else head.match(data)
        if match is None:
            head = self._head = self._front.find_head(data)
            match = None if head is None else head.match(data)
        if head is None or match is None:
            return False
        begin, end, request_id = match
        if len(data) < end:
            self._held = data
            self._front.wait_for_body(self)
            return True
        self._held = data[end:]
        self._request = FrontRequest(self, head, data[begin:end], self._front.finish_head, request_id)
        if self._held:
            self._pause_if_full()
        self._front.schedule(self)
        return True

    def begin_answer(self) -> None:
        """Begin to answer the request that was read; no effect if the connection has ended."""
        request = self._request
        if request is None or self._work is not None or self._begun is not None:
            return
        try:
            begun = self._front.begin(request)
        except Exception:
            # Must not affect the other requests of this turn. The task raises the error again and responds
            # with it.
            log.exception("%s could not be begun without a task", request.path)
            begun = None
        if begun is None or not self._start(begun):
            self._begun = begun
            self.take_over()

    def _start(self, begun: BegunAnswer) -> bool:
        """Let callbacks answer the request; False if a task has to."""
        try:
            is_started = begun.start(self)
        except Exception:
            # As in `begin_answer`.
            log.exception("an answer could not be started without a task")
            is_started = False
        if is_started:
            self._begun, self._work = begun, None
        return is_started

    def end_directly(self) -> None:
        """Callbacks have answered the request."""
        self._request = self._begun = None
        self._await_next()

    def take_over(self) -> None:
        """Continue the answer in a task."""
        if self._request is not None and self._work is None:
            # Answers every error itself; cancelled when the connection is lost.
            self._work = self.loop.create_task(self._answer(self._request))

    async def _answer(self, request: FrontRequest) -> None:
        begun, self._begun = self._begun, None
        is_complete: bool | None = False
        try:
            is_complete = await self._front.answer(request, begun, self._start)
        finally:
            if is_complete is not None:
                self._request = self._work = None
                transport = self.transport
                if not is_complete and transport is not None:
                    # The client must not take an incomplete response for a complete one.
                    transport.abort()
        if is_complete is not None:
            self._await_next()

    def _await_next(self) -> None:
        """Continue with the next request of the connection, which may have arrived already."""
        transport = self.transport
        self._time = time.monotonic()
        if self._is_half_closed:
            self.close()
        if transport is None or transport.is_closing():
            return
        held, self._held = self._held, b""
        if held:
            self.data_received(held)
        # Reading stays paused while too much is held: the client may send faster than it is answered.
        if not transport.is_reading() and not self._holds_enough:
            transport.resume_reading()

    def _pause_if_full(self) -> None:
        if self._holds_enough and self.transport is not None:
            self.transport.pause_reading()

    @property
    def _holds_enough(self) -> bool:
        return self._request is not None and len(self._held) > MAX_HELD_BYTES

    # --- the limiter ---

    @property
    def eviction_rank(self) -> EvictionRank:
        if self._request is not None and not self.is_stalled:
            return EvictionRank.WORKING
        return super().eviction_rank

    def check_deadline(self, now: float) -> None:
        if self._request is None or self._is_unread(now):
            super().check_deadline(now)

    def close_if_idle(self) -> bool:
        """Close the connection at the stop of the server, unless a request is being answered."""
        return self._request is None and bool(super().close_if_idle())  # type: ignore[no-untyped-call]

    # --- asyncio.Protocol ---

    def data_received(self, data: bytes) -> None:
        if self._request is not None:
            self._held += data
            self._pause_if_full()
            return
        if self._held:
            self._front.stop_waiting(self)
            data, self._held = self._held + data, b""
        if not (self.awaits_request and self._begin(data)):
            super().data_received(data)

    def eof_received(self) -> bool | None:
        if self._request is None:
            self.give_to_sanic()
            return super().eof_received()
        if self.transport is None or not self.transport.can_write_eof():
            return False
        self._is_half_closed = True
        self._probe_half_closed(0)
        return True

    def _write_probe(self, number: int) -> None:
        if self._request is None:
            super()._write_probe(number)
        elif self._request.response is None and self.transport is not None:
            self.transport.write(PROCESSING_RESPONSE)
            self._probe_half_closed(number + 1)

    def connection_lost(self, error: Exception | None) -> None:
        self._front.stop_waiting(self)
        if self._begun is not None:
            # A task gives back what the answer holds. It must have begun before it can be cancelled.
            self._begun.interrupt()
        elif self._work is not None:
            self._work.cancel()
        else:
            self._request = None
        super().connection_lost(error)
