"""Node routes: list, show, rename, tag, drain, remove."""

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
from llb.cluster.node_membership import Members
from llb.cluster.view import ClusterView
from llb.config import NODE_NAME_PATTERN
from llb.security.permissions import has_scope
from llb.texts.coded_text import CodedText
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
        known_ids = (node_id for node_id in members.list_node_ids() if node_id in view.nodes)
        return json_response(NodeList(tuple(describe(request, node_id) for node_id in known_ids)))

    @blueprint.get("/api/nodes/<node_id:str>", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show a node", response=NodeView, errors=(errors.NotFound,))
    async def get_node(request: Request, node_id: str) -> HTTPResponse:
        return json_response(describe(request, node_id))

    @blueprint.patch("/api/nodes/<node_id:str>", name="change")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Rename, tag or drain a node",
        description="Omitted fields stay. A draining node gets no new requests.",
        body=NodePatch,
        response=NodeView,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def change(request: Request, node_id: str) -> HTTPResponse:
        patch = _validated_patch(parse_body(request, NodePatch))
        async with audit_log.recording(request, "node.change", name_of(node_id)):
            await members.update_node(node_id, patch)
        return json_response(describe(request, node_id))

    @blueprint.delete("/api/nodes/<node_id:str>", name="remove")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Remove a node",
        description="The node keeps its files.",
        status=204,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def remove(request: Request, node_id: str) -> HTTPResponse:
        async with audit_log.recording(request, "node.remove", name_of(node_id)):
            await members.remove_node(node_id)
        return no_content()

    def describe(request: Request, node_id: str) -> NodeView:
        node = view.nodes.get(node_id)
        if node is None:
            raise errors.NotFound("There is no such node")
        principal = request.ctx.principal
        return view.describe_node(
            node,
            include_paths=has_scope(principal, Scope.MODELS_WRITE),
            include_addresses=has_scope(principal, Scope.ADMIN),
        )

    def name_of(node_id: str) -> str:
        record = members.get_record(node_id)
        return node_id if record is None else record.name

    return blueprint


def validate_node_name(name: str) -> None:
    """Raise `InvalidRequest` for a name that a node may not have."""
    if not NODE_NAME_PATTERN.fullmatch(name):
        raise errors.InvalidRequest(
            CodedText("node_name_rule", "A node's name has 1 to 63 letters, digits, '.', '_' or '-'"),
            param="name",
        )


def _validated_patch(patch: NodePatch) -> NodePatch:
    """Return `patch`; raises `InvalidRequest` whose `param` names the field."""
    if patch.name is not None:
        validate_node_name(patch.name)
    if patch.tags is not None and (
        len(patch.tags) > MAX_TAGS or not all(_TAG_PATTERN.fullmatch(tag) for tag in patch.tags)
    ):
        raise errors.InvalidRequest(
            CodedText(
                "tags_rule",
                "At most {number} tags, each of 1 to 63 letters, digits, '.', '_', ':' or '-'",
                number=MAX_TAGS,
            ),
            param="tags",
        )
    return patch
