"""Answers: JSON from wire types, and errors in the contract's own shape."""

from __future__ import annotations

import itertools
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from sanic import Request
from sanic.exceptions import (
    HeaderExpectationFailed,
    InvalidHeader,
    MethodNotAllowed,
    RequestTimeout,
    SanicException,
)
from sanic.exceptions import NotFound as SanicNotFound
from sanic.exceptions import (
    PayloadTooLarge as SanicPayloadTooLarge,
)
from sanic.response import HTTPResponse

from llb import errors
from llb.store.sqlite_errors import trouble_of
from llb.wire.decoding import DECODE_ERRORS

T = TypeVar("T")

JSON = "application/json"
MAX_BODY_BYTES = 64 * 1024 * 1024  # images travel inside the body
_encoder = msgspec.json.Encoder()
# An id has to be another than every other, and need not be a secret: asking the system for chance takes a tenth of a request.
_REQUEST_ID_PREFIX = secrets.token_hex(4)
_request_numbers = itertools.count(1)
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")

# The one place where an error gets its HTTP status; the nearest class of the tree counts.
HTTP_STATUS_BY_ERROR: dict[type[errors.LlbError], int] = {
    errors.InvalidRequest: 400,
    errors.InvalidApiKey: 401,
    errors.InvalidCredentials: 401,
    errors.InvalidFileToken: 401,
    errors.ModelNotFound: 404,
    errors.ModelNotRegistered: 404,
    errors.NotFound: 404,
    errors.UnsupportedOperation: 501,
    errors.RangeNotAvailable: 416,
    errors.AlreadyRegistered: 409,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.UnknownHost: 421,
    errors.PermissionDenied: 403,
    errors.RateLimited: 429,
    errors.InsufficientResources: 400,
    errors.InsufficientStorage: 507,
    errors.Unavailable: 503,
    errors.Overloaded: 503,
    errors.UpstreamError: 502,
    errors.EngineTimeout: 504,
    errors.LlbError: 500,
}


def http_status_of(error: errors.LlbError) -> int:
    return http_status_of_type(type(error))


def http_status_of_type(error_type: type[errors.LlbError]) -> int:
    return next(HTTP_STATUS_BY_ERROR[each] for each in error_type.__mro__ if each in HTTP_STATUS_BY_ERROR)


def request_id_of(request: Request) -> str:
    """The id of this request: the caller's if it is sane, else a new one; the same at every call."""
    known: str | None = getattr(request.ctx, "request_id", None)
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = (
            given
            if _REQUEST_ID_PATTERN.fullmatch(given)
            else f"{_REQUEST_ID_PREFIX}{next(_request_numbers):08x}"
        )
        request.ctx.request_id = known
    return known


class PassthroughResponse(HTTPResponse):
    """An answer that comes from elsewhere: of its headers all but one or two are the same every time, and encoded once.
    `fixed` are further ones, which no passed answer brings."""

    __slots__ = ("fixed_headers",)

    def __init__(self, *, status: int = 200, headers: Mapping[str, str], content_type: str) -> None:
        super().__init__(status=status, headers={**headers}, content_type=content_type)
        self.fixed_headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        self.headers.setdefault("content-type", self.content_type)
        return iter(
            [*self.fixed_headers, *[_cached_header(name, f"{value}") for name, value in self.headers.items()]]
        )

    @staticmethod
    def encode_header(name: str, value: str) -> tuple[bytes, bytes]:
        """A header as it is written; what could end its line is taken out."""
        clean = HTTPResponse._sanitize_header_value
        return clean(name).encode("ascii"), clean(value).encode(errors="surrogateescape")


_cached_header = lru_cache(maxsize=1024)(PassthroughResponse.encode_header)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    return HTTPResponse(_encoder.encode(value), status=status, headers=headers, content_type=JSON)


def no_content() -> HTTPResponse:
    return HTTPResponse(status=204)


def error_body(error: errors.LlbError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "code": error.code, **error.details}}


def error_headers(error: errors.LlbError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if http_status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


ErrorBodyBuilder = Callable[[errors.LlbError], object]


def error_response(error: errors.LlbError, build_body: ErrorBodyBuilder = error_body) -> HTTPResponse:
    return json_response(build_body(error), http_status_of(error), error_headers(error))


def parse_body(request: Request, body_type: type[T]) -> T:
    """The request's JSON body as a `kind`; raises `InvalidRequest` whose `param` names the field."""
    return decode_json(request.body, body_type)


def decode_json(raw: bytes, value_type: type[T]) -> T:
    try:
        return msgspec.json.decode(raw or b"", type=value_type)
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"(?:at `\$\.([^`]+)`|field `([^`]+)`)", text)
        param = next((group for group in found.groups() if group), None) if found else None
        raise errors.InvalidRequest(f"The request body is not valid: {text}", param=param) from None
    except DECODE_ERRORS as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise errors.InvalidRequest(
            f"The request body is not valid JSON: {reason}", code="invalid_json", param=None
        ) from None


def int_query_param(request: Request, name: str, maximum: int) -> int | None:
    """The whole number from 1 to `high` that the query gives for `name`, None without one; raises `InvalidRequest`."""
    text = request.args.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= maximum):
        raise errors.InvalidRequest(f"{name} is not a number from 1 to {maximum}", param=name)
    return int(text)


def to_llb_error(error: Exception) -> errors.LlbError:
    """Any exception that left a handler, as an error of the contract; what is not ours says nothing of its inside."""
    if isinstance(error, errors.LlbError):
        return error
    if isinstance(error, SanicNotFound):
        return errors.NotFound("There is nothing at this address")
    if isinstance(error, MethodNotAllowed):
        return errors.InvalidRequest("This address does not know that method", code="method_not_allowed")
    if isinstance(error, SanicPayloadTooLarge):
        return errors.PayloadTooLarge(f"A request has at most {MAX_BODY_BYTES} bytes")
    if isinstance(error, (RequestTimeout, InvalidHeader, HeaderExpectationFailed)):
        return errors.InvalidRequest("The request is incomplete or malformed")
    if isinstance(error, SanicException) and error.status_code < 500:
        return errors.InvalidRequest("The request is malformed")
    if isinstance(error, sqlite3.Error) and (trouble := trouble_of(error)) is not None:
        return errors.DatabaseUnavailable(f"{trouble}; nothing was changed. Try again when that is mended")
    return errors.InternalError("An internal error occurred; the log of this host has the details")
