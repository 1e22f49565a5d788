"""What a balancer may ask of the node that runs here: who it is, an answer of one of its engines, its memory back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable
from typing import cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.internode.proxy import InFlightCounter, proxy_response, select_headers
from llb.api.middleware.route_policy import node_only, public
from llb.api.query_params import float_query_param
from llb.api.responses import error_response, json_response, no_content
from llb.base.node_identity import Membership
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.engine_errors import NODE_ERROR_HEADER
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.stream.relay import error_from_transport_error
from llb.node.agent import NodeAgent
from llb.security import tokens

log = logging.getLogger(__name__)

FORWARDED_HEADERS = ("content-type", "x-request-id", "traceparent", "tracestate")
CONNECT_TIMEOUT_S = 5.0
HEADER_TIMEOUT_S = 3600.0  # the balancer's deadlines count, and end this connection
NONCE_MAX_CHARS = 128


def node_api_blueprint(
    agent: NodeAgent,
    http_client: HttpClient,
    in_flight: InFlightCounter,
    get_membership: Callable[[], Membership | None],
) -> Blueprint:
    """`/hop`."""
    blueprint = Blueprint("hop")

    @blueprint.get("/hop/proof", name="proof")
    @public
    async def proof(request: Request) -> HTTPResponse:
        """Shows whoever has dialled this address that it is the node they look for, before they show it a credential."""
        member, nonce = get_membership(), request.args.get("nonce") or ""
        if member is None or not is_valid_nonce(nonce):
            raise errors.InvalidRequest("There is nothing to prove")
        return json_response(
            {"proof": tokens.challenge_response(member.hop_credential, member.node_id, nonce)}
        )

    @blueprint.post("/hop/pulse", name="pulse", stream=True)
    @node_only
    async def pulse(request: Request) -> HTTPResponse:
        """A body that goes on for as long as the balancer cares: it feels this host's kernel, and waits for no answer."""
        async for _ in cast(AsyncIterable[bytes], request.stream):
            pass
        return no_content()

    @blueprint.post("/hop/v1/<path:path>", name="infer")
    @node_only
    async def infer(request: Request, path: str) -> HTTPResponse | None:
        try:
            with in_flight.track():
                return await _infer(request, path)
        except errors.LlbError as error:
            log.warning("a request for %s failed: %s", request.args.get("model"), error.message)
            answer = error_response(error)
            answer.headers[NODE_ERROR_HEADER.decode("ascii")] = error.code
            return answer

    async def _infer(request: Request, path: str) -> HTTPResponse | None:
        model_id = request.args.get("model") or ""
        async with await agent.acquire_lease(
            model_id,
            deadline_s=float_query_param(request, "load_s") or 60.0,
            keep_alive_s=float_query_param(request, "keep_alive_s"),
        ) as lease:
            try:
                response = await http_client.request(
                    UpstreamTarget(lease.host, lease.port, lease.api_key),
                    b"POST",
                    b"/v1/" + path.encode("ascii"),
                    select_headers(request, FORWARDED_HEADERS),
                    request.body,
                    connect_timeout_s=CONNECT_TIMEOUT_S,
                    header_timeout_s=HEADER_TIMEOUT_S,
                )
                log.debug("%s for %s: %s", path, model_id, response.status)
                return await proxy_response(request, response)
            except TransportError as fault:
                lease.report_suspected_failure()
                raise error_from_transport_error(fault) from fault

    @blueprint.post("/hop/models/<model_id:str>/load", name="load")
    @node_only
    async def load(_request: Request, model_id: str) -> HTTPResponse:
        await agent.load_model(model_id)
        return no_content()

    @blueprint.post("/hop/models/<model_id:str>/unload", name="unload")
    @node_only
    async def unload(_request: Request, model_id: str) -> HTTPResponse:
        await agent.unload_model(model_id)
        return no_content()

    return blueprint


def is_valid_nonce(text: str) -> bool:
    return 0 < len(text) <= NONCE_MAX_CHARS
