"""HTTP exchange: the requests of a connection, handled as Sanic does, with a strict parser.

A socket that is closed with unread bytes is reset, and the client loses the response that says why its
request was refused: a program that sends its whole body before it reads would see a broken connection
instead of `413`. So the server reads and discards what the client still sends, for a while.
"""

from __future__ import annotations

import asyncio
import re
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import sanic.headers
from sanic.compat import Header
from sanic.exceptions import (
    BadRequest,
    ExpectationFailed,
    PayloadTooLarge,
    ServerError,
)
from sanic.headers import format_http1_response
from sanic.helpers import has_message_body
from sanic.http import Http, Stage
from sanic.response import BaseHTTPResponse

from llb.api.connection.body_budget import BodyShare
from llb.api.connection.content_encoding import decode_body
from llb.api.connection.http_head import RequestHead, parse_request_head

# Total time, however much the client still sends.
LINGER_TIMEOUT_S = 5.0
MAX_LOGGED_TARGET_BYTES = 100
MAX_CHUNK_HEADER_BYTES = 256
# Chunks that are read in one turn of the event loop.
CHUNKS_AT_ONCE = 256
_CHUNK_HEADER_PATTERN = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_CONTINUE_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Sanic lacks its reason phrase.
sanic.headers._HTTP1_STATUSLINES[421] = b"HTTP/1.1 421 Misdirected Request\r\n"


