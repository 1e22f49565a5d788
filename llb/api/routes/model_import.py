"""`llb import FILE`: adopts a file that already lies on this host as (part of) a model, by its sha256."""

from __future__ import annotations

from pathlib import Path

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import InternalRoute
from llb.api.request_body import parse_body
from llb.api.responses import json_response
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.node.agent import NodeAgent
from llb.security.permissions import PrincipalKind
from llb.wire import ImportRequest, Model, Scope


def model_import_blueprint(
    view: ClusterView, registrations: Registrations, agent: NodeAgent, audit_log: AuditLog
) -> Blueprint:
    """`POST /api/models/import`, for the commands of this host alone: it names a path of this host."""
    blueprint = Blueprint("imports")

    @blueprint.post("/api/models/import", name="import")
    @requires_scope(Scope.ADMIN)
    @InternalRoute("a command of this host")
    async def import_file(request: Request) -> HTTPResponse:
        if request.ctx.principal.kind is not PrincipalKind.LOCAL:
            raise errors.PermissionDenied("Files are imported with 'llb import' on the host itself")
        wish = parse_body(request, ImportRequest)
        path = Path(wish.path)
        model = _find_model(view, path, wish.model_id)
        async with audit_log.recording(request, "model.import", model.id):
            registrations.check_not_registered(model.id)
            registrations.check_capacity(model)
            files = await registrations.resolve_files(model)
            for spec in files:
                if await agent.import_file(model.id, path, spec):
                    answer = await registrations.register(
                        model.id, replicas="all", created_by=request.ctx.principal.label
                    )
                    return json_response(answer, 202)
            raise errors.InvalidRequest(
                f"{path.name} is not a file of model '{model.id}': its size or its sha256 differs",
                param="path",
            )

    return blueprint


def _find_model(view: ClusterView, path: Path, model_id: str | None) -> Model:
    """The model that is meant: the named one, else the only one with a file of that name."""
    if model_id is not None:
        named = view.get_model(model_id)
        if named is None:
            raise errors.ModelNotSupported(model_id)
        return named
    found = [
        model
        for model in view.list_models()
        if path.name.lower() in (name.lower() for name in model.filenames)
    ]
    if len(found) != 1:
        raise errors.InvalidRequest(
            f"{path.name} is {'a file of no supported model' if not found else 'a file of several models'}: "
            "name the model with --model",
            param="model_id",
        )
    return found[0]
