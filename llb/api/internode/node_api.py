"""Node API: routes for a balancer to verify this node, send it inference requests and manage its models."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable, Coroutine
from functools import wraps
from typing import Any, cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.internode.proxy import HEADER_TIMEOUT_S, InFlightCounter, proxy_response, select_headers
from llb.api.middleware.route_policy import node_only, public
from llb.api.query_params import float_query_param
from llb.api.request_body import parse_body
from llb.api.responses import error_response, json_response, no_content
from llb.base.node_identity import Membership
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.gateway.attempt import ENGINE_END_TIMEOUT_S
from llb.gateway.engine_request import target_of
from llb.gateway.http.client import HttpClient
from llb.gateway.http.engine_errors import NODE_ERROR_HEADER, error_from_blame
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.stream.relay import error_from_transport_error
from llb.node.agent import NodeAgent
from llb.policy.keep_alive import KeepAlive
from llb.security import tokens
from llb.wire import LoadOptions

log = logging.getLogger(__name__)

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]

HOP_ROUTE = "/hop/v1/<path:path>"
# Its usual addresses, which need no search for a route.
HOP_PATHS = ("chat/completions", "completions", "messages", "responses", "embeddings", "rerank")
FORWARDED_HEADERS = ("content-type", "traceparent", "tracestate")
CONNECT_TIMEOUT_S = 5.0
# Longest load for a balancer that names no time.
DEFAULT_LOAD_S = 60.0
NONCE_MAX_CHARS = 128


def node_api_blueprint(
    agent: NodeAgent,
    http_client: HttpClient,
    in_flight: InFlightCounter,
    get_membership: Callable[[], Membership | None],
) -> Blueprint:
    """Routes of `/hop`."""
    blueprint = Blueprint("hop")

    @blueprint.get("/hop/proof", name="proof")
    @public
    async def proof(request: Request) -> HTTPResponse:
        """Prove the identity of this node to a balancer, before the balancer sends it a credential."""
        membership, nonce = get_membership(), request.args.get("nonce") or ""
        if membership is None or not is_valid_nonce(nonce):
            raise errors.InvalidRequest("This host is no node, or the nonce is not valid")
        return json_response(
            {"proof": tokens.challenge_response(membership.hop_credential, membership.node_id, nonce)}
        )

    @blueprint.post("/hop/pulse", name="pulse", stream=True)
    @node_only
    async def pulse(request: Request) -> HTTPResponse:
        """Read an endless body: it lets the balancer probe the kernel of this host, without a response."""
        async for _ in cast(AsyncIterable[bytes], request.stream):
            pass
        return no_content()

    @blueprint.post(HOP_ROUTE, name="infer")
    @node_only
    @_answers_node_errors
    async def infer(request: Request, path: str) -> HTTPResponse | None:
        with in_flight.track():
            return await _relay_to_engine(request, path, agent, http_client)

    _add_model_routes(blueprint, agent)
    return blueprint


def _add_model_routes(blueprint: Blueprint, agent: NodeAgent) -> None:
    @blueprint.post("/hop/models/<model_id:str>/load", name="load")
    @node_only
    @_answers_node_errors
    async def load(request: Request, model_id: str) -> HTTPResponse:
        options = parse_body(request, LoadOptions) if request.body else None
        await agent.load_model(model_id, options)
        return no_content()

    @blueprint.post("/hop/models/<model_id:str>/unload", name="unload")
    @node_only
    @_answers_node_errors
    async def unload(_request: Request, model_id: str) -> HTTPResponse:
        await agent.unload_model(model_id)
        return no_content()

    @blueprint.post("/hop/models/<model_id:str>/discard", name="discard")
    @node_only
    @_answers_node_errors
    async def discard(_request: Request, model_id: str) -> HTTPResponse:
        await agent.discard_partial(model_id)
        return no_content()


async def _relay_to_engine(
    request: Request, path: str, agent: NodeAgent, http_client: HttpClient
) -> HTTPResponse | None:
    """Answer an inference request with a loaded engine of this node, or with one that it loads."""
    model_id = request.args.get("model") or ""
    speed = EngineSpeed(
        float_query_param(request, "prefill_tokens_per_s"),
        float_query_param(request, "decode_tokens_per_s"),
    )
    keep_alive = _keep_alive_of(request)
    # Read before it is known whether it is needed: a malformed one is always refused.
    load_s = float_query_param(request, "load_s") or DEFAULT_LOAD_S
    async with agent.lease_loaded(model_id, keep_alive) or await agent.acquire_lease(
        model_id,
        deadline_s=load_s,
        keep_alive=keep_alive,
    ) as lease:
        lease.begin_request(len(request.body), speed)

        async def wait_for_blame(_failure: TransportError) -> Blame | None:
            return await lease.wait_for_blame(ENGINE_END_TIMEOUT_S)

        try:
            response = await http_client.request(
                target_of(lease),
                b"POST",
                b"/v1/" + path.encode("ascii"),
                select_headers(request, FORWARDED_HEADERS),
                request.body,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=HEADER_TIMEOUT_S,
            )
            lease.follow_answer(response)
            log.debug("%s for %s: %s", path, model_id, response.status)
            # An older balancer would take a response with a trailer for a complete one.
            explain = wait_for_blame if request.args.get("blame") else None
            return await proxy_response(request, response, get_blame=explain)
        except TransportError as error:
            if (blame := await wait_for_blame(error)) is not None:
                raise error_from_blame(blame, model_id) from error
            lease.report_suspected_failure()
            raise error_from_transport_error(error) from error


def _answers_node_errors(handler: Handler) -> Handler:
    """Answer the handler's errors with the header from which the balancer restores them."""

    @wraps(handler)
    async def answer(request: Request, **params: Any) -> HTTPResponse | None:
        try:
            return await handler(request, **params)
        except errors.LlbError as error:
            model_id = params.get("model_id") or request.args.get("model")
            log.warning("%s for %s failed: %s", request.path, model_id, error.message)
            response = error_response(error)
            response.headers[NODE_ERROR_HEADER.decode("ascii")] = error.hop_code or error.code
            return response

    return answer


def _keep_alive_of(request: Request) -> KeepAlive | None:
    if (seconds := float_query_param(request, "keep_alive_s")) is not None:
        return KeepAlive(seconds)
    if (seconds := float_query_param(request, "min_keep_alive_s")) is not None:
        return KeepAlive(seconds, may_shorten=False)
    return None


def is_valid_nonce(text: str) -> bool:
    """Whether `text` is short enough to be signed."""
    return 0 < len(text) <= NONCE_MAX_CHARS
