"""Responses: JSON from wire types, errors in llb's own format, and responses passed on from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Protocol, cast

import msgspec
from sanic.compat import Header
from sanic.headers import _HTTP1_STATUSLINES, format_http1_response
from sanic.http import Http
from sanic.response import HTTPResponse

from llb.api.error_mapping import http_status_of
from llb.api.incoming_request import IncomingRequest
from llb.errors import LlbError
from llb.texts.coded_text import encode_plain
from llb.wire import text_code_of

JSON = "application/json"
_CHUNKED_LINES = b"x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n"
_KEPT_LINES = b"connection: keep-alive\r\n\r\n"
_REQUEST_ID_NAME = b"\r\nx-request-id: "
OCTET_STREAM = "application/octet-stream"
_encoder = msgspec.json.Encoder(enc_hook=encode_plain)

ErrorBodyBuilder = Callable[[LlbError], object]


class ResponseHead(Protocol):
    """Status and headers of a response."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> MutableMapping[str, Any]: ...

    @property
    def processed_headers(self) -> Iterable[tuple[bytes, bytes]]: ...


class PassthroughResponse(HTTPResponse):
    """A response that comes from elsewhere, with cached header encoding.

    All but one or two of its headers are the same every time. `fixed_headers` are further headers, already
    encoded, which must not occur among `headers`.
    """

    __slots__ = ("_send_chunk", "fixed_headers", "fixed_lines")

    def __init__(self, *, status: int = 200, headers: Mapping[str, str], content_type: str) -> None:
        # Sanic's two constructors are not called: they make the headers twice, with three more calls.
        self.asgi = False
        self.body = b""
        self.content_type = content_type
        self.stream = None
        self.status = status
        self.headers = Header(headers)
        self._cookies = None
        self.fixed_headers: tuple[tuple[bytes, bytes], ...] = ()
        # The same as lines of a head.
        self.fixed_lines = b""
        # Set once Sanic has begun a body in chunks: its layers take two coroutines to write one chunk.
        self._send_chunk: Callable[[bytes], Awaitable[None]] | None = None

    async def send(self, data: Any = None, end_stream: bool | None = None) -> None:
        """Write some bytes through Sanic; `end_stream` ends the response."""
        if self._send_chunk is not None and not end_stream:
            # An empty chunk would end the body.
            if data:
                await self._send_chunk(b"%x\r\n%b\r\n" % (len(data), data))
            return
        await super().send(data, end_stream)
        stream = self.stream
        if isinstance(stream, Http) and stream.response_func == stream.http1_response_chunked:
            self._send_chunk = stream.protocol.send

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """The headers as Sanic writes them."""
        self.headers.setdefault("content-type", self.content_type)
        return iter(
            [*self.fixed_headers, *[_cached_header(name, f"{value}") for name, value in self.headers.items()]]
        )

    @staticmethod
    def encode_header(name: str, value: str) -> tuple[bytes, bytes]:
        """Encode a header, without the characters that could end its line."""
        clean = HTTPResponse._sanitize_header_value
        return clean(name).encode("ascii"), clean(value).encode(errors="surrogateescape")


@lru_cache(maxsize=1024)
def _cached_line(name: str, value: str) -> bytes:
    return b"%b: %b\r\n" % PassthroughResponse.encode_header(name, value)


_cached_header = lru_cache(maxsize=1024)(PassthroughResponse.encode_header)


@lru_cache(maxsize=1024)
def _shared(lines: bytes) -> bytes:
    """Return these bytes as one object for all connections."""
    return lines


def format_head(head: ResponseHead, body_bytes: int | None) -> bytes:
    """Return the head of a response that keeps its connection; `body_bytes` None is a body in chunks."""
    headers = head.headers
    if isinstance(head, PassthroughResponse):
        headers.setdefault("content-type", head.content_type)
        # nginx would collect the events of a stream until they fill a buffer.
        framing = _CHUNKED_LINES if body_bytes is None else b"content-length: %d\r\n" % body_bytes
        lines = [_cached_line(name, value) for name, value in headers.items()]
        return b"".join((_HTTP1_STATUSLINES[head.status], head.fixed_lines, *lines, framing, _KEPT_LINES))
    if body_bytes is None:
        headers["x-accel-buffering"] = "no"
        headers["transfer-encoding"] = "chunked"
    else:
        headers["content-length"] = body_bytes
    headers["connection"] = "keep-alive"
    return format_http1_response(head.status, head.processed_headers)


class HeadTemplate:
    """Head of a response, prepared for requests whose responses differ in their id and their body only."""

    __slots__ = ("_after_id", "_before_id")

    def __init__(self, head: PassthroughResponse, request_id: str) -> None:
        """`head` has the headers that every response has, with this id."""
        head.headers.setdefault("content-type", head.content_type)
        lines = [_cached_line(name, value) for name, value in head.headers.items()]
        text = b"".join((_HTTP1_STATUSLINES[head.status], head.fixed_lines, *lines))
        before, name, after = text.partition(_REQUEST_ID_NAME)
        self._before_id = _shared(before + name)
        self._after_id = _shared(after[len(request_id) :])

    def format(self, request_id: str, body_bytes: int | None) -> bytes:
        """Return the head, as `format_head` does."""
        framing = _CHUNKED_LINES if body_bytes is None else b"content-length: %d\r\n" % body_bytes
        return b"".join((self._before_id, request_id.encode("ascii"), self._after_id, framing, _KEPT_LINES))


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """Encode `value`, a wire type or plain data, as a JSON response."""
    return HTTPResponse(_encoder.encode(value), status=status, headers=headers, content_type=JSON)


def no_content() -> HTTPResponse:
    """Return a 204 response."""
    return HTTPResponse(status=204)


def error_body(error: LlbError) -> dict[str, Any]:
    """Return the JSON body for `error`, in the format of OpenAI."""
    return {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}


def coded_error_body(error: LlbError) -> dict[str, Any]:
    """Return the JSON body for `error` of a route of llb's own, with the code of its sentence."""
    body = error_body(error)
    if (text_code := text_code_of(error.text)) is not None:
        body["error"]["message_code"] = text_code
    return body


def error_headers(error: LlbError) -> dict[str, str]:
    """Return the headers that belong to `error`: `Retry-After`, `WWW-Authenticate`."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if http_status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def error_response(error: LlbError, build_body: ErrorBodyBuilder = error_body) -> HTTPResponse:
    """Build the response to `error`, with the body that `build_body` makes of it."""
    return json_response(build_body(error), http_status_of(error), error_headers(error))


def abort_connection(request: IncomingRequest) -> None:
    """Close the connection of a response that has started and cannot be completed.

    Nothing else can still show the client that the response is incomplete.
    """
    cast(asyncio.Transport, request.transport).abort()
    stream = getattr(request, "stream", None)
    if isinstance(stream, Http):
        # Sanic would end the response, and log an error for the bytes that are missing.
        cast(Any, stream).response_func = None
