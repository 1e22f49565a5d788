"""Error handler: every error in the format of the dialect that its path belongs to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from sanic import Sanic
from sanic.constants import HTTP_METHODS
from sanic.exceptions import MethodNotAllowed, SanicException
from sanic.exceptions import NotFound as SanicNotFound
from sanic.response import HTTPResponse

from llb.api import responses
from llb.api.error_mapping import to_llb_error
from llb.api.head_facts import request_id_of
from llb.api.incoming_request import IncomingRequest
from llb.api.inference import anthropic
from llb.api.middleware.client_info import ClientInfo
from llb.api.responses import ErrorBodyBuilder, coded_error_body, error_body
from llb.errors import InternalError, LlbError, NotFound

ANTHROPIC_HEADER = "anthropic-version"
ErrorBodyBuilders = Mapping[str, ErrorBodyBuilder]
ErrorResponder = Callable[[Any, Exception], Coroutine[Any, Any, HTTPResponse]]

log = logging.getLogger(__name__)


def error_response_for_path(
    error: LlbError, request: IncomingRequest | None, body_builders: ErrorBodyBuilders
) -> HTTPResponse:
    """Return the response to `request`, in the format that the clients of its path expect."""
    if request is None:
        return responses.error_response(error)
    # Anthropic's clients send the header with every request, also to an address that does not exist.
    if anthropic.is_anthropic_path(request.path) or (
        isinstance(error, NotFound) and ANTHROPIC_HEADER in request.headers
    ):
        return anthropic.anthropic_error_response(error, request_id_of(request))
    builders = (builder for prefix, builder in body_builders.items() if request.path.startswith(prefix))
    own_builder = coded_error_body if request.path.startswith("/api/") else error_body
    return responses.error_response(error, next(builders, own_builder))


def install_error_handler(
    app: Sanic[Any, Any], body_builders: ErrorBodyBuilders = MappingProxyType({})
) -> ErrorResponder:
    """Answer the errors of `app`, with the body builder for the prefix of the path where there is one.

    Returns the function that builds the response to an error.
    """

    async def handle(request: IncomingRequest | None, error: Exception) -> HTTPResponse:
        llb_error = to_llb_error(error)
        if request is not None and isinstance(error, SanicNotFound):
            llb_error = _no_such_address(request)
        if isinstance(llb_error, InternalError):
            target = f"{request.method} {request.path}" if request is not None else "a request"
            log.error("%s failed", target, exc_info=error)
        response = error_response_for_path(llb_error, request, body_builders)
        if isinstance(error, MethodNotAllowed) and request is not None:
            response.status = 405
            methods = list(error.allowed_methods or _allowed_methods(app, request.path))
            if "GET" in methods and "HEAD" not in methods:
                methods.append("HEAD")
            response.headers["Allow"] = ", ".join(methods)
        return response

    app.error_handler.add(Exception, handle)
    return handle


def _no_such_address(request: IncomingRequest) -> NotFound:
    client: ClientInfo | None = getattr(request.ctx, "client", None)
    if client is None:
        return NotFound("No such address")
    url = client.base_url
    return NotFound(
        f"No such address. The base URL is {url}/v1 for OpenAI clients, and {url} for clients of Anthropic "
        "and Ollama"
    )


def _allowed_methods(app: Sanic[Any, Any], path: str) -> list[str]:
    """Return the methods of a path with parameters, for which Sanic's error does not list them."""
    allowed = []
    for method in HTTP_METHODS:
        with suppress(SanicException):
            app.router.get(path, method, None)
            allowed.append(str(method))
    return allowed
