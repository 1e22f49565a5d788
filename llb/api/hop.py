"""What a balancer may ask of the node that runs here: who it is, an answer of one of its engines, its memory back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable
from typing import cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import auth, errors
from llb.api.access import node_only, public
from llb.api.blueprint import Blueprint
from llb.api.passing import Ongoing, forwarded, pass_on
from llb.api.replies import error_reply, no_content, reply
from llb.gateway.engine_errors import OF_NODE
from llb.gateway.faults import UpstreamFault
from llb.gateway.relay import as_error
from llb.gateway.upstream import Target, Upstream
from llb.membership import Membership
from llb.node.agent import NodeAgent

log = logging.getLogger(__name__)

FORWARDED = ("content-type", "x-request-id", "traceparent", "tracestate")
CONNECT_TIMEOUT_S = 5.0
HEADER_TIMEOUT_S = 3600.0  # the balancer's deadlines count, and end this connection
NONCE_MAX_CHARS = 128


def hop_blueprint(
    agent: NodeAgent, upstream: Upstream, ongoing: Ongoing, membership: Callable[[], Membership | None]
) -> Blueprint:
    """`/hop`."""
    blueprint = Blueprint("hop")

    @blueprint.get("/hop/proof", name="proof")
    @public
    async def proof(request: Request) -> HTTPResponse:
        """Shows whoever has dialled this address that it is the node they look for, before they show it a credential."""
        member, nonce = membership(), request.args.get("nonce") or ""
        if member is None or not is_nonce(nonce):
            raise errors.InvalidRequest("There is nothing to prove")
        return reply({"proof": auth.prove(member.hop_credential, member.node_id, nonce)})

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
            with ongoing.one():
                return await _infer(request, path)
        except errors.LlbError as error:
            log.warning("a request for %s failed: %s", request.args.get("model"), error.message)
            answer = error_reply(error)
            answer.headers[OF_NODE.decode("ascii")] = error.code
            return answer

    async def _infer(request: Request, path: str) -> HTTPResponse | None:
        model_id = request.args.get("model") or ""
        async with await agent.lease(
            model_id,
            deadline_s=_number(request, "load_s") or 60.0,
            keep_alive_s=_number(request, "keep_alive_s"),
        ) as lease:
            try:
                response = await upstream.request(
                    Target(lease.host, lease.port, lease.api_key),
                    b"POST",
                    b"/v1/" + path.encode("ascii"),
                    forwarded(request, FORWARDED),
                    request.body,
                    connect_timeout_s=CONNECT_TIMEOUT_S,
                    header_timeout_s=HEADER_TIMEOUT_S,
                )
                log.debug("%s for %s: %s", path, model_id, response.status)
                return await pass_on(request, response)
            except UpstreamFault as fault:
                lease.report_broken()
                raise as_error(fault) from fault

    @blueprint.post("/hop/models/<model_id:str>/load", name="load")
    @node_only
    async def load(_request: Request, model_id: str) -> HTTPResponse:
        await agent.load(model_id)
        return no_content()

    @blueprint.post("/hop/models/<model_id:str>/unload", name="unload")
    @node_only
    async def unload(_request: Request, model_id: str) -> HTTPResponse:
        await agent.unload(model_id)
        return no_content()

    return blueprint


def is_nonce(text: str) -> bool:
    return 0 < len(text) <= NONCE_MAX_CHARS


def _number(request: Request, name: str) -> float | None:
    text = request.args.get(name)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise errors.InvalidRequest(f"{name} is not a number", param=name) from None
