"""Routes of Ollama's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import msgspec
from sanic import Request
from sanic.response import HTTPResponse, text

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.inference.client_sinks import NDJSON_CONTENT_TYPE, NDJSON_KEEPALIVE
from llb.api.inference.ollama_handler import OllamaHandler
from llb.api.inference.ollama_models import OllamaModels
from llb.api.inference.ollama_pull import PullFollower, PullStatus
from llb.api.middleware.route_policy import ANY_MEDIA_TYPE, requires_scope
from llb.api.reference.operation import InternalRoute
from llb.api.reference.schemas import ollama as schemas
from llb.api.request_body import LargeBodyWorker, parse_body
from llb.api.request_recorder import RequestRecorder
from llb.api.responses import JSON, json_response
from llb.gateway.dialects import ollama_request, ollama_response
from llb.gateway.dialects.ollama_response import ResponseShape
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.readiness import ModelReadiness
from llb.security.permissions import has_scope
from llb.wire import Scope

# The version whose dialect this is. Clients derive the available features from it.
OLLAMA_VERSION = "0.12.0"
OLLAMA_INFERENCE_PATHS = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings")
OLLAMA_PATHS = ("/api/version", "/api/tags", "/api/show", "/api/ps", *OLLAMA_INFERENCE_PATHS)
PULL_PATH = "/api/pull"
# Routes of Ollama that change its model store, which llb does not have.
UNSUPPORTED_ROUTES = (
    ("/api/create", "POST"),
    ("/api/copy", "POST"),
    ("/api/push", "POST"),
    ("/api/delete", "DELETE"),
    ("/api/blobs/<digest:str>", "HEAD"),
    ("/api/blobs/<digest:str>", "POST"),
)
ERROR_BODY_BUILDERS = dict.fromkeys(
    (*OLLAMA_PATHS, PULL_PATH, *(path.partition("<")[0] for path, _ in UNSUPPORTED_ROUTES)),
    ollama_response.error_body,
)
# Clients send JSON with any media type, or none, as Ollama reads it. Forms of web pages could too, but
# `middleware.cors` rejects their requests.
JSON_LIKE_MEDIA_TYPES = (JSON, ANY_MEDIA_TYPE)


def ollama_blueprint(
    dispatcher: Dispatcher,
    recorder: RequestRecorder,
    node_commands: NodeCommands,
    models: OllamaModels,
    pull_follower: PullFollower,
    audit_log: AuditLog,
    worker: LargeBodyWorker,
) -> Blueprint:
    """Routes of Ollama's API."""
    blueprint = Blueprint("ollama")
    handler = OllamaHandler(dispatcher, recorder, node_commands, audit_log, worker)
    _add_model_routes(blueprint, dispatcher.readiness, models)
    _add_inference_routes(blueprint, handler, recorder)
    _add_pull_route(blueprint, dispatcher.readiness, pull_follower)
    _add_unsupported_routes(blueprint)
    return blueprint


def _add_model_routes(blueprint: Blueprint, readiness: ModelReadiness, models: OllamaModels) -> None:
    @requires_scope(Scope.INFERENCE)
    @schemas.VERSION_OPERATION
    async def version(_request: Request) -> HTTPResponse:
        return json_response({"version": OLLAMA_VERSION})

    @requires_scope(Scope.INFERENCE)
    @schemas.TAGS_OPERATION
    async def tags(request: Request) -> HTTPResponse:
        with_clouds = has_scope(request.ctx.principal, Scope.CLOUD)
        return json_response({"models": await models.list_ready(with_clouds=with_clouds)})

    @blueprint.get("/api/ps", name="ps")
    @requires_scope(Scope.INFERENCE)
    @schemas.RUNNING_OPERATION
    async def running(_request: Request) -> HTTPResponse:
        return json_response({"models": models.list_loaded()})

    @blueprint.post("/api/show", name="show")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.SHOW_OPERATION
    async def show(request: Request) -> HTTPResponse:
        body = parse_body(request, ollama_request.NamedModel)
        model = readiness.resolve_model(body.requested_model)
        readiness.require_ready(model)
        return json_response(await models.show(model))

    blueprint.add_route(version, "/api/version", methods=["GET", "HEAD"], name="version")
    blueprint.add_route(tags, "/api/tags", methods=["GET", "HEAD"], name="tags")


