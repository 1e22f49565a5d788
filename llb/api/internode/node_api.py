"""Node API: routes for a balancer to verify this node, send it inference requests and manage its models."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine
from functools import wraps
from typing import Any, cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.internode.hop_answer import HopAnswer, HopContext, node_error_response, parse_hop_query
from llb.api.internode.proxy import InFlightCounter
from llb.api.middleware.route_policy import node_only, public
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.node_identity import Membership
from llb.gateway.http.client import HttpClient
from llb.node.agent import NodeAgent
from llb.security import tokens
from llb.wire import LoadOptions

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]

HOP_ROUTE = "/hop/v1/<path:path>"
# Its usual addresses, which need no search for a route.
HOP_PATHS = ("chat/completions", "completions", "messages", "responses", "embeddings", "rerank")
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

    hops = HopContext(agent, agent.engine_pool, http_client, in_flight)

    @blueprint.post(HOP_ROUTE, name="infer", ctx_begin_direct=hops.begin_direct)
    @node_only
    @_answers_node_errors
    async def infer(request: Request, path: str) -> None:
        """Answer with a loaded engine of this node, or with one that it loads."""
        query = parse_hop_query(request.query_string)
        await HopAnswer(hops, request, b"/v1/" + path.encode("ascii"), query).relay()

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


def _answers_node_errors(handler: Handler) -> Handler:
    """Answer the handler's errors with the header from which the balancer restores them."""

    @wraps(handler)
    async def answer(request: Request, **params: Any) -> HTTPResponse | None:
        try:
            return await handler(request, **params)
        except errors.LlbError as error:
            return node_error_response(request, error, params.get("model_id") or request.args.get("model"))

    return answer


def is_valid_nonce(text: str) -> bool:
    """Whether `text` is short enough to be signed."""
    return 0 < len(text) <= NONCE_MAX_CHARS