class ServerHttp(Http):
    """Sanic's HTTP/1.1 with a strict parser, deadlines and a lingering close."""

    __slots__ = ("awaits_request", "body_share", "body_since", "chunk_count", "head_since", "is_evicted")

    # A `ServerProtocol`, which imports this module.
    protocol: Any
    # None without a body or once it is read, "chunked", or True for one of a known length.
    request_body: Any
    request_bytes: int
    request_bytes_left: int

    def __init__(self, protocol: Any) -> None:
        super().__init__(protocol)  # type: ignore[no-untyped-call]
        self.is_evicted = False
        # No request is being read or answered.
        self.awaits_request = True
        self.head_since = 0.0
        # time.monotonic() since when a body is awaited; None while none is.
        self.body_since: float | None = None
        self.body_share: BodyShare | None = None
        # Number of chunks in all requests of the connection.
        self.chunk_count = 0

    # --- the loop of a connection ---

    async def http1(self) -> None:
        """Handle requests while the connection can be used for another one."""
        while self.keep_alive and self.stage is Stage.IDLE:
            self.init_for_request()  # type: ignore[no-untyped-call]
            if not self.recv_buffer:
                self.awaits_request = True
                await self._receive_more()
            self.awaits_request = False
            self.stage = Stage.REQUEST
            self.head_since = time.monotonic()
            try:
                await self._handle_request()
            except CancelledError as cancelled:
                # The connection has ended, or a deadline has passed.
                error = self.exception or cancelled
                if self.protocol.transport is None or self.protocol.conn_info.lost:
                    return
                self.exception = None
                self.keep_alive = False
                await self.error_response(error)
            except Exception as error:
                # Every error of a handler gets a response, and the connection serves the next request.
                if self.stage is Stage.REQUEST:
                    self._log_bad_request(error)
                await self.error_response(error)
            finally:
                self.body_since = None
                self.release_body()
            if self.request_body and self.keep_alive:
                await self._discard_body()
            if self.recv_buffer and self.keep_alive:
                # Pipelined requests are already in the buffer.
                await self.protocol.resources.turns.wait()
            if self.request is not None:
                self.request.stream = None
                if self.response is not None:
                    self.response.stream = None
        if not self.is_evicted and (self.request is None or self.request_body):
            await self._linger()

    async def _handle_request(self) -> None:
        self.response_func = self.http1_response_header
        await self.http1_request_header()
        self.stage = Stage.HANDLER
        self.request.conn_info = self.protocol.conn_info
        await self.protocol.request_handler(self.request)
        # The handler has ended, so a response was sent.
        if self.stage is Stage.HANDLER and not self.upgrade_websocket:
            raise ServerError("Handler produced no response")
        if self.stage is Stage.RESPONSE:
            await self.response.send(end_stream=True)
        self.protocol.note_principal(getattr(self.request.ctx, "principal", None))

    async def _discard_body(self) -> None:
        """Discard the rest of an unread body if it arrives soon; otherwise give up the connection."""
        self.request_max_size = min(self.request_max_size, self.protocol.request_max_size)
        try:
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while await self.read() is not None:
                    pass
        except (TimeoutError, BadRequest, PayloadTooLarge):
            self.keep_alive = False

    async def _linger(self) -> None:
        """Discard input until the client closes too, which cancels this, at most for `LINGER_TIMEOUT_S`."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while True:
                    self.recv_buffer.clear()
                    await self._receive_more()

    # --- the request ---

    async def http1_request_header(self) -> None:
        """Receive and parse the head of a request."""
        buffer = self.recv_buffer
        start = 0
        while True:
            # RFC 9112, 2.2: empty lines before a request are ignored.
            while buffer.startswith(b"\r\n"):
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n", start)
            if end >= 0:
                break
            if len(buffer) >= self.HEADER_MAX_SIZE:
                raise PayloadTooLarge("Request header exceeds the size limit")
            start = max(0, len(buffer) - 3)
            await self._receive_more()
        if end >= self.HEADER_MAX_SIZE:
            raise PayloadTooLarge("Request header exceeds the size limit")
        raw_head = bytes(buffer[:end])
        head = parse_request_head(raw_head)
        self.url = head.target.decode()
        self.keep_alive = head.keep_alive
        self.head_only = head.method == "HEAD"
        headers = Header(head.headers)
        self.upgrade_websocket = headers.getone("upgrade", "").lower() == "websocket"
        request = self.protocol.request_class(
            url_bytes=head.target,
            headers=headers,
            head=raw_head,
            version=head.version,
            method=head.method,
            transport=self.protocol.transport,
            app=self.protocol.app,
        )
        if request._parsed_url.path is None:
            raise BadRequest("the target has no path")
        if request._parsed_url.host is not None and not _names_host(head):
            raise BadRequest("the target names another host than the header")
        self.protocol.resources.path_resolver.resolve(request)
        self.protocol.request_class._current.set(request)
        self.request_bytes_left = self.request_bytes = 0
        if head.is_chunked:
            self.request_body = "chunked"
            # `read` expects the line break of the last chunk before each chunk.
            end -= 2
        elif head.content_length is not None:
            self.request_body = True
            self.request_bytes_left = self.request_bytes = head.content_length
        if self.request_body and head.version == "1.1" and (expect := headers.getone("expect", None)):
            if expect.lower() != "100-continue":
                raise ExpectationFailed(f"Unknown Expect: {expect}")
            self.expecting_continue = True
        del buffer[: end + 4]
        self.request, request.stream = request, self
        self.protocol.state["requests_count"] += 1

    def create_empty_request(self) -> None:
        """Create a request for bytes that are none, without their target, which may be bad."""
        self.url = None
        super().create_empty_request()

    async def receive_body(self, share: BodyShare | None) -> bytes:
        """Return the whole body. Raises the errors of `read` and of `share`, which counts it meanwhile."""
        buffer = self.recv_buffer
        left_bytes = self.request_bytes_left
        if not self.request_body:
            return b""
        if self.request_body is True and left_bytes <= min(len(buffer), self.request_max_size):
            # The usual case needs no bookkeeping: the body arrived with its head.
            body = bytes(buffer[:left_bytes])
            del buffer[:left_bytes]
            self.request_bytes_left = 0
            self.request_body = None
            self.expecting_continue = False
            self._resume_reading()
            return body
        self.body_share = share
        # Grows in place: the memory of a list of pieces does not go back to the system.
        received = bytearray()
        async for data in self.iter_body():
            if share is not None:
                share.add(len(data))
            received += data
        return bytes(received)

    async def receive_decoded_body(self, share: BodyShare | None, encoding: str | None) -> bytes:
        """Return the whole body without its `encoding`. Raises as `receive_body` and `decode_body` do."""
        body = await self.receive_body(share)
        if encoding is None or not body:
            return body
        # A body that arrived with its head is not counted yet.
        self.body_share = share
        return await decode_body(
            body,
            encoding,
            max_bytes=int(self.request_max_size),
            share=share,
            worker=self.protocol.resources.large_body_worker,
        )

    async def iter_body(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; the pace of the client counts meanwhile. Raises as `read` does."""
        self.body_since = time.monotonic()
        while (data := await self.read()) is not None:
            yield data
        self.body_since = None
        self._resume_reading()

    def _resume_reading(self) -> None:
        """Resume reading after a body that filled the buffer: otherwise a client could leave unnoticed."""
        transport = self.protocol.transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def hold(self, share: BodyShare) -> None:
        """Count `share` in place of the body, until the request has ended."""
        self.release_body()
        self.body_share = share

    def release_body(self) -> None:
        """Count the body of the request no longer; idempotent."""
        if self.body_share is not None:
            self.body_share.release()
            self.body_share = None

    async def read(self) -> bytes | None:
        """Read some bytes of the body; None at its end.

        Raises `BadRequest` and `PayloadTooLarge`, after which the connection takes no other request.
        """
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(_CONTINUE_RESPONSE)
        buffer = self.recv_buffer
        if self.request_bytes_left == 0 and self.request_body == "chunked":
            size = await self._read_chunk_size()
            if size == 0:
                await self._read_chunked_end()
                self.request_body = None
                return None
            self.request_bytes_left = size
            self.request_bytes += size
        if self.request_bytes > self.request_max_size:
            self.keep_alive = False
            raise PayloadTooLarge("Request body exceeds the size limit")
        if not self.request_bytes_left:
            self.request_body = None
            return None
        if not buffer:
            await self._receive_more()
        data = bytes(buffer[: self.request_bytes_left])
        del buffer[: len(data)]
        self.request_bytes_left -= len(data)
        return data

    async def _read_chunk_size(self) -> int:
        """Read the line break of the last chunk and the line before the next one."""
        buffer = self.recv_buffer
        self.chunk_count += 1
        if self.chunk_count % CHUNKS_AT_ONCE == 0:
            # One read may bring tens of thousands.
            await asyncio.sleep(0)
        while (end := buffer.find(b"\r\n", 2)) < 0:
            if len(buffer) > MAX_CHUNK_HEADER_BYTES:
                break
            await self._receive_more()
        match = _CHUNK_HEADER_PATTERN.fullmatch(buffer[:end]) if end >= 0 else None
        if match is None:
            raise self._bad_chunk()
        del buffer[: end + 2]
        return int(match[1], 16)

    async def _read_chunked_end(self) -> None:
        # Trailers are not accepted: the rest of one would be read as another request.
        buffer = self.recv_buffer
        while len(buffer) < 2:
            await self._receive_more()
        if not buffer.startswith(b"\r\n"):
            raise self._bad_chunk()
        del buffer[:2]

    def _bad_chunk(self) -> BadRequest:
        self.keep_alive = False
        return BadRequest("Bad chunked encoding")

    @property
    def received_body_bytes(self) -> int:
        """Bytes of the current body that have come so far."""
        return self.request_bytes - self.request_bytes_left

    # --- the response ---

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        """Send the head of the response, with the first bytes of its body."""
        response: Any = self.response
        is_stream = not (
            end_stream
            or (not data and getattr(response, "body", None))
            or "content-length" in response.headers
            or not has_message_body(response.status)  # type: ignore[no-untyped-call]
        )
        if is_stream:
            # nginx would collect the events of a stream until they fill a buffer.
            response.headers["x-accel-buffering"] = "no"
        if self.request.version != "1.0" or not is_stream:
            await super().http1_response_header(data, end_stream)
            return
        # HTTP/1.0 has no chunks: the end of the connection is the end of the body.
        self.keep_alive = False
        response.headers["connection"] = "close"
        self.response_size = len(data)
        head = format_http1_response(response.status, response.processed_headers)
        self.response_func: Any = self.head_response_ignored if self.head_only else self._send_unframed
        self.stage = Stage.RESPONSE
        await self._send(head if self.head_only else head + data)

    async def _send_unframed(self, data: bytes, end_stream: bool) -> None:
        if data:
            await self._send(data)
        if end_stream:
            self.response_func = None
            self.stage = Stage.IDLE

    def respond(self, response: BaseHTTPResponse) -> BaseHTTPResponse:
        if self.expecting_continue:
            # The client waits for permission to send its body. This response refuses it, but the client may
            # still send the body, so no other request is read.
            self.expecting_continue = False
            self.keep_alive = False
        return super().respond(response)

    async def error_response(self, exception: BaseException) -> None:
        await super().error_response(exception)  # type: ignore[arg-type]

    def _log_bad_request(self, error: Exception) -> None:
        target = bytes(self.recv_buffer[:MAX_LOGGED_TARGET_BYTES]).partition(b"\r\n")[0]
        self.protocol.resources.bad_request_log.write(
            "refused a malformed request from %s: %s: %r",
            self.protocol.peer_address,
            "its head is too large" if isinstance(error, PayloadTooLarge) else error,
            target,
        )


def _names_host(head: RequestHead) -> bool:
    """Whether the target, a whole URL, and `Host` name the same one: only the latter is examined."""
    authority = head.target.split(b"/", 3)[2].decode("ascii").lower()
    return all(value.lower() == authority for name, value in head.headers if name == "host")
