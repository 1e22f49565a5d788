"""Model routes: the catalogue with its states, files and memory; `changes` adds those that change a model."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import requires_scope
from llb.api.query_params import int_query_param, sizes_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import json_response
from llb.api.routes.models.changes import MAX_CONTEXT_LENGTH, MAX_SLOTS, add_change_routes, require_model
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gateway.nodes.node_commands import NodeCommands
from llb.security.permissions import has_scope
from llb.wire import (
    Capability,
    FitReport,
    MemoryView,
    ModelFile,
    ModelFiles,
    ModelList,
    ModelStatus,
    ModelWithStatus,
    Scope,
)

MAX_GPUS = 16


def models_blueprint(
    view: ClusterView,
    registrations: Registrations,
    memory_estimates: MemoryEstimates,
    node_commands: NodeCommands,
    audit_log: AuditLog,
) -> Blueprint:
    """`/api/models`."""
    blueprint = Blueprint("models")
    _add_catalog_routes(blueprint, view, registrations)
    _add_memory_routes(blueprint, view, memory_estimates)
    add_change_routes(blueprint, view, registrations, node_commands, audit_log)
    return blueprint


def _add_catalog_routes(blueprint: Blueprint, view: ClusterView, registrations: Registrations) -> None:
    @blueprint.get("/api/models", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "List the models of the catalogue with their states",
        description="Lists the models that match all filters. Filters ignore case.",
        response=ModelList,
        parameters=(
            RequestParameter("status", str, f"One of {', '.join(ModelStatus)}."),
            RequestParameter("capability", str, f"One of {', '.join(Capability)}."),
            RequestParameter("tag", str, "A tag of the model."),
            RequestParameter(
                "q", str, "Words that must all occur in its id, name, description, repository or tags."
            ),
        ),
    )
    async def list_models(request: Request) -> HTTPResponse:
        include_paths = has_scope(request.ctx.principal, Scope.MODELS_WRITE)
        found = [view.describe_model(model, include_paths=include_paths) for model in view.list_models()]
        return await compress_response(
            request,
            json_response(ModelList(tuple(item for item in found if _matches_filters(item, request)))),
        )

    @blueprint.get("/api/models/<model_id:str>", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show a model", response=ModelWithStatus, errors=(errors.ModelNotFound,))
    async def get_model(request: Request, model_id: str) -> HTTPResponse:
        include_paths = has_scope(request.ctx.principal, Scope.MODELS_WRITE)
        return json_response(view.describe_model(require_model(view, model_id), include_paths=include_paths))

    @blueprint.get("/api/models/<model_id:str>/files", name="files")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "List the files of a model",
        description="With the commit and sha256 that are pinned at its pull, else as the Hub has them.",
        response=ModelFiles,
        errors=(errors.ModelNotFound, errors.HubUnavailable),
    )
    async def files(_request: Request, model_id: str) -> HTTPResponse:
        model = require_model(view, model_id)
        specs = await registrations.known_files(model)
        return json_response(
            ModelFiles(
                model_id=model.id,
                repo=model.repo,
                files=tuple(
                    ModelFile(
                        name=spec.name,
                        size_bytes=spec.size_bytes,
                        sha256=spec.sha256,
                        commit=spec.sources[0].commit if spec.sources else None,
                    )
                    for spec in specs
                ),
            )
        )


def _add_memory_routes(blueprint: Blueprint, view: ClusterView, memory_estimates: MemoryEstimates) -> None:
    @blueprint.get("/api/models/<model_id:str>/memory", name="memory")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "Estimate the memory a model needs",
        description="Computed from the header of its file, which is read from the Hub if necessary.",
        response=MemoryView,
        parameters=(
            RequestParameter("context_length", positive_int_up_to(MAX_CONTEXT_LENGTH), "Tokens per slot."),
            RequestParameter("slots", positive_int_up_to(MAX_SLOTS), "Concurrent requests; 1 by default."),
        ),
        errors=(errors.ModelNotFound, errors.HubUnavailable),
    )
    async def memory(request: Request, model_id: str) -> HTTPResponse:
        return json_response(
            await memory_estimates.estimate_model(
                require_model(view, model_id),
                context_length=int_query_param(request, "context_length", MAX_CONTEXT_LENGTH),
                slots=int_query_param(request, "slots", MAX_SLOTS) or 1,
            )
        )

    @blueprint.get("/api/models/<model_id:str>/fit", name="fit")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "Show what a host would do with a model, GPU by GPU",
        description="Plans a load as the engine does: without `vram` and `ram` for this host, with `vram`"
        " alone for a host with the same RAM, with `ram` alone for one without a GPU.",
        response=FitReport,
        parameters=(
            RequestParameter("vram", str, "Memory of each GPU, such as `8GB` or `24GB,8GB`."),
            RequestParameter("ram", str, "Memory of the host, such as `16GB`."),
            RequestParameter("context_length", positive_int_up_to(MAX_CONTEXT_LENGTH), "Tokens per slot."),
            RequestParameter("slots", positive_int_up_to(MAX_SLOTS), "Concurrent requests."),
        ),
        errors=(errors.ModelNotFound, errors.HubUnavailable, errors.NoNodeAvailable),
    )
    async def fit(request: Request, model_id: str) -> HTTPResponse:
        ram = sizes_query_param(request, "ram", 1)
        return json_response(
            await memory_estimates.report_fit(
                require_model(view, model_id),
                ram_bytes=ram[0] if ram is not None else None,
                vram_bytes=sizes_query_param(request, "vram", MAX_GPUS),
                context_length=int_query_param(request, "context_length", MAX_CONTEXT_LENGTH),
                slots=int_query_param(request, "slots", MAX_SLOTS),
                lists_cards=True,
            )
        )


def _matches_filters(item: ModelWithStatus, request: Request) -> bool:
    """Whether a model matches the query parameters `status`, `capability`, `tag` and `q`."""
    status = request.args.get("status")
    capability = request.args.get("capability")
    tag = request.args.get("tag")
    words = (request.args.get("q") or "").lower().split()
    model = item.model
    text = " ".join((model.id, model.name, model.description, model.repo, *model.tags)).lower()
    return (
        (status is None or item.status.lower() == status.lower())
        and (capability is None or capability.lower() in (name.lower() for name in model.capabilities))
        and (tag is None or tag.lower() in (name.lower() for name in model.tags))
        and all(word in text for word in words)
    )
