"""The catalogue with its states, and the wish to hold a model."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import requires_scope
from llb.api.query_params import int_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gateway.nodes.node_commands import NodeCommands
from llb.security.permissions import has_scope
from llb.wire import (
    Capability,
    MemoryView,
    Model,
    ModelList,
    ModelPatch,
    ModelStatus,
    ModelWithStatus,
    RegisterReply,
    RegisterRequest,
    Scope,
)

MAX_CONTEXT_LENGTH, MAX_SLOTS = 10_000_000, 64  # of an estimate


def models_blueprint(
    view: ClusterView,
    registrations: Registrations,
    memory_estimates: MemoryEstimates,
    node_commands: NodeCommands,
    audit_log: AuditLog,
) -> Blueprint:
    """`/api/models`."""
    blueprint = Blueprint("models")

    @blueprint.get("/api/models", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "List the catalogue with its states",
        description="Only what passes all filters. Upper and lower case are one.",
        response=ModelList,
        parameters=(
            RequestParameter("status", str, f"One of {', '.join(ModelStatus)}."),
            RequestParameter("capability", str, f"One of {', '.join(Capability)}."),
            RequestParameter("tag", str, "One of its tags."),
            RequestParameter(
                "q", str, "Words that all stand in its id, name, description, repository or tags."
            ),
        ),
    )
    async def list_models(request: Request) -> HTTPResponse:
        paths = has_scope(request.ctx.principal, Scope.MODELS_WRITE)
        found = [view.describe_model(model, include_paths=paths) for model in view.list_models()]
        return await compress_response(
            request,
            json_response(ModelList(tuple(item for item in found if _matches_filters(item, request)))),
        )

    @blueprint.get("/api/models/<model_id:str>", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show a model", response=ModelWithStatus, errors=(errors.ModelNotFound,))
    async def get_model(request: Request, model_id: str) -> HTTPResponse:
        paths = has_scope(request.ctx.principal, Scope.MODELS_WRITE)
        return json_response(view.describe_model(_require_model(view, model_id), include_paths=paths))

    @blueprint.get("/api/models/<model_id:str>/memory", name="memory")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "Estimate the memory a model needs",
        description="From the header of its file, pulled or not; the first time that is read from the Hub.",
        response=MemoryView,
        parameters=(
            RequestParameter("context_length", positive_int_up_to(MAX_CONTEXT_LENGTH), "Tokens a slot."),
            RequestParameter("slots", positive_int_up_to(MAX_SLOTS), "Requests at once; 1 by default."),
        ),
        errors=(errors.ModelNotFound, errors.HubUnavailable),
    )
    async def memory(request: Request, model_id: str) -> HTTPResponse:
        return json_response(
            await memory_estimates.estimate_model(
                _require_model(view, model_id),
                context_length=int_query_param(request, "context_length", MAX_CONTEXT_LENGTH),
                slots=int_query_param(request, "slots", MAX_SLOTS) or 1,
            )
        )

    @blueprint.post("/api/models/register", name="register")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Pull a model, or try again",
        description="Answers at once; the files come in the background. Follow `/ws/models`, or ask for the model.",
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
        wish = parse_body(request, RegisterRequest)
        if wish.replicas != "all" and wish.replicas < 1:
            raise errors.InvalidRequest('replicas must be at least 1, or "all"', param="replicas")
        async with audit_log.recording(request, "model.register", wish.model_id):
            answer = await registrations.register(
                wish.model_id, replicas=wish.replicas, created_by=request.ctx.principal.label
            )
        return json_response(answer, 202)

    @blueprint.patch("/api/models/<model_id:str>", name="change")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Keep a model in memory, or no longer",
        body=ModelPatch,
        response=ModelWithStatus,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def change(request: Request, model_id: str) -> HTTPResponse:
        wish = parse_body(request, ModelPatch)
        model = _require_model(view, model_id)
        async with audit_log.recording(request, "model.pin" if wish.pinned else "model.unpin", model.id):
            await registrations.set_pinned(model.id, wish.pinned)
        return json_response(view.describe_model(model, include_paths=True))

    @blueprint.post("/api/models/<model_id:str>/unload", name="unload")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Free the memory of a model",
        description="Running answers end first. The next request loads it again.",
        status=204,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def unload(request: Request, model_id: str) -> HTTPResponse:
        model = _require_model(view, model_id)
        async with audit_log.recording(request, "model.unload", model.id):
            await node_commands.unload(model.id)
        return no_content()

    @blueprint.delete("/api/models/<model_id:str>", name="delete")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Cancel a pull, or delete a model's files",
        status=204,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered),
    )
    async def delete(request: Request, model_id: str) -> HTTPResponse:
        async with audit_log.recording(request, "model.delete", model_id):
            await registrations.delete(model_id)
        return no_content()

    return blueprint


def _require_model(view: ClusterView, model_id: str) -> Model:
    model = view.get_model(model_id)
    if model is None:
        raise errors.ModelNotFound(model_id)
    return model


def _matches_filters(item: ModelWithStatus, request: Request) -> bool:
    """Whether a model passes the filters of the query: `status`, `capability`, `tag`, `q`."""
    status = request.args.get("status")
    capability = request.args.get("capability")
    tag = request.args.get("tag")
    words = (request.args.get("q") or "").lower().split()
    model = item.model
    text = " ".join((model.id, model.name, model.description, model.repo, *model.tags)).lower()
    return (
        (status is None or item.status.lower() == status.lower())
        and (capability is None or capability.lower() in (each.lower() for each in model.capabilities))
        and (tag is None or tag.lower() in (each.lower() for each in model.tags))
        and all(word in text for word in words)
    )
