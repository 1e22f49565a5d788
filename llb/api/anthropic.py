"""Anthropic's dialect: llama-server speaks it too; what is llb's own here are the errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import requires
from llb.api.blueprint import Blueprint
from llb.api.inference import Dialect, Inference
from llb.api.replies import error_headers, reply, request_id, status_of
from llb.api.shapes_anthropic import MESSAGES, OVERLOADED_STATUS
from llb.errors import EngineFailed, LlbError, Overloaded
from llb.wire import Scope

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
PREFIX = PATHS[0]
REQUEST_ID_HEADER = "request-id"  # where its clients look for it
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED_STATUS: "overloaded_error",
}
_ERROR = b"event: error\n"


def anthropic_blueprint(inference: Inference) -> Blueprint:
    """`/v1/messages`."""
    blueprint = Blueprint("anthropic")

    @requires(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        own_id = request_id(request)
        await inference.answer(
            request,
            Dialect(
                error_event=partial(message_error_event, own_id=own_id),
                status_of=message_status,
                headers={REQUEST_ID_HEADER: own_id},
                retouch=partial(retouched, own_id=own_id),
            ),
        )

    for path in PATHS:
        blueprint.add_route(
            infer, path, methods=["POST"], name=path.rpartition("/")[2], ctx_documented=MESSAGES[path]
        )
    return blueprint


def is_spoken(path: str) -> bool:
    """Whether whoever calls this path expects errors in this dialect."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def message_status(error: LlbError) -> int:
    """The HTTP status of `error` in this dialect."""
    return OVERLOADED_STATUS if isinstance(error, Overloaded) else status_of(error)


def message_error(error: LlbError, own_id: str) -> dict[str, Any]:
    """`error` in this dialect's shape, with our code and details besides."""
    status = message_status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code, **error.details},
        "request_id": own_id,
    }


def message_error_reply(error: LlbError, own_id: str) -> HTTPResponse:
    headers = {**error_headers(error), REQUEST_ID_HEADER: own_id}
    return reply(message_error(error, own_id), message_status(error), headers)


def message_error_event(error: LlbError, *, own_id: str) -> bytes:
    """An error inside a stream."""
    return _ERROR + b"data: " + msgspec.json.encode(message_error(error, own_id)) + b"\n\n"


def retouched(data: bytes, *, own_id: str) -> bytes:
    """The engine's own error event lacks what makes it one of this dialect; all else is as it should be."""
    at = data.rfind(_ERROR)
    if at < 0 or b'"request_id":' in data[at:]:  # what an answer says cannot look so: in JSON no line ends
        return data
    error = EngineFailed("The engine ended its answer with an error")
    return data[:at] + message_error_event(error, own_id=own_id)
