"""The nodes of the cluster: as they are now, and what may be changed of them."""

from __future__ import annotations

import re

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import requires
from llb.api.audit import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.api.replies import body, no_content, reply
from llb.auth import allows
from llb.cluster.members import Members
from llb.cluster.view import ClusterView
from llb.config import NODE_NAME
from llb.wire import NodeList, NodePatch, NodeView, Scope

_TAG = re.compile(r"[A-Za-z0-9._:-]{1,63}")
MAX_TAGS = 32


def nodes_blueprint(view: ClusterView, members: Members, audit: AuditLog) -> Blueprint:
    """`/api/nodes`."""
    blueprint = Blueprint("nodes")

    @blueprint.get("/api/nodes", name="list")
    @requires(Scope.MODELS_READ)
    @Documented("List nodes", text="In the order in which they joined.", reply=NodeList)
    async def list_nodes(request: Request) -> HTTPResponse:
        there = (node_id for node_id in members.in_order() if node_id in view.nodes)
        return reply(NodeList(tuple(shown(request, node_id) for node_id in there)))

    @blueprint.get("/api/nodes/<node_id:str>", name="get")
    @requires(Scope.MODELS_READ)
    @Documented("Show a node", reply=NodeView, errors=(errors.NotFound,))
    async def get_node(request: Request, node_id: str) -> HTTPResponse:
        return reply(shown(request, node_id))

    @blueprint.patch("/api/nodes/<node_id:str>", name="change")
    @requires(Scope.ADMIN)
    @Documented(
        "Rename, tag or drain a node",
        text="What is left out stays. A draining node gets no new request.",
        body=NodePatch,
        reply=NodeView,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def change(request: Request, node_id: str) -> HTTPResponse:
        patch = _checked(body(request, NodePatch))
        async with audit.act(request, "node.change", _name(node_id)):
            await members.change(node_id, patch)
        return reply(shown(request, node_id))

    @blueprint.delete("/api/nodes/<node_id:str>", name="remove")
    @requires(Scope.ADMIN)
    @Documented(
        "Remove a node", text="It keeps its files.", status=204, errors=(errors.NotFound, errors.Conflict)
    )
    async def remove(request: Request, node_id: str) -> HTTPResponse:
        async with audit.act(request, "node.remove", _name(node_id)):
            await members.remove(node_id)
        return no_content()

    def shown(request: Request, node_id: str) -> NodeView:
        node = view.nodes.get(node_id)
        if node is None:
            raise errors.NotFound("There is no such node")
        may = request.ctx.principal
        return view.node_view(node, paths=allows(may, Scope.MODELS_WRITE), addresses=allows(may, Scope.ADMIN))

    def _name(node_id: str) -> str:
        record = members.get(node_id)
        return node_id if record is None else record.name

    return blueprint


def _checked(patch: NodePatch) -> NodePatch:
    """Raises `InvalidRequest` that names the field."""
    if patch.name is not None and not NODE_NAME.fullmatch(patch.name):
        raise errors.InvalidRequest(
            "A node's name is letters, digits, '.', '_' or '-', at most 63", param="name"
        )
    if patch.tags is not None and (
        len(patch.tags) > MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in patch.tags)
    ):
        raise errors.InvalidRequest(
            f"Tags are letters, digits, '.', '_', ':' or '-', at most 63 each and {MAX_TAGS} in all",
            param="tags",
        )
    return patch
