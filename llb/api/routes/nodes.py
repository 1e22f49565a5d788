"""The nodes of the cluster: as they are now, and what may be changed of them."""

from __future__ import annotations

import re

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.cluster.members import Members
from llb.cluster.view import ClusterView
from llb.config import NODE_NAME_PATTERN
from llb.security.permissions import has_scope
from llb.wire import NodeList, NodePatch, NodeView, Scope

_TAG_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,63}")
MAX_TAGS = 32


def nodes_blueprint(view: ClusterView, members: Members, audit_log: AuditLog) -> Blueprint:
    """`/api/nodes`."""
    blueprint = Blueprint("nodes")

    @blueprint.get("/api/nodes", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("List nodes", description="In the order in which they joined.", response=NodeList)
    async def list_nodes(request: Request) -> HTTPResponse:
        there = (node_id for node_id in members.list_node_ids() if node_id in view.nodes)
        return json_response(NodeList(tuple(shown(request, node_id) for node_id in there)))

    @blueprint.get("/api/nodes/<node_id:str>", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show a node", response=NodeView, errors=(errors.NotFound,))
    async def get_node(request: Request, node_id: str) -> HTTPResponse:
        return json_response(shown(request, node_id))

    @blueprint.patch("/api/nodes/<node_id:str>", name="change")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Rename, tag or drain a node",
        description="What is left out stays. A draining node gets no new request.",
        body=NodePatch,
        response=NodeView,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def change(request: Request, node_id: str) -> HTTPResponse:
        patch = _validated_patch(parse_body(request, NodePatch))
        async with audit_log.recording(request, "node.change", _name(node_id)):
            await members.update_node(node_id, patch)
        return json_response(shown(request, node_id))

    @blueprint.delete("/api/nodes/<node_id:str>", name="remove")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Remove a node",
        description="It keeps its files.",
        status=204,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def remove(request: Request, node_id: str) -> HTTPResponse:
        async with audit_log.recording(request, "node.remove", _name(node_id)):
            await members.remove_node(node_id)
        return no_content()

    def shown(request: Request, node_id: str) -> NodeView:
        node = view.nodes.get(node_id)
        if node is None:
            raise errors.NotFound("There is no such node")
        may = request.ctx.principal
        return view.describe_node(
            node,
            include_paths=has_scope(may, Scope.MODELS_WRITE),
            include_addresses=has_scope(may, Scope.ADMIN),
        )

    def _name(node_id: str) -> str:
        record = members.get_record(node_id)
        return node_id if record is None else record.name

    return blueprint


def _validated_patch(patch: NodePatch) -> NodePatch:
    """Raises `InvalidRequest` that names the field."""
    if patch.name is not None and not NODE_NAME_PATTERN.fullmatch(patch.name):
        raise errors.InvalidRequest(
            "A node's name is letters, digits, '.', '_' or '-', at most 63", param="name"
        )
    if patch.tags is not None and (
        len(patch.tags) > MAX_TAGS or not all(_TAG_PATTERN.fullmatch(tag) for tag in patch.tags)
    ):
        raise errors.InvalidRequest(
            f"Tags are letters, digits, '.', '_', ':' or '-', at most 63 each and {MAX_TAGS} in all",
            param="tags",
        )
    return patch
