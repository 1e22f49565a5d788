"""Anthropic's dialect: llama-server speaks it too; what is llb's own here are the errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.error_mapping import http_status_of
from llb.api.inference.handler import DialectHooks, InferenceHandler
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.schemas.anthropic import MESSAGES_OPERATIONS, OVERLOADED_STATUS
from llb.api.request_id import request_id_of
from llb.api.responses import error_headers, json_response
from llb.errors import EngineFailed, LlbError, Overloaded
from llb.wire import Scope

ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")
MESSAGES_PREFIX = ANTHROPIC_PATHS[0]
REQUEST_ID_HEADER = "request-id"  # where its clients look for it
_ERROR_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED_STATUS: "overloaded_error",
}
_ERROR_EVENT_LINE = b"event: error\n"


def anthropic_blueprint(handler: InferenceHandler) -> Blueprint:
    """`/v1/messages`."""
    blueprint = Blueprint("anthropic")

    @requires_scope(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        own_id = request_id_of(request)
        await handler.handle(
            request,
            DialectHooks(
                format_error_event=partial(anthropic_error_event, request_id=own_id),
                http_status_of=anthropic_http_status_of,
                response_headers={REQUEST_ID_HEADER: own_id},
                rewrite_events=partial(rewrite_error_event, request_id=own_id),
            ),
        )

    for path in ANTHROPIC_PATHS:
        blueprint.add_route(
            infer,
            path,
            methods=["POST"],
            name=path.rpartition("/")[2],
            ctx_operation=MESSAGES_OPERATIONS[path],
        )
    return blueprint


def is_anthropic_path(path: str) -> bool:
    """Whether whoever calls this path expects errors in this dialect."""
    return path == MESSAGES_PREFIX or path.startswith(MESSAGES_PREFIX + "/")


def anthropic_http_status_of(error: LlbError) -> int:
    """The HTTP status of `error` in this dialect."""
    return OVERLOADED_STATUS if isinstance(error, Overloaded) else http_status_of(error)


def anthropic_error_body(error: LlbError, request_id: str) -> dict[str, Any]:
    """`error` in this dialect's shape, with our code and details besides."""
    status = anthropic_http_status_of(error)
    kind = _ERROR_TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code, **error.details},
        "request_id": request_id,
    }


def anthropic_error_response(error: LlbError, request_id: str) -> HTTPResponse:
    headers = {**error_headers(error), REQUEST_ID_HEADER: request_id}
    return json_response(anthropic_error_body(error, request_id), anthropic_http_status_of(error), headers)


def anthropic_error_event(error: LlbError, *, request_id: str) -> bytes:
    """An error inside a stream."""
    return (
        _ERROR_EVENT_LINE + b"data: " + msgspec.json.encode(anthropic_error_body(error, request_id)) + b"\n\n"
    )


def rewrite_error_event(data: bytes, *, request_id: str) -> bytes:
    """The engine's own error event lacks what makes it one of this dialect; all else is as it should be."""
    at = data.rfind(_ERROR_EVENT_LINE)
    if at < 0 or b'"request_id":' in data[at:]:  # what an answer says cannot look so: in JSON no line ends
        return data
    error = EngineFailed("The engine ended its answer with an error")
    return data[:at] + anthropic_error_event(error, request_id=request_id)
