"""One HTTP/1.1 connection to an engine or a node: framing by httptools, deadlines, back-pressure."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any, NamedTuple, cast

import httptools

from llb import portable
from llb.gateway.faults import BadAnswer, UpstreamClosed, UpstreamFault, UpstreamTimeout

# Reading stops above this. One read of the event loop (at most 256 KiB) may come on top of it.
HIGH_WATER_BYTES = 32 * 1024
# All connections read into this, since each takes what it has read at once. A loop's own buffer may be eight times as large, and
# what a client is slow to take waits in pieces of this size.
READ_BYTES = 32 * 1024
_READ_INTO = memoryview(bytearray(READ_BYTES))
MAX_HEADER_BYTES = 64 * 1024
# How long a connection may lie idle when the peer does not say (`Keep-Alive: timeout=`).
DEFAULT_KEEP_S = 15.0
# A peer that closes an idle connection does so within a round trip; later it was at work on the request.
STALE_WINDOW_S = 1.0
# A host that has vanished ends its connections within these. An answer may pause for as long: its host may come back.
UNACKNOWLEDGED_S = 15.0
PROBE_S, PROBES = 5, 2
# While a request waits for its answer, where nothing else (`pulse`) tells that its host has vanished.
IMPATIENT_UNACKNOWLEDGED_S = 0.5
IMPATIENT_PROBE_S = 1
# uvloop rounds timers to milliseconds, so one may fire a little before its deadline.
TIMER_SLACK_S = 0.002

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class Response:
    """One answer. Its body is read once, in order; `close()` it unless it was read to its end."""

    __slots__ = (
        "_chunks",
        "_complete",
        "_connection",
        "_fault",
        "_on_heard",
        "_waiter",
        "buffered_bytes",
        "chunked",
        "content_length",
        "content_type",
        "first_byte_at",
        "headers",
        "received_bytes",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0  # 0 until the head has come
        self.headers: list[tuple[bytes, bytes]] = []  # end-to-end ones, names in lower case
        self.content_type = b""
        self.content_length: int | None = None
        self.chunked = False
        self.first_byte_at: float | None = None  # of the body; time.monotonic()
        self._connection = connection
        self._chunks: list[bytes] = []
        self.buffered_bytes = 0  # read, and not yet taken
        self.received_bytes = 0  # of the body, so far
        self._waiter: asyncio.Future[bool] | None = None
        self._complete = False
        self._fault: UpstreamFault | None = None
        self._on_heard: Callable[[], None] | None = None

    async def chunk(self, wait_s: float) -> bytes | None:
        """What has come since the last call; `b""` at the end, None after `wait_s` of silence. Raises `UpstreamFault`."""
        while not self._chunks:
            if self._fault is not None:
                raise self._fault
            if self._complete:
                return b""
            # `_wait`, but for its coroutine: this is once a piece of every stream.
            waiter = self._waiter = self._connection.waiter(wait_s)
            try:
                if not await waiter:
                    return None
            finally:
                self._waiter = None
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered_bytes = 0
        if not self._complete:
            self._connection.resume_reading()
        return data

    def disregard(self) -> None:
        """What has been taken was not yet part of the answer: its first byte is still to come."""
        self.first_byte_at = None
        self.received_bytes = 0

    def await_hearing(self, on_heard: Callable[[], None]) -> None:
        """Its head is not what is waited for: until `heard()` it counts as an answer that has not begun, which ends when its
        host is gone. `on_heard` is called then, or when the answer ends before."""
        if self._complete or self._fault is not None:
            on_heard()
        else:
            self._on_heard = on_heard

    def heard(self) -> None:
        """From now on somebody has something of it."""
        on_heard, self._on_heard = self._on_heard, None
        if on_heard is not None:
            on_heard()

    async def chunks(self, idle_timeout_s: float) -> AsyncIterator[bytes]:
        """The body as it comes; raises `UpstreamFault`."""
        while (data := await self.chunk(idle_timeout_s)) != b"":
            if data is None:
                fault = UpstreamTimeout("idle")
                self.close(fault)
                raise fault
            yield data

    async def read(self, limit_bytes: int, idle_timeout_s: float) -> bytes:
        """The whole body; raises `UpstreamFault`, `BadAnswer` when it is larger than `limit_bytes`."""
        parts: list[bytes] = []
        size_bytes = 0
        async for data in self.chunks(idle_timeout_s):
            parts.append(data)
            size_bytes += len(data)
            if size_bytes > limit_bytes:
                self.close()
                raise BadAnswer(f"the answer is larger than {limit_bytes} bytes")
        return b"".join(parts)

    def close(self, fault: UpstreamFault | None = None) -> None:
        """End the exchange now: an answer not read to its end closes its connection, which frees the engine's slot."""
        # A complete answer has given its connection back; another request may be using it by now.
        if not self._complete and self._fault is None:
            self._connection.fail(fault or UpstreamClosed(before_first_byte=not self.status))
        self._chunks.clear()
        self.buffered_bytes = 0

    # --- called by the connection ---

    async def head(self, timeout_s: float) -> None:
        """Wait until status and headers are there; raises `UpstreamFault`."""
        deadline = time.monotonic() + timeout_s
        while not self.status:
            if self._fault is not None:
                raise self._fault
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UpstreamTimeout("header")
            await self._wait(left_s)

    def take(self, data: bytes) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        self._chunks.append(data)
        size_bytes = len(data)
        self.buffered_bytes += size_bytes
        self.received_bytes += size_bytes

    @property
    def full(self) -> bool:
        return self.buffered_bytes > HIGH_WATER_BYTES

    @property
    def waiting(self) -> bool:
        return self._waiter is not None

    @property
    def begun(self) -> bool:
        """Whether there is something of it that somebody has, or could have had."""
        return bool(self.status) and self._on_heard is None

    def wake(self, *, arrived: bool = True) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(arrived)

    def end(self, fault: UpstreamFault | None) -> None:
        """No more bytes will come: the answer is complete, or broke with `fault`."""
        if fault is None:
            self._complete = True
        elif self._fault is None:
            self._fault = fault
        self.heard()
        self.wake()

    async def _wait(self, timeout_s: float) -> bool:
        waiter = self._waiter = self._connection.waiter(timeout_s)
        try:
            return await waiter
        finally:
            self._waiter = None


