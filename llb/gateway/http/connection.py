"""HTTP/1.1 connection to an engine or a node: framing by httptools, deadlines, back-pressure."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple, cast

import httptools

from llb.base import platform_compat
from llb.engine.watch_policy import Blame
from llb.gateway.http.chunk_frames import FRAME_END, MAX_FRAME_BYTES, read_events
from llb.gateway.http.known_response import KnownResponseHead, learn_head
from llb.gateway.http.read_timer import TIMER_SLACK_S, Alarm, ReadTimer
from llb.gateway.http.response import HIGH_WATER_BYTES, UpstreamResponse
from llb.gateway.http.upstream_errors import EngineEnded, InvalidResponse, TransportError, UpstreamClosed

# All connections share one read buffer, because each parses its bytes at once. The event loop's own buffer
# may be eight times as large, and data for a slow client would wait in chunks of that size.
READ_BUFFER_BYTES = 32 * 1024
_READ_BUFFER = memoryview(bytearray(READ_BUFFER_BYTES))
MAX_HEADER_BYTES = 64 * 1024
# A smaller body is copied behind its head: one buffer costs less than a vector of two.
MAX_JOINED_BYTES = 16 * 1024
# Lifetime of an idle connection whose peer does not send `Keep-Alive: timeout=`.
DEFAULT_KEEPALIVE_EXPIRY_S = 15.0
# If a peer has closed an idle connection, this shows within a round trip. A later end means that it was
# processing the request.
STALE_WINDOW_S = 1.0
# The kernel ends the connections of a vanished host within these. A response may pause as long: the host may
# return.
TCP_USER_TIMEOUT_S = 15.0
TCP_KEEPALIVE_INTERVAL_S, TCP_KEEPALIVE_PROBES = 5, 2
# Used while a request waits for its response and no `LivenessProbe` watches the host.
FAIL_FAST_TCP_USER_TIMEOUT_S = 0.5
FAIL_FAST_TCP_KEEPALIVE_INTERVAL_S = 1

# Trailer at the end of a node's response whose engine failed in the middle.
BLAME_TRAILER = b"x-llb-engine-ended"

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


class PoolKey(NamedTuple):
    """Origin of pooled connections: requests with the same key can share them."""

    host: str
    port: int
    # for TLS, see `llb.security.tls_trust`; None without TLS
    trust_anchor: str | None = None
    # An endpoint: its addresses are checked at every connect.
    is_external: bool = False


class ParserEvents:
    """Callbacks shared by all parsers of a client, passed on to the connection that is reading.

    A parser keeps a bound method for each callback, which would take a third of a kilobyte per connection.
    """

    def __init__(self) -> None:
        # While a parser reads.
        self.connection: Connection
        self.on_message_begin = self._on_message_begin
        self.on_header = self._on_header
        self.on_headers_complete = self._on_headers_complete
        self.on_body = self._on_body
        self.on_message_complete = self._on_message_complete

    def _on_message_begin(self) -> None:
        self.connection.on_message_begin()

    def _on_header(self, name: bytes, value: bytes) -> None:
        self.connection.on_header(name, value)

    def _on_headers_complete(self) -> None:
        self.connection.on_headers_complete()

    def _on_body(self, data: bytes) -> None:
        self.connection.on_body(data)

    def _on_message_complete(self) -> None:
        self.connection.on_message_complete()


class ConnectionOwner:
    """Owner of the connections of an event loop: gets their notifications, holds their shared parts."""

    __slots__ = ("on_idle", "on_lost", "parser_events", "read_timer")

    def __init__(self, on_idle: Callable[[Connection], None], on_lost: Callable[[Connection], None]) -> None:
        self.on_idle = on_idle
        self.on_lost = on_lost
        self.read_timer = ReadTimer()
        self.parser_events = ParserEvents()


class Connection(asyncio.BufferedProtocol):
    """Keep-alive connection that carries one exchange at a time and notifies its pool when idle or lost."""

    __slots__ = (
        "_alarm",
        "_continue_waiter",
        "_deadline",
        "_fail_fast",
        "_header_bytes",
        "_in_interim_response",
        "_is_between_chunks",
        "_is_body_pending",
        "_is_message_complete",
        "_is_reading_paused",
        "_is_reusable",
        "_is_writing_paused",
        "_keepalive_expiry_s",
        "_known_head",
        "_loop",
        "_owner",
        "_parser",
        "_request_count",
        "_response",
        "_sent_at",
        "_transport",
        "_write_waiter",
        "idle_until",
        "pool_key",
    )

    def __init__(
        self,
        pool_key: PoolKey,
        owner: ConnectionOwner,
        *,
        keepalive_expiry_s: float = DEFAULT_KEEPALIVE_EXPIRY_S,
        fail_fast: bool = False,
    ) -> None:
        self.pool_key = pool_key
        # time.monotonic(); while it is in the pool
        self.idle_until = 0.0
        self._fail_fast = fail_fast
        self._keepalive_expiry_s = keepalive_expiry_s
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(owner.parser_events)
        self._response: UpstreamResponse | None = None
        self._is_reading_paused = False
        self._request_count = 0
        self._sent_at = 0.0
        # of the current response, while its head is not complete
        self._header_bytes = 0
        # inside a 1xx response, which precedes the final one
        self._in_interim_response = False
        self._is_message_complete = False
        self._is_reusable = False
        # The next byte begins a chunk.
        self._is_between_chunks = False
        # Known head: that of the last response that arrived in one piece.
        self._known_head: KnownResponseHead | None = None
        # Whether a body that is sent in pieces is incomplete.
        self._is_body_pending = False
        self._continue_waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        # One lazy alarm serves every deadline of the connection. Moving a deadline is free, because the
        # deadline is only compared when the alarm fires.
        self._deadline = 0.0
        self._alarm: Alarm | None = None

    # --- one exchange ---

    async def send_request(self, head: bytes, body: bytes, header_timeout_s: float) -> UpstreamResponse:
        """Send one request and return its response once the head is complete.

        Raises `TransportError`; any failure closes the connection.
        """
        return await self.wait_for_head(self.begin_request(head, body), header_timeout_s)

    def begin_request(self, head: bytes, body: bytes) -> UpstreamResponse:
        """Send one request and return its response, whose head has not arrived."""
        response = self._response = UpstreamResponse(self)
        self._request_count += 1
        self._header_bytes = 0
        self._is_message_complete = self._is_reusable = self._is_between_chunks = False
        self._sent_at = time.monotonic()
        if self._fail_fast and not self._is_body_pending:
            platform_compat.set_tcp_user_timeout(self.socket, FAIL_FAST_TCP_USER_TIMEOUT_S)
        if not body:
            self._transport.write(head)
        elif len(body) <= MAX_JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return response

    async def wait_for_head(self, response: UpstreamResponse, header_timeout_s: float) -> UpstreamResponse:
        """Return the response to the present request once its head is complete; raises as `send_request`."""
        try:
            await response.wait_for_head(header_timeout_s)
            if self._fail_fast:
                platform_compat.set_tcp_user_timeout(self.socket, TCP_USER_TIMEOUT_S)
        except BaseException:
            response.close()
            raise
        return response

    async def send_streamed_request(
        self, head: bytes, pieces: AsyncIterable[bytes], *, is_chunked: bool, header_timeout_s: float
    ) -> UpstreamResponse:
        """Like `send_request`, with a body that is read while it is sent; `head` has `Expect: 100-continue`.

        No piece is read before the other end has accepted the head. When it responds before the body is
        complete, the rest is not read. Raises the errors of `pieces` too.
        """
        self._is_body_pending = True
        self._continue_waiter = self._loop.create_future()
        # Cancelled and awaited below.
        sender = asyncio.create_task(self._send_pieces(pieces, self._continue_waiter, is_chunked))
        try:
            return await self.send_request(head, b"", header_timeout_s)
        except TransportError:
            if sender.done() and not sender.cancelled() and (error := sender.exception()) is not None:
                raise error from None
            raise
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send_pieces(
        self, pieces: AsyncIterable[bytes], accepted: asyncio.Future[None], is_chunked: bool
    ) -> None:
        await accepted
        try:
            async for piece in pieces:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                while self._is_writing_paused:
                    self._write_waiter = self._loop.create_future()
                    await self._write_waiter
        except Exception:
            # For any error of the source: the peer must not take the part that was sent for the whole body.
            self.abort(UpstreamClosed(before_first_byte=True))
            raise
        if is_chunked:
            self._transport.write(b"0\r\n\r\n")
        self._is_body_pending = False
        if self._fail_fast:
            platform_compat.set_tcp_user_timeout(self.socket, FAIL_FAST_TCP_USER_TIMEOUT_S)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def send_body(self, data: bytes) -> None:
        """Send more of the current request's body."""
        self._transport.write(data)

    def return_to_pool(self) -> None:
        """Become available for the next request."""
        self.idle_until = time.monotonic() + self._keepalive_expiry_s
        self._owner.on_idle(self)

    def abort(self, error: TransportError) -> None:
        """Close at once, without a flush; the current response fails with `error`."""
        response, self._response = self._response, None
        if response is not None:
            response.finish(error)
        self._transport.abort()

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    @property
    def is_awaiting_response(self) -> bool:
        """Whether a request was sent whose response has not started."""
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
        """Return a future that `UpstreamResponse.wake_reader` resolves; with False after `timeout_s`."""
        self.start_deadline(timeout_s)
        return self._loop.create_future()

    def start_deadline(self, timeout_s: float) -> None:
        """Have `UpstreamResponse.wake_reader` called with False after `timeout_s`."""
        deadline = self._deadline = self._loop.time() + timeout_s
        alarm = self._alarm
        if alarm is None:
            self._alarm = self._owner.read_timer.set_alarm(deadline, self)
        elif alarm.at > deadline + TIMER_SLACK_S:
            self._owner.read_timer.cancel(alarm)
            self._alarm = self._owner.read_timer.set_alarm(deadline, self)

    def extend_deadline(self, timeout_s: float) -> None:
        """Move the deadline of the present reader."""
        self._deadline = self._loop.time() + timeout_s

    def on_alarm(self) -> None:
        self._alarm = None
        response = self._response
        if response is None or not response.has_reader:
            return
        if self._loop.time() >= self._deadline - TIMER_SLACK_S:
            response.wake_reader(has_data=False)
        else:
            self._alarm = self._owner.read_timer.set_alarm(self._deadline, self)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = self.socket
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _is_loopback(transport):
                # The peer shares this kernel, so it cannot vanish unnoticed.
                self._fail_fast = False
            else:
                platform_compat.set_tcp_user_timeout(sock, TCP_USER_TIMEOUT_S)
                interval_s = (
                    FAIL_FAST_TCP_KEEPALIVE_INTERVAL_S if self._fail_fast else TCP_KEEPALIVE_INTERVAL_S
                )
                platform_compat.enable_tcp_keepalive(
                    sock, idle_s=interval_s, interval_s=interval_s, probe_count=TCP_KEEPALIVE_PROBES
                )

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        response = self._response
        if (
            self._is_between_chunks
            and response is not None
            and response.pass_frame is not None
            and nbytes <= MAX_FRAME_BYTES
        ):
            # Hot path: called for each token of each stream.
            frame = _READ_BUFFER[:nbytes].tobytes()
            if events := read_events(frame):
                response.total_bytes += len(events)
                response.pass_frame(events, frame)
                return
        data = _READ_BUFFER[:nbytes]
        if response is None:
            # Unsolicited bytes must not become the response to the next request.
            self._transport.abort()
            return
        is_begin = not (response.status or self._header_bytes or self._is_body_pending)
        if is_begin and self._known_head is not None and self._read_known(response, self._known_head, data):
            return
        self._owner.parser_events.connection = self
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(InvalidResponse(str(error) or "not an HTTP response"))
            return
        if self._is_message_complete:
            if is_begin and self._is_reusable and response.content_length and not response.chunked:
                self._known_head = learn_head(
                    bytes(data), response.headers, response.content_type, self._keepalive_expiry_s
                )
            self._finish_response(response)
            return
        if not response.status:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.abort(InvalidResponse(f"the response head is larger than {MAX_HEADER_BYTES} bytes"))
            return
        if response.chunked:
            # If a chunk's body ended exactly with the read, the end of the chunk has not arrived.
            self._is_between_chunks = (
                data[-len(FRAME_END) :] == FRAME_END
                and bool(response.chunks)
                and response.chunks[-1].endswith(FRAME_END[:-2])
            )
        if response.buffered_bytes > HIGH_WATER_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()
        if response.observer is not None:
            response.observer(True)
        else:
            response.wake_reader()

    def _read_known(self, response: UpstreamResponse, known: KnownResponseHead, data: memoryview) -> bool:
        """Read a whole response with a known head without the parser; False for any other."""
        body = known.find_body(bytes(data))
        if body is None:
            return False
        response.status = 200
        response.headers, response.content_type = known.headers.copy(), known.content_type
        response.content_length = response.buffered_bytes = response.total_bytes = len(body)
        response.first_byte_at = time.monotonic()
        response.chunks.append(body)
        self._keepalive_expiry_s = known.keepalive_expiry_s
        self._is_message_complete = self._is_reusable = True
        self._finish_response(response)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        if self._alarm is not None:
            self._owner.read_timer.cancel(self._alarm)
            self._alarm = None
        response, self._response = self._response, None
        if response is not None:
            # Without a length and without chunks the end of the connection is the end of the body.
            ends_by_close = response.status and response.content_length is None and not response.chunked
            if ends_by_close and error is None:
                response.finish(None)
            else:
                before_first_byte = not self._header_bytes and not response.status
                # After a TCP timeout the host has vanished: a new connection would not reach it either.
                is_stale = (
                    before_first_byte
                    and self._request_count > 1
                    and time.monotonic() - self._sent_at < STALE_WINDOW_S
                    and not isinstance(error, TimeoutError)
                )
                response.finish(UpstreamClosed(before_first_byte=before_first_byte, is_stale=is_stale))
        self._owner.on_lost(self)

    def _finish_response(self, response: UpstreamResponse) -> None:
        self._response = None
        if self._is_reading_paused:
            self.resume_reading()
        response.finish(None if response.engine_blame is None else EngineEnded(response.engine_blame))
        if self._is_reusable and not self._is_body_pending and not self._transport.is_closing():
            self.return_to_pool()
        else:
            self._transport.abort()

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._is_message_complete:
            # Bytes after the response: no other request may use this connection.
            self._is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is None or self._is_message_complete:
            return
        name = name.lower()
        if response.status:
            self._read_trailer(response, name, value)
        elif name == b"content-type":
            response.content_type = value
        elif name == b"content-length":
            response.content_length = int(value)
            return
        elif name == b"transfer-encoding":
            response.chunked = b"chunked" in value.lower()
        elif name == b"keep-alive":
            self._keepalive_expiry_s = parse_keepalive_expiry_s(value)
        if name not in HOP_BY_HOP_HEADERS and not response.status:
            response.headers.append((name, value))

    @staticmethod
    def _read_trailer(response: UpstreamResponse, name: bytes, value: bytes) -> None:
        if name == BLAME_TRAILER:
            with suppress(ValueError):
                response.engine_blame = Blame(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None or self._is_message_complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._in_interim_response = True
            response.headers.clear()
            response.content_type = b""
            waiter, self._continue_waiter = self._continue_waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        else:
            response.status = status

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is not None and not self._is_message_complete:
            # Inlined rather than a method of the response: called for each token of each stream.
            if response.first_byte_at is None:
                response.first_byte_at = time.monotonic()
            response.chunks.append(data)
            size_bytes = len(data)
            response.buffered_bytes += size_bytes
            response.total_bytes += size_bytes

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
    """Return the seconds to keep an idle connection, from a `Keep-Alive` header.

    It is one less than the peer's own, so that this side closes first.
    """
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit():
            return max(0.0, min(float(number) - 1.0, 60.0))
    return DEFAULT_KEEPALIVE_EXPIRY_S
