"""Every failure in the shape that its caller's client knows, by the path: what the guard refuses has it too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sanic import Request, Sanic
from sanic.exceptions import MethodNotAllowed
from sanic.response import HTTPResponse

from llb.api import anthropic, replies
from llb.api.replies import Shape, error_body, request_id, translate
from llb.errors import InternalError, LlbError

Shapes = Mapping[str, Shape]

log = logging.getLogger(__name__)


def error_reply(error: LlbError, request: Request | None, shapes: Shapes) -> HTTPResponse:
    """`error` as the answer to `request`."""
    if request is None:
        return replies.error_reply(error)
    if anthropic.is_spoken(request.path):
        return anthropic.message_error_reply(error, request_id(request))
    shape = next((shape for start, shape in shapes.items() if request.path.startswith(start)), error_body)
    return replies.error_reply(error, shape)


def install_errors(app: Sanic[Any, Any], shapes: Shapes = MappingProxyType({})) -> None:
    """Give every failure of `app` an answer of the contract, or the body of the first of `shapes` with whose key its path
    begins."""

    async def handle(request: Request | None, error: Exception) -> HTTPResponse:
        translated = translate(error)
        if isinstance(translated, InternalError):
            where = f"{request.method} {request.path}" if request is not None else "a request"
            log.error("%s failed", where, exc_info=error)
        answer = error_reply(translated, request, shapes)
        if isinstance(error, MethodNotAllowed):
            answer.status = 405
            answer.headers.extend(error.headers or {})
        return answer

    app.error_handler.add(Exception, handle)
