"""The nodes of the cluster, as they are now."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import requires
from llb.api.replies import reply
from llb.auth import allows
from llb.cluster.view import ClusterView
from llb.wire import NodeList, Scope


def nodes_blueprint(view: ClusterView) -> Blueprint:
    """`/api/nodes`."""
    blueprint = Blueprint("nodes")

    @blueprint.get("/api/nodes", name="list")
    @requires(Scope.MODELS_READ)
    async def list_nodes(request: Request) -> HTTPResponse:
        paths = allows(request.ctx.principal, Scope.MODELS_WRITE)
        return reply(NodeList(tuple(view.node_view(node, paths=paths) for node in view.nodes.values())))

    @blueprint.get("/api/nodes/<node_id:str>", name="get")
    @requires(Scope.MODELS_READ)
    async def get_node(request: Request, node_id: str) -> HTTPResponse:
        node = view.nodes.get(node_id)
        if node is None:
            raise errors.NotFound("There is no such node")
        return reply(view.node_view(node, paths=allows(request.ctx.principal, Scope.MODELS_WRITE)))

    return blueprint
