"""The door of a joined host for everybody else: `/v1` and what Ollama's clients ask is answered through the balancer, all else
leads there."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlsplit

from sanic import Request
from sanic.response import HTTPResponse, redirect

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.inference.ollama import JSON_LIKE_MEDIA_TYPES, OLLAMA_PATHS, PULL_PATH
from llb.api.internode.proxy import InFlightCounter, proxy_response, select_headers
from llb.api.middleware.route_policy import proxied, public
from llb.api.request_id import request_id_of
from llb.api.responses import JSON
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import TransportError

# The caller's own credential decides at the balancer; nothing of this host's is added.
FORWARDED_HEADERS = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "traceparent",
    "tracestate",
    "x-session-id",
)
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
RETURNED_HEADERS = ("request-id", "retry-after", "www-authenticate", "x-llb-node", "x-llb-queue-ms")
RETURNED_HEADER_PREFIX = "x-ratelimit-"
HOP_HEADER = (b"x-llb-hop", b"1")  # a caller of this host is never a local one of the balancer
CONNECT_TIMEOUT_S = 0.8
HEADER_TIMEOUT_S = 3600.0
PROXIED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ALL_METHODS = (*PROXIED_METHODS, "HEAD")
_PATH_SAFE_CHARS = "/%:@!$&'()*+,;=~"  # what may stand in a path as it is, and what is quoted already


def public_proxy_blueprint(
    balancer_url: str,
    get_trust_anchor: Callable[[], str],
    http_client: HttpClient,
    in_flight: InFlightCounter,
) -> Blueprint:
    """`/v1/…`, `/api/chat` and its like, and everything that nothing else answers."""
    blueprint = Blueprint("forward")
    parts = urlsplit(balancer_url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)

    async def ask(request: Request, path: str) -> HTTPResponse | None:
        target = UpstreamTarget(
            host,
            port,
            headers=(HOP_HEADER, *select_headers(request, CREDENTIAL_HEADERS)),
            trust_anchor=get_trust_anchor() if tls else None,
        )
        own_id = (b"x-request-id", request_id_of(request).encode("ascii"))
        try:
            with in_flight.track():
                response = await http_client.request(
                    target,
                    request.method.encode("ascii"),
                    _request_target(path, request).encode("ascii"),
                    (own_id, *select_headers(request, FORWARDED_HEADERS)),
                    request.body,
                    connect_timeout_s=CONNECT_TIMEOUT_S,
                    header_timeout_s=HEADER_TIMEOUT_S,
                )
                back = {
                    name: value.decode("latin-1")
                    for key, value in response.headers
                    if (name := key.decode("latin-1")) in RETURNED_HEADERS
                    or name.startswith(RETURNED_HEADER_PREFIX)
                }
                return await proxy_response(request, response, headers=back)
        except TransportError:
            raise errors.NoNodeAvailable(
                "This host lends itself to another llb, which does not answer at the moment"
            ) from None

    @proxied((JSON,))
    async def infer(request: Request, path: str) -> HTTPResponse | None:
        return await ask(request, f"/v1/{path}")

    @proxied(JSON_LIKE_MEDIA_TYPES)
    async def ollama(request: Request) -> HTTPResponse | None:
        return await ask(request, request.path)

    @public
    async def lead_on(request: Request, path: str = "") -> HTTPResponse:
        return redirect(balancer_url + _request_target(f"/{path}", request), status=307)

    blueprint.add_route(infer, "/v1/<path:path>", methods=PROXIED_METHODS, name="infer")
    for path in (
        *OLLAMA_PATHS,
        PULL_PATH,
    ):  # a client that follows a redirection to another host does not take its key along
        blueprint.add_route(ollama, path, methods=("GET", "POST"), name=path.removeprefix("/api/"))
    blueprint.add_route(lead_on, "/", methods=ALL_METHODS, name="root")
    blueprint.add_route(lead_on, "/<path:path>", methods=ALL_METHODS, name="rest")
    return blueprint


def _request_target(path: str, request: Request) -> str:
    """`path` and the query of `request`, of nothing but characters that may stand there."""
    query = f"?{quote(request.query_string, safe='/?%:@!$&()*+,;=~')}" if request.query_string else ""
    return quote(path, safe=_PATH_SAFE_CHARS) + query
