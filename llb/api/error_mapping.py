"""Mapping of exceptions to llb errors, and of llb errors to HTTP statuses."""

from __future__ import annotations

import sqlite3

from sanic.exceptions import (
    HeaderExpectationFailed,
    InvalidHeader,
    MethodNotAllowed,
    RequestTimeout,
    SanicException,
)
from sanic.exceptions import NotFound as SanicNotFound
from sanic.exceptions import PayloadTooLarge as SanicPayloadTooLarge

from llb import errors
from llb.api.request_body import MAX_BODY_BYTES
from llb.store.sqlite_errors import describe_sqlite_error
from llb.texts.coded_text import CodedText

# The only place that gives an error its HTTP status. The nearest base class in the table counts.
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
    errors.RequestTimedOut: 408,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.UnknownHost: 421,
    errors.PermissionDenied: 403,
    errors.BudgetExceeded: 402,
    errors.RateLimited: 429,
    errors.InsufficientResources: 400,
    errors.InsufficientStorage: 507,
    errors.Unavailable: 503,
    errors.Overloaded: 503,
    errors.UpstreamError: 502,
    errors.EngineTimeout: 504,
    errors.EndpointUnavailable: 503,
    errors.EndpointTimeout: 504,
    errors.LlbError: 500,
}


def http_status_of(error: errors.LlbError) -> int:
    """Return the HTTP status of `error`."""
    return http_status_of_type(type(error))


def http_status_of_type(error_type: type[errors.LlbError]) -> int:
    """Return the HTTP status of the errors of `error_type`."""
    return next(HTTP_STATUS_BY_ERROR[base] for base in error_type.__mro__ if base in HTTP_STATUS_BY_ERROR)


def to_llb_error(error: Exception) -> errors.LlbError:
    """Map any exception that left a handler to an llb error.

    The message for an unexpected exception reveals nothing of it: it may hold paths, addresses or text of a
    request.
    """
    if isinstance(error, errors.LlbError):
        return error
    if isinstance(error, SanicNotFound):
        return errors.NotFound("No such address")
    if isinstance(error, MethodNotAllowed):
        return errors.InvalidRequest("Method not allowed at this address", code="method_not_allowed")
    if isinstance(error, SanicPayloadTooLarge):
        return errors.PayloadTooLarge(f"The request body is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(error, RequestTimeout):
        return errors.RequestTimedOut("The request did not arrive in time")
    if isinstance(error, (InvalidHeader, HeaderExpectationFailed)):
        return errors.InvalidRequest("The request is incomplete or malformed")
    if isinstance(error, SanicException) and error.status_code < 500:
        return errors.InvalidRequest("The request is malformed")
    if isinstance(error, sqlite3.Error) and (trouble := describe_sqlite_error(error)) is not None:
        return errors.DatabaseUnavailable(
            CodedText(
                "nothing_changed",
                "{cause}. Nothing was changed; try again once this is fixed",
                cause=trouble,
            )
        )
    return errors.InternalError("An internal error occurred; the log of this host has the details")
