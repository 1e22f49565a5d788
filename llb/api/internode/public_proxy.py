"""Public proxy of a joined node: forwards inference requests to the balancer and redirects all others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import cast
from urllib.parse import quote, urlsplit

from sanic import Request
from sanic.response import HTTPResponse, redirect

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.connection.http_exchange import ServerHttp
from llb.api.head_facts import request_id_of
from llb.api.inference.ollama import JSON_LIKE_MEDIA_TYPES, OLLAMA_PATHS, PULL_PATH
from llb.api.internode.proxy import HEADER_TIMEOUT_S, InFlightCounter, proxy_response, select_headers
from llb.api.middleware.route_policy import proxied, public
from llb.api.request_body import MAX_BODY_BYTES
from llb.api.responses import JSON
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError

# The balancer checks the client's own credential: this host adds none.
FORWARDED_HEADERS = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-encoding",
    "content-type",
    "traceparent",
    "tracestate",
    # Two llbs that are endpoints of one another detect a loop by it.
    "via",
    "x-session-id",
)
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
RETURNED_HEADERS = (
    "request-id",
    "retry-after",
    "www-authenticate",
    "x-llb-ignored",
    "x-llb-node",
    "x-llb-queue-ms",
)
RETURNED_HEADER_PREFIXES = ("anthropic-ratelimit-", "x-ratelimit-")
# Keeps the balancer from treating a client of this host as a local program.
HOP_HEADER = (b"x-llb-hop", b"1")
CONNECT_TIMEOUT_S = 0.8
# A body up to this size is read first, and can be sent again where a connection turns out to be closed.
HELD_BODY_BYTES = 64 * 1024
FIRST_ERROR_STATUS = 400
PROXIED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ALL_METHODS = (*PROXIED_METHODS, "HEAD")
# Characters that are legal in a path, and the percent sign of those that are already quoted.
_PATH_SAFE_CHARS = "/%:@!$&'()*+,;=~"


def public_proxy_blueprint(
    balancer_url: str,
    get_trust_anchor: Callable[[], str],
    http_client: HttpClient,
    in_flight: InFlightCounter,
) -> Blueprint:
    """Routes of OpenAI's, Anthropic's and Ollama's dialects, and a redirect for all other paths."""
    blueprint = Blueprint("forward")
    parts = urlsplit(balancer_url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)

    async def forward(request: Request, path: str) -> None:
        target = UpstreamTarget(
            host,
            port,
            headers=(HOP_HEADER, *select_headers(request, CREDENTIAL_HEADERS)),
            trust_anchor=get_trust_anchor() if tls else None,
        )
        try:
            with in_flight.track():
                response = await _send(request, path, target, http_client)
                stream = cast(ServerHttp, request.stream)
                if response.status < FIRST_ERROR_STATUS:
                    stream.protocol.note_accepted()
                returned_headers = {
                    name: value.decode("latin-1")
                    for key, value in response.headers
                    if (name := key.decode("latin-1")) in RETURNED_HEADERS
                    or name.startswith(RETURNED_HEADER_PREFIXES)
                }
                await proxy_response(request, response, headers=returned_headers)
        except TransportError:
            raise errors.NoNodeAvailable(
                "This host has joined another llb, which does not respond at the moment"
            ) from None

    @proxied((JSON,))
    async def infer(request: Request, path: str) -> None:
        await forward(request, f"/v1/{path}")

    @proxied(JSON_LIKE_MEDIA_TYPES)
    async def ollama(request: Request) -> None:
        await forward(request, request.path)

    @public
    async def redirect_to_balancer(request: Request, path: str = "") -> HTTPResponse:
        return redirect(balancer_url + _request_target(f"/{path}", request), status=307)

    blueprint.add_route(infer, "/v1/<path:path>", methods=PROXIED_METHODS, name="infer", stream=True)
    # Not redirected: clients that follow a redirect to another host do not send their key along.
    for path in (*OLLAMA_PATHS, PULL_PATH):
        blueprint.add_route(
            ollama, path, methods=("GET", "POST"), name=path.removeprefix("/api/"), stream=True
        )
    blueprint.add_route(redirect_to_balancer, "/", methods=ALL_METHODS, name="root")
    blueprint.add_route(redirect_to_balancer, "/<path:path>", methods=ALL_METHODS, name="rest")
    return blueprint


async def _send(
    request: Request, path: str, target: UpstreamTarget, http_client: HttpClient
) -> UpstreamResponse:
    """Send the request on; a large body passes through and is never held. Raises `TransportError`."""
    stream = cast(ServerHttp, request.stream)
    method, request_target = request.method.encode("ascii"), _request_target(path, request).encode("ascii")
    request_id = (b"x-request-id", request_id_of(request).encode("ascii"))
    headers = (request_id, *select_headers(request, FORWARDED_HEADERS))
    # Sanic lifts the limit for handlers that read the body themselves.
    stream.request_max_size = MAX_BODY_BYTES
    body_bytes = None if stream.request_body == "chunked" else stream.request_bytes
    if body_bytes is not None and body_bytes <= HELD_BODY_BYTES:
        body = await stream.receive_body(request.app.ctx.connections.body_budget.open(None))
        stream.release_body()
        return await http_client.request(
            target,
            method,
            request_target,
            headers,
            body,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            header_timeout_s=HEADER_TIMEOUT_S,
        )
    if body_bytes is not None and body_bytes > MAX_BODY_BYTES:
        raise errors.PayloadTooLarge(f"The request body is larger than {MAX_BODY_BYTES} bytes")
    return await http_client.request_streamed(
        target,
        method,
        request_target,
        headers,
        _read_accepted_body(stream),
        body_bytes=body_bytes,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        header_timeout_s=HEADER_TIMEOUT_S,
    )


async def _read_accepted_body(stream: ServerHttp) -> AsyncIterator[bytes]:
    """Yield the body of a request whose head the balancer has accepted."""
    stream.protocol.note_accepted()
    async for data in stream.iter_body():
        yield data


def _request_target(path: str, request: Request) -> str:
    """Return `path` with the query of `request`, with all characters quoted that are illegal there."""
    query = f"?{quote(request.query_string, safe='/?%:@!$&()*+,;=~')}" if request.query_string else ""
    return quote(path, safe=_PATH_SAFE_CHARS) + query
