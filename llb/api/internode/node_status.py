"""Status routes of a joined node: health, readiness, its balancer, and leaving the cluster."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import probe, public, requires_scope
from llb.api.request_body import parse_body
from llb.api.responses import error_response, json_response
from llb.base.node_identity import Membership
from llb.errors import Conflict
from llb.store.storage_monitor import StorageMonitor
from llb.wire import JoinRequest, LeaveReply, Liveness, NodeStatusView, Readiness, Scope


class LeavableNode(Protocol):
    """Joined node. `problem` is why it is not connected to its balancer, as a sentence; None if it is."""

    membership: Membership | None
    storage_monitor: StorageMonitor

    @property
    def problem(self) -> str | None: ...

    async def leave(self) -> LeaveReply: ...


def node_status_blueprint(balancer_url: str, node: LeavableNode, left_cluster: asyncio.Event) -> Blueprint:
    """Routes of a joined node; `left_cluster` is set after the response to a request to leave."""
    blueprint = Blueprint("node_status")

    @blueprint.get("/health", name="health")
    @probe
    async def health(_request: Request) -> HTTPResponse:
        return json_response(Liveness())

    @blueprint.get("/readyz", name="ready")
    @probe
    async def ready(_request: Request) -> HTTPResponse:
        await node.storage_monitor.refresh()
        problem = node.problem
        return json_response(
            Readiness(status="ready" if problem is None else "waiting", reason=problem),
            200 if problem is None else 503,
        )

    @blueprint.post("/api/nodes/join", name="join")
    @public
    async def join(request: Request) -> HTTPResponse:
        body = parse_body(request, JoinRequest)
        if node.membership is not None and body.cluster_id == node.membership.cluster_id:
            return error_response(
                Conflict(
                    "The llb at this address is a node of this host: a balancer cannot join its own node"
                )
            )
        response = error_response(Conflict("The llb at this address has joined another llb"))
        # The page redirects there, too.
        response.headers["Location"] = balancer_url
        return response

    @blueprint.get("/api/node", name="show")
    @requires_scope(Scope.ADMIN)
    async def show(_request: Request) -> HTTPResponse:
        membership = node.membership
        return json_response(
            NodeStatusView(
                version=__version__,
                balancer_url=balancer_url,
                name=None if membership is None else membership.name,
                problem=node.problem,
            )
        )

    @blueprint.post("/api/node/leave", name="leave")
    @requires_scope(Scope.ADMIN)
    async def leave(request: Request) -> None:
        response = cast(HTTPResponse, await request.respond(json_response(await node.leave())))
        await response.eof()  # type: ignore[no-untyped-call]
        # Last, because the server stops then.
        left_cluster.set()

    return blueprint
