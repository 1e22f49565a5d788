"""Model import route: `llb import FILE` adopts a file of this host as a file of a model, by its SHA-256."""

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
    """`/api/models/import`, only for commands of this host: the request names a path on it."""
    blueprint = Blueprint("imports")

    @blueprint.post("/api/models/import", name="import")
    @requires_scope(Scope.ADMIN)
    @InternalRoute("command of this host")
    async def import_file(request: Request) -> HTTPResponse:
        if request.ctx.principal.kind is not PrincipalKind.LOCAL:
            raise errors.PermissionDenied("Import files with 'llb import' on the host itself")
        body = parse_body(request, ImportRequest)
        path = Path(body.path)
        model = _find_model(view, path, body.model_id)
        async with audit_log.recording(request, "model.import", model.id):
            registrations.check_not_registered(model.id)
            registrations.check_capacity(model)
            files = await registrations.resolve_files(model)
            for spec in files:
                if await agent.import_file(model.id, path, spec):
                    reply = await registrations.register(
                        model.id, replicas="all", created_by=request.ctx.principal.label
                    )
                    return json_response(reply, 202)
            raise errors.InvalidRequest(
                f"{path.name} is not the file of model '{model.id}': its size or its SHA-256 differs",
                param="path",
            )

    return blueprint


def _find_model(view: ClusterView, path: Path, model_id: str | None) -> Model:
    """Return the named model, or else the only model that has a file of this name."""
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
            f"{path.name} is a file of several models: name the model with --model"
            if found
            else f"No model of the catalogue has a file called {path.name}. Only these files can be imported:"
            " name the model with --model if the file was renamed, or add your own model to a list"
            " (docs/catalog.md)",
            param="model_id",
        )
    return found[0]
