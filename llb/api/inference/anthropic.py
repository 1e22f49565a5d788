"""Anthropic's dialect. llama-server implements it; llb adds the error format."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.error_mapping import http_status_of
from llb.api.head_facts import request_id_of
from llb.api.inference.handler import DialectHooks, InferenceHandler
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.schemas.anthropic import MESSAGES_OPERATIONS, OVERLOADED_STATUS
from llb.api.responses import error_headers, json_response
from llb.errors import EngineFailed, LlbError, Overloaded
from llb.gateway.dialects.structured_messages import read_structured_messages
from llb.gateway.stream.sse import format_event
from llb.wire import Scope

ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")
MESSAGES_PREFIX = ANTHROPIC_PATHS[0]
# The header in which Anthropic's clients expect the request id.
REQUEST_ID_HEADER = "request-id"
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
# Text of the answer cannot match: JSON escapes quotes. Ids and names of tools have no braces.
_TOOL_USE_START = b'"content_block":{"type":"tool_use"'
_TOOL_USE_WITHOUT_INPUT = re.compile(rb'("content_block":\{"type":"tool_use"[^{}]*)\}')
# Sent instead of comments, which some readers of Server-Sent Events do not ignore.
PING_EVENT = format_event(b'{"type": "ping"}', b"ping")


def anthropic_blueprint(handler: InferenceHandler) -> Blueprint:
    """Routes of `/v1/messages`."""
    blueprint = Blueprint("anthropic")

    @requires_scope(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        request_id = request_id_of(request)
        await handler.handle(
            request,
            DialectHooks(
                reroute=read_structured_messages if request.path == MESSAGES_PREFIX else None,
                format_error_event=partial(anthropic_error_event, request_id=request_id),
                http_status_of=anthropic_http_status_of,
                response_headers={REQUEST_ID_HEADER: request_id},
                rewrite_events=partial(complete_events, request_id=request_id),
                keepalive=PING_EVENT,
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
    """Whether clients of this path expect errors in Anthropic's format."""
    return path == MESSAGES_PREFIX or path.startswith(MESSAGES_PREFIX + "/")


def anthropic_http_status_of(error: LlbError) -> int:
    """Return the HTTP status of `error` in Anthropic's API."""
    return OVERLOADED_STATUS if isinstance(error, Overloaded) else http_status_of(error)


def anthropic_error_body(error: LlbError, request_id: str) -> dict[str, Any]:
    """Return the body of `error` in Anthropic's format, with llb's code and details as extra fields."""
    status = anthropic_http_status_of(error)
    kind = _ERROR_TYPE_BY_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code, **error.details},
        "request_id": request_id,
    }


def anthropic_error_response(error: LlbError, request_id: str) -> HTTPResponse:
    """Return the response to `error` in Anthropic's format."""
    headers = {**error_headers(error), REQUEST_ID_HEADER: request_id}
    return json_response(anthropic_error_body(error, request_id), anthropic_http_status_of(error), headers)


def anthropic_error_event(error: LlbError, *, request_id: str) -> bytes:
    """Return `error` as an SSE event."""
    return format_event(msgspec.json.encode(anthropic_error_body(error, request_id)), b"error")


def complete_events(data: bytes, *, request_id: str) -> bytes:
    """Add to events of the engine the fields that they lack and Anthropic's format has."""
    if _TOOL_USE_START in data:
        data = _TOOL_USE_WITHOUT_INPUT.sub(rb'\1,"input":{}}', data)
    return rewrite_error_event(data, request_id=request_id)


def rewrite_error_event(data: bytes, *, request_id: str) -> bytes:
    """Replace an error event of the engine, which lacks fields that Anthropic's format has."""
    at = data.rfind(_ERROR_EVENT_LINE)
    # Text of the answer cannot match: JSON escapes line breaks and quotes.
    if at < 0 or b'"request_id":' in data[at:]:
        return data
    error = EngineFailed("The engine ended its answer with an error")
    return data[:at] + anthropic_error_event(error, request_id=request_id)
