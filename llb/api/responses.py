"""Responses: JSON from wire types, errors in llb's own format, and responses passed on from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.error_mapping import http_status_of
from llb.errors import LlbError

JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
_encoder = msgspec.json.Encoder()

ErrorBodyBuilder = Callable[[LlbError], object]


class PassthroughResponse(HTTPResponse):
    """A response that comes from elsewhere, with cached header encoding.

    All but one or two of its headers are the same every time. `fixed_headers` are further headers, already
    encoded, which must not occur among `headers`.
    """

    __slots__ = ("fixed_headers",)

    def __init__(self, *, status: int = 200, headers: Mapping[str, str], content_type: str) -> None:
        super().__init__(status=status, headers={**headers}, content_type=content_type)
        self.fixed_headers: tuple[tuple[bytes, bytes], ...] = ()

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


_cached_header = lru_cache(maxsize=1024)(PassthroughResponse.encode_header)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """Encode `value`, a wire type or plain data, as a JSON response."""
    return HTTPResponse(_encoder.encode(value), status=status, headers=headers, content_type=JSON)


def no_content() -> HTTPResponse:
    """Return a 204 response."""
    return HTTPResponse(status=204)


def error_body(error: LlbError) -> dict[str, Any]:
    """Return llb's own JSON body for `error`."""
    return {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}


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


def abort_connection(request: Request) -> None:
    """Close the connection of a response that has started and cannot be completed.

    Nothing else can still show the client that the response is incomplete.
    """
    cast(asyncio.Transport, request.transport).abort()
