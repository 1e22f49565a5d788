"""Front protocol: the connections of the server, whose inference requests do not pass Sanic."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from llb.api.connection.connection_limiter import EvictionRank
from llb.api.connection.http_protocol import PROCESSING_RESPONSE, ServerProtocol
from llb.api.inference.handler import BegunAnswer
from llb.front.inference_front import InferenceFront
from llb.front.known_head import KnownHead
from llb.front.request import FrontRequest

log = logging.getLogger(__name__)

# Of later requests, while one is answered.
MAX_HELD_BYTES = 64 * 1024


class FrontProtocol(ServerProtocol):
    """Connection that gives each request to the front or to Sanic, one after the other.

    A request is the front's if it is whole, or whole within `BODY_WAIT_S`, while Sanic waits for one. What
    comes after it is held back until its response is written.
    """

    __slots__ = ("_begun", "_front", "_head", "_held", "_is_half_closed", "_request", "_work")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._front: InferenceFront = self.app.ctx.front
        # Of the last request that was the front's.
        self._head: KnownHead | None = None
        # Received, and given to nobody yet.
        self._held = b""
        # While the front answers.
        self._request: FrontRequest | None = None
        # While callbacks answer, and until a task has taken over from them.
        self._begun: BegunAnswer | None = None
        # While a task answers.
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
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return self._can_write.is_set()

    async def wait_writable(self) -> None:
        """Wait until the client can take more. Raises `CancelledError` once the connection has ended."""
        if not self._can_write.is_set():
            await self._can_write.wait()
        if self.transport is None or self.transport.is_closing():
            raise asyncio.CancelledError

    def give_to_sanic(self) -> None:
        """Give what is held to Sanic: the rest of the body has not come."""
        self._front.stop_waiting(self)
        held, self._held = self._held, b""
        if held:
            super().data_received(held)

    def _begin(self, data: bytes) -> bool:
        """Whether `data`, which begins with a request, was taken."""
        head = self._head
        span = None if head is None else head.match(data)
        if span is None:
            head = self._head = self._front.find_head(data)
            span = None if head is None else head.match(data)
        if head is None or span is None:
            return False
        begin, end = span
        if len(data) < end:
            self._held = data
            self._front.wait_for_body(self)
            return True
        self._held = data[end:]
        self._request = FrontRequest(self, head, data[begin:end], self._front.finish_head)
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
            self._begun = self._front.begin(request)
            is_started = self._begun is not None and self._begun.start(self._end_directly, self._take_over)
        except Exception:
            # Others begin in the same turn. The task meets the error again, and answers with it.
            log.exception("%s could not be begun without a task", request.path)
            is_started = False
        if not is_started:
            self._take_over()

    def _end_directly(self) -> None:
        """Callbacks have answered the request."""
        self._request = self._begun = None
        self._await_next()

    def _take_over(self) -> None:
        """Have a task answer, from where the callbacks have got to."""
        if self._request is not None and self._work is None:
            self._work = self.loop.create_task(self._answer(self._request))

    async def _answer(self, request: FrontRequest) -> None:
        begun, self._begun = self._begun, None
        is_complete = False
        try:
            is_complete = await self._front.answer(request, begun)
        finally:
            self._request = self._work = None
            transport = self.transport
            if not is_complete and transport is not None:
                # The client must not take what it has for the whole response.
                transport.abort()
        self._await_next()

    def _await_next(self) -> None:
        """Go on to the next request of the connection, which may have come already."""
        transport = self.transport
        self._time = time.monotonic()
        if self._is_half_closed:
            self.close()
        if transport is None or transport.is_closing():
            return
        held, self._held = self._held, b""
        if held:
            self.data_received(held)
        # What is still held back may be too much to read on: the client may send faster than it is answered.
        if not self._holds_enough and not transport.is_reading():
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
