"""One HTTP/1.1 connection to an engine or a node: framing by httptools, deadlines, back-pressure."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any, NamedTuple, cast

import httptools

from llb.base import platform_compat
from llb.gateway.http.upstream_errors import InvalidResponse, TransportError, UpstreamClosed, UpstreamTimeout

# Reading stops above this. One read of the event loop (at most 256 KiB) may come on top of it.
HIGH_WATER_BYTES = 32 * 1024
# All connections read into this, since each takes what it has read at once. A loop's own buffer may be eight times as large, and
# what a client is slow to take waits in pieces of this size.
READ_BUFFER_BYTES = 32 * 1024
_READ_BUFFER = memoryview(bytearray(READ_BUFFER_BYTES))
MAX_HEADER_BYTES = 64 * 1024
# How long a connection may lie idle when the peer does not say (`Keep-Alive: timeout=`).
DEFAULT_KEEPALIVE_EXPIRY_S = 15.0
# A peer that closes an idle connection does so within a round trip; later it was at work on the request.
STALE_WINDOW_S = 1.0
# A host that has vanished ends its connections within these. An answer may pause for as long: its host may come back.
TCP_USER_TIMEOUT_S = 15.0
TCP_KEEPALIVE_INTERVAL_S, TCP_KEEPALIVE_PROBES = 5, 2
# While a request waits for its answer, where nothing else (`pulse`) tells that its host has vanished.
FAIL_FAST_TCP_USER_TIMEOUT_S = 0.5
FAIL_FAST_TCP_KEEPALIVE_INTERVAL_S = 1
# uvloop rounds timers to milliseconds, so one may fire a little before its deadline.
TIMER_SLACK_S = 0.002

HOP_BY_HOP_HEADERS = frozenset(
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


class UpstreamResponse:
    """One answer. Its body is read once, in order; `close()` it unless it was read to its end."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_error",
        "_is_complete",
        "_on_started",
        "_read_waiter",
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
        self._read_waiter: asyncio.Future[bool] | None = None
        self._is_complete = False
        self._error: TransportError | None = None
        self._on_started: Callable[[], None] | None = None

    async def read_chunk(self, wait_s: float) -> bytes | None:
        """What has come since the last call; `b""` at the end, None after `wait_s` of silence. Raises `UpstreamFault`."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return b""
            # `_wait`, but for its coroutine: this is once a piece of every stream.
            waiter = self._read_waiter = self._connection.create_read_waiter(wait_s)
            try:
                if not await waiter:
                    return None
            finally:
                self._read_waiter = None
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered_bytes = 0
        if not self._is_complete:
            self._connection.resume_reading()
        return data

    def reset_started(self) -> None:
        """What has been taken was not yet part of the answer: its first byte is still to come."""
        self.first_byte_at = None
        self.received_bytes = 0

    def defer_started(self, on_started: Callable[[], None]) -> None:
        """Its head is not what is waited for: until `heard()` it counts as an answer that has not begun, which ends when its
        host is gone. `on_heard` is called then, or when the answer ends before."""
        if self._is_complete or self._error is not None:
            on_started()
        else:
            self._on_started = on_started

    def mark_started(self) -> None:
        """From now on somebody has something of it."""
        on_heard, self._on_started = self._on_started, None
        if on_heard is not None:
            on_heard()

    async def iter_chunks(self, idle_timeout_s: float) -> AsyncIterator[bytes]:
        """The body as it comes; raises `UpstreamFault`."""
        while (data := await self.read_chunk(idle_timeout_s)) != b"":
            if data is None:
                fault = UpstreamTimeout("idle")
                self.close(fault)
                raise fault
            yield data

    async def read(self, limit_bytes: int, idle_timeout_s: float) -> bytes:
        """The whole body; raises `UpstreamFault`, `BadAnswer` when it is larger than `limit_bytes`."""
        parts: list[bytes] = []
        size_bytes = 0
        async for data in self.iter_chunks(idle_timeout_s):
            parts.append(data)
            size_bytes += len(data)
            if size_bytes > limit_bytes:
                self.close()
                raise InvalidResponse(f"the answer is larger than {limit_bytes} bytes")
        return b"".join(parts)

    def close(self, error: TransportError | None = None) -> None:
        """End the exchange now: an answer not read to its end closes its connection, which frees the engine's slot."""
        # A complete answer has given its connection back; another request may be using it by now.
        if not self._is_complete and self._error is None:
            self._connection.abort(error or UpstreamClosed(before_first_byte=not self.status))
        self._chunks.clear()
        self.buffered_bytes = 0

    # --- called by the connection ---

    async def wait_for_head(self, timeout_s: float) -> None:
        """Wait until status and headers are there; raises `UpstreamFault`."""
        deadline = time.monotonic() + timeout_s
        while not self.status:
            if self._error is not None:
                raise self._error
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UpstreamTimeout("header")
            await self._wait_for_data(left_s)

    def append_chunk(self, data: bytes) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        self._chunks.append(data)
        size_bytes = len(data)
        self.buffered_bytes += size_bytes
        self.received_bytes += size_bytes

    @property
    def is_buffer_full(self) -> bool:
        return self.buffered_bytes > HIGH_WATER_BYTES

    @property
    def has_reader(self) -> bool:
        return self._read_waiter is not None

    @property
    def has_started(self) -> bool:
        """Whether there is something of it that somebody has, or could have had."""
        return bool(self.status) and self._on_started is None

    def wake_reader(self, *, has_data: bool = True) -> None:
        waiter = self._read_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(has_data)

    def finish(self, error: TransportError | None) -> None:
        """No more bytes will come: the answer is complete, or broke with `fault`."""
        if error is None:
            self._is_complete = True
        elif self._error is None:
            self._error = error
        self.mark_started()
        self.wake_reader()

    async def _wait_for_data(self, timeout_s: float) -> bool:
        waiter = self._read_waiter = self._connection.create_read_waiter(timeout_s)
        try:
            return await waiter
        finally:
            self._read_waiter = None