def _add_inference_routes(blueprint: Blueprint, handler: OllamaHandler, recorder: RequestRecorder) -> None:
    @blueprint.post("/api/chat", name="chat")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.CHAT_OPERATION
    async def chat(request: Request) -> HTTPResponse | None:
        with recorder.record(request) as record:
            body, engine_request = await handler.parse(
                request, ollama_request.ChatRequest, ollama_request.translate_chat
            )
            return await handler.generate(request, record, body, engine_request, ResponseShape.CHAT)

    @blueprint.post("/api/generate", name="generate")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.GENERATE_OPERATION
    async def generate(request: Request) -> HTTPResponse | None:
        with recorder.record(request) as record:
            body, engine_request = await handler.parse(
                request, ollama_request.GenerateRequest, ollama_request.translate_generate
            )
            return await handler.generate(request, record, body, engine_request, ResponseShape.GENERATE)

    @blueprint.post("/api/embed", name="embed")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.EMBED_OPERATION
    async def embed(request: Request) -> HTTPResponse:
        with recorder.record(request) as record:
            body, engine_request = await handler.parse(
                request, ollama_request.EmbedRequest, ollama_request.translate_embed
            )
            return await handler.embed(request, record, body, engine_request)

    @blueprint.post("/api/embeddings", name="embeddings")
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.LEGACY_EMBED_OPERATION
    async def embeddings(request: Request) -> HTTPResponse:
        with recorder.record(request) as record:
            body, engine_request = await handler.parse(
                request, ollama_request.OldEmbedRequest, ollama_request.translate_legacy_embed
            )
            return await handler.embed_one(request, record, body, engine_request)


def _add_pull_route(blueprint: Blueprint, readiness: ModelReadiness, pull_follower: PullFollower) -> None:
    @blueprint.post(PULL_PATH, name="pull")
    @requires_scope(Scope.MODELS_WRITE, media_types=JSON_LIKE_MEDIA_TYPES)
    @schemas.PULL_OPERATION
    async def pull(request: Request) -> HTTPResponse | None:
        body = parse_body(request, ollama_request.PullRequest)
        model = readiness.resolve_model(body.requested_model)
        await pull_follower.start_pull(request, model)
        if body.stream is False:
            return await _final_pull_response(pull_follower.follow(model, request.ctx.principal))
        response = cast(HTTPResponse, await request.respond(content_type=NDJSON_CONTENT_TYPE.decode()))
        async for status in pull_follower.follow(model, request.ctx.principal):
            await response.send(NDJSON_KEEPALIVE if status is None else msgspec.json.encode(status) + b"\n")
        await response.eof()  # type: ignore[no-untyped-call]
        return None


def _add_unsupported_routes(blueprint: Blueprint) -> None:
    @requires_scope(Scope.INFERENCE, media_types=JSON_LIKE_MEDIA_TYPES)
    @InternalRoute("routes of Ollama that llb does not support")
    async def unsupported(_request: Request, digest: str = "") -> HTTPResponse:
        raise errors.UnsupportedOperation(
            "The Model Hub manages models: pull or delete them on its page, or import them with 'llb import'"
        )

    for number, (path, method) in enumerate(UNSUPPORTED_ROUTES):
        blueprint.add_route(unsupported, path, methods=[method], name=f"not_offered_{number}")


def ollama_root_blueprint() -> Blueprint:
    """Route `/` of Ollama's own port."""
    blueprint = Blueprint("running")

    @requires_scope(Scope.INFERENCE)
    @InternalRoute("clients detect an Ollama server by it")
    async def running(_request: Request) -> HTTPResponse:
        return text("Ollama is running")

    blueprint.add_route(running, "/", methods=["GET", "HEAD"])
    return blueprint


async def _final_pull_response(statuses: AsyncIterator[PullStatus | None]) -> HTTPResponse:
    """Wait for the end of a pull; raises `ModelFailed` if it fails."""
    last: PullStatus = {}
    async for status in statuses:
        last = status or last
    if "error" in last:
        raise errors.ModelFailed(str(last["error"]))
    return json_response(last)
