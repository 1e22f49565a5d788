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

from llb.api import responses
from llb.api.error_mapping import to_llb_error
from llb.api.inference import anthropic
from llb.api.request_id import request_id_of
from llb.api.responses import ErrorBodyBuilder, error_body
from llb.errors import InternalError, LlbError

ErrorBodyBuilders = Mapping[str, ErrorBodyBuilder]

log = logging.getLogger(__name__)


def error_response_for_path(
    error: LlbError, request: Request | None, body_builders: ErrorBodyBuilders
) -> HTTPResponse:
    """`error` as the answer to `request`."""
    if request is None:
        return responses.error_response(error)
    if anthropic.is_anthropic_path(request.path):
        return anthropic.anthropic_error_response(error, request_id_of(request))
    shape = next(
        (shape for start, shape in body_builders.items() if request.path.startswith(start)), error_body
    )
    return responses.error_response(error, shape)


def install_error_handler(
    app: Sanic[Any, Any], body_builders: ErrorBodyBuilders = MappingProxyType({})
) -> None:
    """Give every failure of `app` an answer of the contract, or the body of the first of `shapes` with whose key its path
    begins."""

    async def handle(request: Request | None, error: Exception) -> HTTPResponse:
        translated = to_llb_error(error)
        if isinstance(translated, InternalError):
            where = f"{request.method} {request.path}" if request is not None else "a request"
            log.error("%s failed", where, exc_info=error)
        answer = error_response_for_path(translated, request, body_builders)
        if isinstance(error, MethodNotAllowed) and request is not None:
            answer.status = 405
            methods = error.allowed_methods or _allowed_methods(app, request.path)
            answer.headers["Allow"] = ", ".join(methods)
        return answer

    app.error_handler.add(Exception, handle)


def _allowed_methods(app: Sanic[Any, Any], path: str) -> list[str]:
    """Those of a path with something variable in it: for these Sanic does not say."""
    known = []
    for method in HTTP_METHODS:
        with suppress(SanicException):
            app.router.get(path, method, None)
            known.append(str(method))
    return known
