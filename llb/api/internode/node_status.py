"""What a joined host says of itself: that it is alive, whether its link stands; and the way out."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import public, requires_scope
from llb.api.request_body import parse_body
from llb.api.responses import error_response, json_response
from llb.base.node_identity import Membership
from llb.errors import Conflict
from llb.wire import JoinRequest, LeaveReply, Liveness, NodeStatusView, Readiness, Scope


class LeavableNode(Protocol):
    """A host that lends itself; `problem` is why its link does not stand, as a sentence."""

    membership: Membership | None

    @property
    def problem(self) -> str | None: ...

    async def leave(self) -> LeaveReply: ...


def node_status_blueprint(balancer_url: str, node: LeavableNode, left_cluster: asyncio.Event) -> Blueprint:
    """`/health`, `/readyz`, `/api/nodes/join`, `/api/node`. `left` is set once whoever had it leave was told so."""
    blueprint = Blueprint("lending")

    @blueprint.get("/health", name="health")
    @public
    async def health(_request: Request) -> HTTPResponse:
        return json_response(Liveness())

    @blueprint.get("/readyz", name="ready")
    @public
    async def ready(_request: Request) -> HTTPResponse:
        problem = node.problem
        return json_response(
            Readiness(status="ready" if problem is None else "waiting", reason=problem),
            200 if problem is None else 503,
        )

    @blueprint.post("/api/nodes/join", name="join")
    @public
    async def join(request: Request) -> HTTPResponse:
        asked = parse_body(request, JoinRequest)
        if node.membership is not None and asked.cluster_id == node.membership.cluster_id:
            return error_response(
                Conflict(
                    "The llb at this address lends itself to this very host, which cannot join its own node"
                )
            )
        answer = error_response(Conflict("The llb at this address lends itself to another one"))
        answer.headers["Location"] = balancer_url  # where everybody is led who asks for the page
        return answer

    @blueprint.get("/api/node", name="show")
    @requires_scope(Scope.ADMIN)
    async def show(_request: Request) -> HTTPResponse:
        member = node.membership
        return json_response(
            NodeStatusView(
                version=__version__,
                balancer_url=balancer_url,
                name=None if member is None else member.name,
                problem=node.problem,
            )
        )

    @blueprint.post("/api/node/leave", name="leave")
    @requires_scope(Scope.ADMIN)
    async def leave(request: Request) -> None:
        answer = cast(HTTPResponse, await request.respond(json_response(await node.leave())))
        await answer.eof()  # type: ignore[no-untyped-call]
        left_cluster.set()  # last: the server ends with it, and whoever asked is to hear of it

    return blueprint