class PoolKey(NamedTuple):
    """To whom a connection is."""

    host: str
    port: int
    trust_anchor: str | None = None  # over TLS: whom to believe


class Connection(asyncio.BufferedProtocol):
    """A keep-alive connection that carries one exchange at a time and tells its pool when it is free or lost."""

    def __init__(
        self,
        pool_key: PoolKey,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
        *,
        keepalive_expiry_s: float = DEFAULT_KEEPALIVE_EXPIRY_S,
        fail_fast: bool = False,
    ) -> None:
        self.pool_key = pool_key
        self._fail_fast = fail_fast
        self.idle_until = 0.0  # time.monotonic(); while it is in the pool
        self._keepalive_expiry_s = keepalive_expiry_s
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._is_reading_paused = False
        self._request_count = 0
        self._sent_at = 0.0
        self._header_bytes = 0  # of the current answer, while its head is not complete
        self._in_interim_response = False  # inside a 1xx answer, which precedes the real one
        self._is_message_complete = False
        self._is_reusable = False
        # One lazy timer for every deadline of the connection: moving it costs nothing, it looks when it fires.
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # --- one exchange ---

    async def send_request(self, head: bytes, body: bytes, header_timeout_s: float) -> UpstreamResponse:
        """Send one request and wait for the head of its answer; whatever goes wrong closes the connection."""
        response = self._response = UpstreamResponse(self)
        self._request_count += 1
        self._header_bytes = 0
        self._is_message_complete = self._is_reusable = False
        self._sent_at = time.monotonic()
        if self._fail_fast:
            platform_compat.set_tcp_user_timeout(self.socket, FAIL_FAST_TCP_USER_TIMEOUT_S)
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)
        try:
            await response.wait_for_head(header_timeout_s)
            if self._fail_fast:
                platform_compat.set_tcp_user_timeout(self.socket, TCP_USER_TIMEOUT_S)
        except BaseException:
            response.close()
            raise
        return response

    def send_body(self, data: bytes) -> None:
        """Send more of the request that the current exchange began."""
        self._transport.write(data)

    def return_to_pool(self) -> None:
        """Go to the pool, to be used again."""
        self.idle_until = time.monotonic() + self._keepalive_expiry_s
        self._on_idle(self)

    def abort(self, error: TransportError) -> None:
        """Close now, without waiting for anything; the current answer ends with `fault`."""
        response, self._response = self._response, None
        if response is not None:
            response.finish(error)
        self._transport.abort()

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    @property
    def is_awaiting_response(self) -> bool:
        """Whether a request is out whose answer has not begun."""
        return self._response is not None and not self._response.has_started

    @property
    def socket(self) -> Any:
        return self._transport.get_extra_info("socket")

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    # --- deadlines ---

    def create_read_waiter(self, timeout_s: float) -> asyncio.Future[bool]:
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
        if response is None or not response.has_reader:
            return
        if self._loop.time() >= self._deadline - TIMER_SLACK_S:
            response.wake_reader(has_data=False)
        else:
            self._set_timer(self._deadline)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = self.socket
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not _is_loopback(transport):
                platform_compat.set_tcp_user_timeout(sock, TCP_USER_TIMEOUT_S)
                every_s = FAIL_FAST_TCP_KEEPALIVE_INTERVAL_S if self._fail_fast else TCP_KEEPALIVE_INTERVAL_S
                platform_compat.enable_tcp_keepalive(
                    sock, idle_s=every_s, interval_s=every_s, probe_count=TCP_KEEPALIVE_PROBES
                )

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = _READ_BUFFER[:nbytes]
        response = self._response
        if response is None:  # nobody asked: whatever this is, it must not become the next answer
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(InvalidResponse(str(error) or "not an HTTP answer"))
            return
        if self._is_message_complete:
            self._finish_response(response)
            return
        if not response.status:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.abort(InvalidResponse(f"the head of the answer is larger than {MAX_HEADER_BYTES} bytes"))
            return
        if response.is_buffer_full and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()
        response.wake_reader()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        response, self._response = self._response, None
        if response is not None:
            # Without a length and without chunks the end of the connection is the end of the body.
            by_close = response.status and response.content_length is None and not response.chunked
            if by_close and error is None:
                response.finish(None)
            else:
                unheard = not self._header_bytes and not response.status
                stale = (
                    unheard
                    and self._request_count > 1
                    and time.monotonic() - self._sent_at < STALE_WINDOW_S
                    and not isinstance(
                        error, TimeoutError
                    )  # its host has vanished: a new connection finds none
                )
                response.finish(UpstreamClosed(before_first_byte=unheard, is_stale=stale))
        self._on_lost(self)

    def _finish_response(self, response: UpstreamResponse) -> None:
        self._response = None
        self.resume_reading()
        response.finish(None)
        if self._is_reusable and not self.is_closed:
            self.return_to_pool()
        else:
            self._transport.abort()

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._is_message_complete:  # bytes after the answer: never hand this connection to another request
            self._is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is None or self._is_message_complete:
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
            self._keepalive_expiry_s = parse_keepalive_expiry_s(value)
        if name not in HOP_BY_HOP_HEADERS:
            response.headers.append((name, value))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or self._is_message_complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._in_interim_response = True
            response.headers.clear()
            response.content_type = b""
        else:
            response.status = status

    def on_body(self, data: bytes) -> None:
        if self._response is not None and not self._is_message_complete:
            self._response.append_chunk(data)

    def on_message_complete(self) -> None:
        if self._in_interim_response:
            self._in_interim_response = False
        elif not self._is_message_complete:
            self._is_message_complete = True
            self._is_reusable = self._parser.should_keep_alive()


def _is_loopback(transport: asyncio.BaseTransport) -> bool:
    peer = transport.get_extra_info("peername")
    return peer is not None and ip_address(peer[0].partition("%")[0]).is_loopback


def parse_keepalive_expiry_s(value: bytes) -> float:
    """Seconds to keep an idle connection, from a `Keep-Alive` header: one less than the peer's, so that we leave first."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit():
            return max(0.0, min(float(number) - 1.0, 60.0))
    return DEFAULT_KEEPALIVE_EXPIRY_S
