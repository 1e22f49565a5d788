"""Every failure in the shape that its caller's client knows, by the path: what the guard refuses has it too."""

from __future__ import annotations

import logging
from typing import Any

from sanic import Request, Sanic
from sanic.exceptions import MethodNotAllowed
from sanic.response import HTTPResponse

from llb.api import anthropic, replies
from llb.api.replies import request_id, translate
from llb.errors import InternalError, LlbError

log = logging.getLogger(__name__)


def error_reply(error: LlbError, request: Request | None) -> HTTPResponse:
    """`error` as the answer to `request`."""
    if request is not None and anthropic.is_spoken(request.path):
        return anthropic.message_error_reply(error, request_id(request))
    return replies.error_reply(error)


def install_errors(app: Sanic[Any, Any]) -> None:
    """Give every failure of `app` an answer of the contract."""

    async def handle(request: Request | None, error: Exception) -> HTTPResponse:
        translated = translate(error)
        if isinstance(translated, InternalError):
            where = f"{request.method} {request.path}" if request is not None else "a request"
            log.error("%s failed", where, exc_info=error)
        answer = error_reply(translated, request)
        if isinstance(error, MethodNotAllowed):
            answer.status = 405
            answer.headers.extend(error.headers or {})
        return answer

    app.error_handler.add(Exception, handle)
