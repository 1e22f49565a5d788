"""The door of a joined host for everybody else: `/v1` is answered through the balancer, all else leads there."""

from __future__ import annotations

from urllib.parse import urlsplit

from sanic import Blueprint, Request
from sanic.response import HTTPResponse, redirect

from llb import errors
from llb.api.access import public
from llb.api.passing import forwarded, pass_on
from llb.gateway.faults import UpstreamFault
from llb.gateway.upstream import Target, Upstream

# The caller's own credential decides at the balancer; nothing of this host's is added.
FORWARDED = (
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "traceparent",
    "x-request-id",
    "x-session-id",
)
PASSED_BACK = ("retry-after", "www-authenticate", "x-llb-node", "x-llb-queue-ms", "x-request-id")
CREDENTIALS = ("authorization", "x-api-key")
HOP = (b"x-llb-hop", b"1")  # a caller of this host is never a local one of the balancer
CONNECT_TIMEOUT_S = 2.0
HEADER_TIMEOUT_S = 3600.0
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def forward_blueprint(balancer_url: str, upstream: Upstream) -> Blueprint:
    """`/v1/…`, and everything that nothing else answers."""
    blueprint = Blueprint("forward")
    parts = urlsplit(balancer_url)
    host, port = parts.hostname or "", parts.port or 80

    @public
    async def infer(request: Request, path: str) -> HTTPResponse | None:
        target = Target(host, port, headers=(HOP, *forwarded(request, CREDENTIALS)))
        query = f"?{request.query_string}" if request.query_string else ""
        try:
            response = await upstream.request(
                target,
                request.method.encode("ascii"),
                f"/v1/{path}{query}".encode("ascii"),
                forwarded(request, FORWARDED),
                request.body,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=HEADER_TIMEOUT_S,
            )
            back = {
                name.decode("ascii"): value.decode("latin-1")
                for name, value in response.headers
                if name.decode("ascii") in PASSED_BACK
            }
            return await pass_on(request, response, headers=back)
        except UpstreamFault:
            raise errors.NoNodeAvailable(
                "This host lends itself to another llb, which does not answer at the moment"
            ) from None

    @public
    async def lead_on(request: Request, path: str) -> HTTPResponse:
        query = f"?{request.query_string}" if request.query_string else ""
        return redirect(f"{balancer_url}/{path}{query}", status=307)

    blueprint.add_route(infer, "/v1/<path:path>", methods=METHODS, name="infer")
    blueprint.add_route(lead_on, "/<path:path>", methods=METHODS, name="rest")
    return blueprint