class Origin(NamedTuple):
    """To whom a connection is."""

    host: str
    port: int
    trust: str | None = None  # over TLS: whom to believe


class Connection(asyncio.BufferedProtocol):
    """A keep-alive connection that carries one exchange at a time and tells its pool when it is free or lost."""

    def __init__(
        self,
        origin: Origin,
        on_free: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
        *,
        keep_s: float = DEFAULT_KEEP_S,
        impatient: bool = False,
    ) -> None:
        self.origin = origin
        self._impatient = impatient
        self.idle_until = 0.0  # time.monotonic(); while it is in the pool
        self._keep_s = keep_s
        self._on_free = on_free
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._paused = False
        self._exchanges = 0
        self._sent_at = 0.0
        self._heard_bytes = 0  # of the current answer, while its head is not complete
        self._interim = False  # inside a 1xx answer, which precedes the real one
        self._message_done = False
        self._reusable = False
        # One lazy timer for every deadline of the connection: moving it costs nothing, it looks when it fires.
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # --- one exchange ---

    async def exchange(self, head: bytes, body: bytes, header_timeout_s: float) -> Response:
        """Send one request and wait for the head of its answer; whatever goes wrong closes the connection."""
        response = self._response = Response(self)
        self._exchanges += 1
        self._heard_bytes = 0
        self._message_done = self._reusable = False
        self._sent_at = time.monotonic()
        if self._impatient:
            portable.end_unacknowledged(self.socket, IMPATIENT_UNACKNOWLEDGED_S)
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)
        try:
            await response.head(header_timeout_s)
            if self._impatient:
                portable.end_unacknowledged(self.socket, UNACKNOWLEDGED_S)
        except BaseException:
            response.close()
            raise
        return response

    def feed(self, data: bytes) -> None:
        """Send more of the request that the current exchange began."""
        self._transport.write(data)

    def rest(self) -> None:
        """Go to the pool, to be used again."""
        self.idle_until = time.monotonic() + self._keep_s
        self._on_free(self)

    def fail(self, fault: UpstreamFault) -> None:
        """Close now, without waiting for anything; the current answer ends with `fault`."""
        response, self._response = self._response, None
        if response is not None:
            response.end(fault)
        self._transport.abort()

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    @property
    def asking(self) -> bool:
        """Whether a request is out whose answer has not begun."""
        return self._response is not None and not self._response.begun

    @property
    def socket(self) -> Any:
        return self._transport.get_extra_info("socket")

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # --- deadlines ---

    def waiter(self, timeout_s: float) -> asyncio.Future[bool]:
        """A future that `Response.wake()` resolves, with False after `timeout_s`."""
        deadline = self._deadline = self._loop.time() + timeout_s
        if self._timer is None:
            self._set_timer(deadline)
        elif self._timer_at > deadline + TIMER_SLACK_S:
            self._timer.cancel()
            self._set_timer(deadline)
        return self._loop.create_future()

    def _set_timer(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        response = self._response
        if response is None or not response.waiting:
            return
        if self._loop.time() >= self._deadline - TIMER_SLACK_S:
            response.wake(arrived=False)
        else:
            self._set_timer(self._deadline)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = self.socket
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not _on_this_host(transport):
                portable.end_unacknowledged(sock, UNACKNOWLEDGED_S)
                every_s = IMPATIENT_PROBE_S if self._impatient else PROBE_S
                portable.probe_when_idle(sock, after_s=every_s, every_s=every_s, times=PROBES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_INTO

    def buffer_updated(self, nbytes: int) -> None:
        data = _READ_INTO[:nbytes]
        response = self._response
        if response is None:  # nobody asked: whatever this is, it must not become the next answer
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(BadAnswer(str(error) or "not an HTTP answer"))
            return
        if self._message_done:
            self._finish(response)
            return
        if not response.status:
            self._heard_bytes += len(data)
            if self._heard_bytes > MAX_HEADER_BYTES:
                self.fail(BadAnswer(f"the head of the answer is larger than {MAX_HEADER_BYTES} bytes"))
            return
        if response.full and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        response.wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        response, self._response = self._response, None
        if response is not None:
            # Without a length and without chunks the end of the connection is the end of the body.
            by_close = response.status and response.content_length is None and not response.chunked
            if by_close and error is None:
                response.end(None)
            else:
                unheard = not self._heard_bytes and not response.status
                stale = (
                    unheard
                    and self._exchanges > 1
                    and time.monotonic() - self._sent_at < STALE_WINDOW_S
                    and not isinstance(
                        error, TimeoutError
                    )  # its host has vanished: a new connection finds none
                )
                response.end(UpstreamClosed(before_first_byte=unheard, stale=stale))
        self._on_lost(self)

    def _finish(self, response: Response) -> None:
        self._response = None
        self.resume_reading()
        response.end(None)
        if self._reusable and not self.closed:
            self.rest()
        else:
            self._transport.abort()

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._message_done:  # bytes after the answer: never hand this connection to another request
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is None or self._message_done:
            return
        name = name.lower()
        if name == b"content-type":
            response.content_type = value
        elif name == b"content-length":
            response.content_length = int(value)
            return
        elif name == b"transfer-encoding":
            response.chunked = b"chunked" in value.lower()
        elif name == b"keep-alive":
            self._keep_s = keep_alive_s(value)
        if name not in HOP_BY_HOP:
            response.headers.append((name, value))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or self._message_done:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            response.headers.clear()
            response.content_type = b""
        else:
            response.status = status

    def on_body(self, data: bytes) -> None:
        if self._response is not None and not self._message_done:
            self._response.take(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._message_done:
            self._message_done = True
            self._reusable = self._parser.should_keep_alive()


def _on_this_host(transport: asyncio.BaseTransport) -> bool:
    peer = transport.get_extra_info("peername")
    return peer is not None and ip_address(peer[0].partition("%")[0]).is_loopback


def keep_alive_s(value: bytes) -> float:
    """Seconds to keep an idle connection, from a `Keep-Alive` header: one less than the peer's, so that we leave first."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit():
            return max(0.0, min(float(number) - 1.0, 60.0))
    return DEFAULT_KEEP_S
