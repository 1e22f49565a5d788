"""Every failure in the shape that its caller's client knows, by the path: what the guard refuses has it too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from sanic import Request, Sanic
from sanic.constants import HTTP_METHODS
from sanic.exceptions import MethodNotAllowed, SanicException
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
        if isinstance(error, MethodNotAllowed) and request is not None:
            answer.status = 405
            methods = error.allowed_methods or _known_methods(app, request.path)
            answer.headers["Allow"] = ", ".join(methods)
        return answer

    app.error_handler.add(Exception, handle)


def _known_methods(app: Sanic[Any, Any], path: str) -> list[str]:
    """Those of a path with something variable in it: for these Sanic does not say."""
    known = []
    for method in HTTP_METHODS:
        with suppress(SanicException):
            app.router.get(path, method, None)
            known.append(str(method))
    return known
