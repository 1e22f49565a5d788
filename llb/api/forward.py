"""The door of a joined host for everybody else: `/v1` and what Ollama's clients ask is answered through the balancer, all else
leads there."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlsplit

from sanic import Request
from sanic.response import HTTPResponse, redirect

from llb import errors
from llb.api.access import passed_on, public
from llb.api.blueprint import Blueprint
from llb.api.ollama import BODIES, PATHS, PULL
from llb.api.passing import Ongoing, forwarded, pass_on
from llb.api.replies import JSON, request_id
from llb.gateway.faults import UpstreamFault
from llb.gateway.upstream import Target, Upstream

# The caller's own credential decides at the balancer; nothing of this host's is added.
FORWARDED = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "traceparent",
    "tracestate",
    "x-session-id",
)
CREDENTIALS = ("authorization", "x-api-key")
PASSED_BACK = ("request-id", "retry-after", "www-authenticate", "x-llb-node", "x-llb-queue-ms")
PASSED_BACK_PREFIX = "x-ratelimit-"
HOP = (b"x-llb-hop", b"1")  # a caller of this host is never a local one of the balancer
CONNECT_TIMEOUT_S = 0.8
HEADER_TIMEOUT_S = 3600.0
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EVERY_METHOD = (*METHODS, "HEAD")
_IN_PATHS = "/%:@!$&'()*+,;=~"  # what may stand in a path as it is, and what is quoted already


def forward_blueprint(
    balancer_url: str, anchor: Callable[[], str], upstream: Upstream, ongoing: Ongoing
) -> Blueprint:
    """`/v1/…`, `/api/chat` and its like, and everything that nothing else answers."""
    blueprint = Blueprint("forward")
    parts = urlsplit(balancer_url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)

    async def ask(request: Request, path: str) -> HTTPResponse | None:
        target = Target(
            host,
            port,
            headers=(HOP, *forwarded(request, CREDENTIALS)),
            trust=anchor() if tls else None,
        )
        own_id = (b"x-request-id", request_id(request).encode("ascii"))
        try:
            with ongoing.one():
                response = await upstream.request(
                    target,
                    request.method.encode("ascii"),
                    _address(path, request).encode("ascii"),
                    (own_id, *forwarded(request, FORWARDED)),
                    request.body,
                    connect_timeout_s=CONNECT_TIMEOUT_S,
                    header_timeout_s=HEADER_TIMEOUT_S,
                )
                back = {
                    name: value.decode("latin-1")
                    for key, value in response.headers
                    if (name := key.decode("latin-1")) in PASSED_BACK or name.startswith(PASSED_BACK_PREFIX)
                }
                return await pass_on(request, response, headers=back)
        except UpstreamFault:
            raise errors.NoNodeAvailable(
                "This host lends itself to another llb, which does not answer at the moment"
            ) from None

    @passed_on((JSON,))
    async def infer(request: Request, path: str) -> HTTPResponse | None:
        return await ask(request, f"/v1/{path}")

    @passed_on(BODIES)
    async def ollama(request: Request) -> HTTPResponse | None:
        return await ask(request, request.path)

    @public
    async def lead_on(request: Request, path: str = "") -> HTTPResponse:
        return redirect(balancer_url + _address(f"/{path}", request), status=307)

    blueprint.add_route(infer, "/v1/<path:path>", methods=METHODS, name="infer")
    for path in (
        *PATHS,
        PULL,
    ):  # a client that follows a redirection to another host does not take its key along
        blueprint.add_route(ollama, path, methods=("GET", "POST"), name=path.removeprefix("/api/"))
    blueprint.add_route(lead_on, "/", methods=EVERY_METHOD, name="root")
    blueprint.add_route(lead_on, "/<path:path>", methods=EVERY_METHOD, name="rest")
    return blueprint


def _address(path: str, request: Request) -> str:
    """`path` and the query of `request`, of nothing but characters that may stand there."""
    query = f"?{quote(request.query_string, safe='/?%:@!$&()*+,;=~')}" if request.query_string else ""
    return quote(path, safe=_IN_PATHS) + query
