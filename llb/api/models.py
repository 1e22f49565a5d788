"""The catalogue with its states, and the wish to hold a model."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import requires
from llb.api.audit import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.documented import Argument, Documented, up_to
from llb.api.packing import packed
from llb.api.replies import body, no_content, number_argument, reply
from llb.auth import allows
from llb.cluster.estimates import Estimates
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gateway.hands import Hands
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

MAX_CONTEXT, MAX_SLOTS = 10_000_000, 64  # of an estimate


def models_blueprint(
    view: ClusterView,
    registrations: Registrations,
    estimates: Estimates,
    hands: Hands,
    audit: AuditLog,
) -> Blueprint:
    """`/api/models`."""
    blueprint = Blueprint("models")

    @blueprint.get("/api/models", name="list")
    @requires(Scope.MODELS_READ)
    @Documented(
        "List the catalogue with its states",
        text="Only what passes all filters. Upper and lower case are one.",
        reply=ModelList,
        arguments=(
            Argument("status", str, f"One of {', '.join(ModelStatus)}."),
            Argument("capability", str, f"One of {', '.join(Capability)}."),
            Argument("tag", str, "One of its tags."),
            Argument("q", str, "Words that all stand in its id, name, description, repository or tags."),
        ),
    )
    async def list_models(request: Request) -> HTTPResponse:
        paths = allows(request.ctx.principal, Scope.MODELS_WRITE)
        found = [view.describe(model, paths=paths) for model in view.models()]
        return await packed(
            request, reply(ModelList(tuple(item for item in found if _matches(item, request))))
        )

    @blueprint.get("/api/models/<model_id:str>", name="get")
    @requires(Scope.MODELS_READ)
    @Documented("Show a model", reply=ModelWithStatus, errors=(errors.ModelNotFound,))
    async def get_model(request: Request, model_id: str) -> HTTPResponse:
        paths = allows(request.ctx.principal, Scope.MODELS_WRITE)
        return reply(view.describe(_known(view, model_id), paths=paths))

    @blueprint.get("/api/models/<model_id:str>/memory", name="memory")
    @requires(Scope.MODELS_READ)
    @Documented(
        "Estimate the memory a model needs",
        text="From the header of its file, pulled or not; the first time that is read from the Hub.",
        reply=MemoryView,
        arguments=(
            Argument("context_length", up_to(MAX_CONTEXT), "Tokens a slot."),
            Argument("slots", up_to(MAX_SLOTS), "Requests at once; 1 by default."),
        ),
        errors=(errors.ModelNotFound, errors.HubAway),
    )
    async def memory(request: Request, model_id: str) -> HTTPResponse:
        return reply(
            await estimates.of(
                _known(view, model_id),
                context_length=number_argument(request, "context_length", MAX_CONTEXT),
                slots=number_argument(request, "slots", MAX_SLOTS) or 1,
            )
        )

    @blueprint.post("/api/models/register", name="register")
    @requires(Scope.MODELS_WRITE)
    @Documented(
        "Pull a model, or try again",
        text="Answers at once; the files come in the background. Follow `/ws/models`, or ask for the model.",
        body=RegisterRequest,
        reply=RegisterReply,
        status=202,
        errors=(
            errors.ModelNotSupported,
            errors.AlreadyRegistered,
            errors.InsufficientMemory,
            errors.InsufficientStorage,
        ),
    )
    async def register(request: Request) -> HTTPResponse:
        wish = body(request, RegisterRequest)
        if wish.replicas != "all" and wish.replicas < 1:
            raise errors.InvalidRequest('replicas must be at least 1, or "all"', param="replicas")
        async with audit.act(request, "model.register", wish.model_id):
            answer = await registrations.register(
                wish.model_id, replicas=wish.replicas, by=request.ctx.principal.label
            )
        return reply(answer, 202)

    @blueprint.patch("/api/models/<model_id:str>", name="change")
    @requires(Scope.MODELS_WRITE)
    @Documented(
        "Keep a model in memory, or no longer",
        body=ModelPatch,
        reply=ModelWithStatus,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def change(request: Request, model_id: str) -> HTTPResponse:
        wish = body(request, ModelPatch)
        model = _known(view, model_id)
        async with audit.act(request, "model.pin" if wish.pinned else "model.unpin", model.id):
            await registrations.set_pinned(model.id, wish.pinned)
        return reply(view.describe(model, paths=True))

    @blueprint.post("/api/models/<model_id:str>/unload", name="unload")
    @requires(Scope.MODELS_WRITE)
    @Documented(
        "Free the memory of a model",
        text="Running answers end first. The next request loads it again.",
        status=204,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered, errors.EngineFailed),
    )
    async def unload(request: Request, model_id: str) -> HTTPResponse:
        model = _known(view, model_id)
        async with audit.act(request, "model.unload", model.id):
            await hands.unload(model.id)
        return no_content()

    @blueprint.delete("/api/models/<model_id:str>", name="delete")
    @requires(Scope.MODELS_WRITE)
    @Documented(
        "Cancel a pull, or delete a model's files",
        status=204,
        errors=(errors.ModelNotFound, errors.ModelNotRegistered),
    )
    async def delete(request: Request, model_id: str) -> HTTPResponse:
        async with audit.act(request, "model.delete", model_id):
            await registrations.delete(model_id)
        return no_content()

    return blueprint


def _known(view: ClusterView, model_id: str) -> Model:
    model = view.model(model_id)
    if model is None:
        raise errors.ModelNotFound(model_id)
    return model


def _matches(item: ModelWithStatus, request: Request) -> bool:
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
