"""Routes that change a model: pull, settings, load, deletion."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType
from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.query_params import bool_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gateway.nodes.node_commands import NodeCommands
from llb.texts.coded_text import CodedText
from llb.wire import (
    LoadOptions,
    LoadRequest,
    Model,
    ModelPatch,
    ModelWithStatus,
    Placement,
    RegisterReply,
    RegisterRequest,
    Scope,
)

# Bounds of options and of memory estimates.
MAX_CONTEXT_LENGTH, MAX_SLOTS = 10_000_000, 64
MAX_KEEP_ALIVE_S = 366 * 86_400


def add_change_routes(
    blueprint: Blueprint,
    view: ClusterView,
    registrations: Registrations,
    node_commands: NodeCommands,
    audit_log: AuditLog,
) -> None:
    """Add the routes that change a model to those of `/api/models`."""
    _add_registration_routes(blueprint, view, registrations, audit_log)
    _add_load_and_delete_routes(blueprint, view, registrations, node_commands, audit_log)


def _add_registration_routes(
    blueprint: Blueprint, view: ClusterView, registrations: Registrations, audit_log: AuditLog
) -> None:
    @blueprint.post("/api/models/register", name="register")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Pull a model, or retry a failed pull",
        description="Responds at once and downloads in the background. Follow `/ws/models`, or poll.",
        body=RegisterRequest,
        response=RegisterReply,
        status=202,
        errors=(
            errors.ModelNotSupported,
            errors.AlreadyRegistered,
            errors.InsufficientMemory,
            errors.InsufficientStorage,
        ),
    )
    async def register(request: Request) -> HTTPResponse:
        body = parse_body(request, RegisterRequest)
        if body.replicas != "all" and body.replicas < 1:
            raise errors.InvalidRequest(
                CodedText("replicas_rule", 'replicas must be at least 1, or "all"'), param="replicas"
            )
        async with audit_log.recording(request, "model.register", body.model_id):
            reply = await registrations.register(
                body.model_id,
                replicas=body.replicas,
                created_by=request.ctx.principal.label,
                placement=_checked_placement(body.placement, view),
            )
        return json_response(reply, 202)

    @blueprint.patch("/api/models/<model_id:str>", name="change")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Pin a model, or change how it is loaded and where it is kept",
        description="Omitted fields stay; `null` is the default. Nodes that the placement excludes delete the"
        " model once another one has it.",
        body=ModelPatch,
        response=ModelWithStatus,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def change(request: Request, model_id: str) -> HTTPResponse:
        body = parse_body(request, ModelPatch)
        model = require_model(view, model_id)
        changes = {
            name: value
            for name, value in (
                ("pinned", body.pinned),
                ("options", _checked_options(body.options)),
                ("placement", _checked_placement(body.placement, view)),
            )
            if value is not UNSET
        }
        if changes.keys() == {"pinned"}:
            action = "model.pin" if body.pinned else "model.unpin"
        else:
            action = "model.change"
        async with audit_log.recording(request, action, model.id):
            await registrations.change(model.id, **changes)
        return json_response(view.describe_model(model, include_paths=True))


def _add_load_and_delete_routes(
    blueprint: Blueprint,
    view: ClusterView,
    registrations: Registrations,
    node_commands: NodeCommands,
    audit_log: AuditLog,
) -> None:
    @blueprint.post("/api/models/<model_id:str>/load", name="load")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Load a model into memory",
        description="Responds when it is loaded. `options` are kept for later loads, `null` resets them. A"
        " model that is loaded with others is loaded again, once its running requests have ended.",
        body=LoadRequest,
        response=ModelWithStatus,
        errors=(
            errors.ModelNotFound,
            errors.ModelNotRegistered,
            errors.NotFound,
            errors.EngineFailed,
            errors.InsufficientMemory,
            errors.ModelFailed,
            errors.ModelLoading,
        ),
    )
    async def load(request: Request, model_id: str) -> HTTPResponse:
        body = parse_body(request, LoadRequest)
        model = require_model(view, model_id)
        options = _checked_options(body.options)
        async with audit_log.recording(request, "model.load", model.id):
            if options is not UNSET:
                await registrations.change(model.id, options=options)
            registration = view.registrations.get(model.id)
            await node_commands.load(
                model.id,
                options=registration.options if registration is not None else None,
                node_ids=body.nodes,
            )
        return json_response(view.describe_model(model, include_paths=True))

    @blueprint.post("/api/models/<model_id:str>/unload", name="unload")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Unload a model from memory",
        description="Running replies end first. The next request loads it again.",
        status=204,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def unload(request: Request, model_id: str) -> HTTPResponse:
        model = require_model(view, model_id)
        async with audit_log.recording(request, "model.unload", model.id):
            await node_commands.unload(model.id)
        return no_content()

    @blueprint.delete("/api/models/<model_id:str>", name="delete")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Cancel a pull, or delete the files of a model",
        description="What a cancelled pull has downloaded is kept for 7 days, so that a later one continues"
        " it; `discard` removes it, also when the pull was cancelled before.",
        status=204,
        parameters=(RequestParameter("discard", bool, "Remove partial downloads, too."),),
        errors=(errors.ModelNotFound, errors.ModelNotRegistered),
    )
    async def delete(request: Request, model_id: str) -> HTTPResponse:
        discard = bool_query_param(request, "discard")
        async with audit_log.recording(request, "model.delete", model_id):
            has_partial = bool(discard and view.partials_of(model_id))
            if discard:
                await node_commands.discard_partial(model_id)
            try:
                await registrations.delete(model_id)
            except errors.ModelNotRegistered:
                if not has_partial:
                    raise
        return no_content()


def require_model(view: ClusterView, model_id: str) -> Model:
    """Return a model of the catalogue; raises `ModelNotFound`."""
    model = view.get_model(model_id)
    if model is None:
        raise errors.ModelNotFound(model_id)
    return model


def _checked_options(options: LoadOptions | UnsetType | None) -> LoadOptions | UnsetType | None:
    """Return `options`; raises `InvalidRequest` whose `param` names the field."""
    if options is None or options is UNSET:
        return options
    bounds = (
        ("context_length", options.context_length, MAX_CONTEXT_LENGTH),
        ("slots", options.slots, MAX_SLOTS),
    )
    for name, value, most in bounds:
        if value is not None and not 1 <= value <= most:
            raise errors.InvalidRequest(
                CodedText("option_rule", "{name} must be between 1 and {max}", name=name, max=most),
                param=f"options.{name}",
            )
    if options.keep_alive is not None and not -1 <= options.keep_alive <= MAX_KEEP_ALIVE_S:
        raise errors.InvalidRequest(
            CodedText(
                "keep_alive_rule",
                "keep_alive must be a number of seconds up to {max}, or -1",
                max=MAX_KEEP_ALIVE_S,
            ),
            param="options.keep_alive",
        )
    return None if options == LoadOptions() else options


def _checked_placement(placement: Placement | UnsetType | None, view: ClusterView) -> Any:
    """Return `placement`; raises `InvalidRequest` whose `param` names the field."""
    if placement is None or placement is UNSET:
        return placement
    unknown = [node_id for node_id in placement.nodes if node_id not in view.nodes]
    if unknown:
        raise errors.InvalidRequest(
            CodedText("no_such_node", "There is no node '{node}'", node=unknown[0][:64]),
            param="placement.nodes",
        )
    if bool(placement.nodes) == bool(placement.tag):
        raise errors.InvalidRequest(
            CodedText("placement_rule", "placement names either nodes or a tag"), param="placement"
        )
    return placement
