"""OpenAI's dialect: chats, completions, Responses and embeddings, with the reranking of llama.cpp."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.inference.client_sinks import ResponsesSink
from llb.api.inference.handler import DialectHooks, InferenceHandler
from llb.api.inference.system_name import name_system
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.reference.schemas.common import READINESS_ERRORS
from llb.api.reference.schemas.openai import INFERENCE_OPERATIONS
from llb.api.request_body import decode_json
from llb.api.responses import error_body, json_response
from llb.errors import LlbError, ModelNotFound
from llb.gateway.dialects.responses_answer import AnswerLimits, ResponsesAnswer, read_echoed_fields
from llb.gateway.inference_call import ClientSink, InferenceCall
from llb.gateway.readiness import ModelReadiness
from llb.gateway.stream.sse import format_event
from llb.policy.endpoints.dialects import CHAT
from llb.security.permissions import Principal, has_scope
from llb.wire import InferenceFields, Model, ModelObject, ModelObjects, Scope

CloudListHeaders = Callable[[], Awaitable[dict[str, str]]]
ContextPlanner = Callable[[Model], Awaitable[int | None]]
OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
# Cohere's client calls `/v2/rerank`, that of Text Embeddings Inference `/rerank`.
RERANK_PATH = "/v1/rerank"
RERANK_ALIASES = ("/rerank", "/v2/rerank")
RESPONSES_PATHS = ("/v1/responses", "/v1/responses/input_tokens")


def openai_blueprint(
    handler: InferenceHandler, cloud_list_headers: CloudListHeaders, plan_context_length: ContextPlanner
) -> Blueprint:
    """Routes of `/v1` that OpenAI's clients call.

    `cloud_list_headers` brings the lists of clouds up to date and returns headers with their age.
    `plan_context_length` returns the context that a model would have, once it is loaded.
    """
    blueprint = Blueprint("openai")
    readiness = handler.dispatcher.readiness
    _add_model_routes(blueprint, readiness, _ModelLists(readiness, cloud_list_headers, plan_context_length))
    _add_inference_routes(blueprint, handler)
    return blueprint


class _ModelLists:
    """Lists of models as `/v1/models` shows them, with the context that each has or would have."""

    def __init__(
        self,
        readiness: ModelReadiness,
        cloud_list_headers: CloudListHeaders,
        plan_context_length: ContextPlanner,
    ) -> None:
        self._readiness = readiness
        self._cloud_list_headers = cloud_list_headers
        self._plan_context_length = plan_context_length

    async def response(self, principal: Principal) -> HTTPResponse:
        """Return the list for `principal`, who may or may not use clouds."""
        with_clouds = has_scope(principal, Scope.CLOUD)
        headers = await self._cloud_list_headers() if with_clouds else {}
        data: list[ModelObject | Raw] = [
            await self.with_context_length(each) for each in self._readiness.own_model_objects()
        ]
        if elsewhere := self._readiness.encode_endpoint_models(with_clouds=with_clouds):
            data.append(Raw(elsewhere))
        return json_response({"object": "list", "data": data}, headers=headers)

    async def with_context_length(self, listed: ModelObject) -> ModelObject:
        """Return `listed` with the context of the loaded model, or of the plan of its next load."""
        try:
            model = self._readiness.resolve_model(listed.id)
        except ModelNotFound:
            return listed
        length = model.context_length
        if not model.is_external:
            loaded = self._readiness.loaded_context_length(model)
            length = loaded or await self._plan_context_length(model) or length
        return msgspec.structs.replace(listed, context_length=length, max_model_len=length)


def _add_model_routes(blueprint: Blueprint, readiness: ModelReadiness, model_lists: _ModelLists) -> None:
    @blueprint.get("/v1/models", name="models")
    @requires_scope(Scope.INFERENCE)
    @ApiOperation("List the Ready models", response=ModelObjects)
    async def list_models(request: Request) -> HTTPResponse:
        return await model_lists.response(request.ctx.principal)

    @blueprint.get("/v1/models/<model_id:path>", name="model")
    @requires_scope(Scope.INFERENCE)
    @ApiOperation("Show a Ready model", response=ModelObject, errors=READINESS_ERRORS)
    async def get_model(request: Request, model_id: str) -> HTTPResponse:
        if not model_id:
            # `/v1/models/`: for Sanic an empty path is a value of a path parameter, not a trailing slash.
            return await model_lists.response(request.ctx.principal)
        # Clients encode the slash of `org/repo` as %2F.
        model = readiness.resolve_model(unquote(model_id))
        readiness.require_ready(model)
        with_clouds = has_scope(request.ctx.principal, Scope.CLOUD)
        shown = readiness.model_object(model, with_clouds=with_clouds)
        return json_response(await model_lists.with_context_length(shown))


def _add_inference_routes(blueprint: Blueprint, handler: InferenceHandler) -> None:
    @requires_scope(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        await handler.handle(request, _DEFAULT_HOOKS)

    @requires_scope(Scope.INFERENCE)
    async def respond(request: Request) -> None:
        await handler.handle(request, _RESPONSES_HOOKS)

    @requires_scope(Scope.INFERENCE)
    async def count_tokens(request: Request) -> None:
        await handler.handle(request, _COUNTING_HOOKS)

    for path in OPENAI_PATHS:
        blueprint.add_route(
            infer,
            path,
            methods=["POST"],
            name=_route_name(path),
            ctx_operation=INFERENCE_OPERATIONS[path],
            ctx_begin_direct=partial(handler.begin_direct, hooks=_DEFAULT_HOOKS) if path == CHAT else None,
        )

    @requires_scope(Scope.INFERENCE)
    async def rerank(request: Request) -> None:
        await handler.handle(request, _RERANK_HOOKS)

    for path in RERANK_ALIASES:
        blueprint.add_route(
            rerank,
            path,
            methods=["POST"],
            name="_".join(("alias", *path.strip("/").split("/"))),
            ctx_operation=INFERENCE_OPERATIONS[RERANK_PATH],
        )
    for path, respond_to in zip(RESPONSES_PATHS, (respond, count_tokens), strict=True):
        blueprint.add_route(
            respond_to,
            path,
            methods=["POST"],
            name=_route_name(path),
            ctx_operation=INFERENCE_OPERATIONS[path],
        )


def _route_name(path: str) -> str:
    return path.removeprefix("/v1/").replace("/", "_")


# --- Responses ---------------------------------------------------------------------------------------


def responses_error_event(error: LlbError) -> bytes:
    """Return `error` as an SSE event of Responses; the official client reads its `error` field."""
    body = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": None,
        **error_body(error),
    }
    return format_event(msgspec.json.encode(body), b"error")


def response_format_of(fields: InferenceFields) -> Mapping[str, Any]:
    """Return `text.format` as the `response_format` of a chat: llama-server ignores it in Responses."""
    if not fields.text:
        return {}
    # mypy does not accept a union as a type object.
    match decode_json(bytes(fields.text), dict[str, Any] | None):  # type: ignore[arg-type]
        case {"format": {"type": "json_schema", **schema}}:
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case {"format": {"type": "json_object"}}:
            return {"response_format": {"type": "json_object"}}
    return {}


def complete_responses(sink: ClientSink, call: InferenceCall, readiness: ModelReadiness) -> ResponsesSink:
    """Return a sink before `sink` that completes the answer to `call`."""
    limits = AnswerLimits(call.max_completion_tokens, partial(readiness.max_context_length, call.model))
    return ResponsesSink(sink, ResponsesAnswer(read_echoed_fields(call.body), call.model.id, limits))


_DEFAULT_HOOKS = DialectHooks(rewrite_events=name_system)
_RESPONSES_HOOKS = DialectHooks(
    format_error_event=responses_error_event,
    extra_fields=response_format_of,
    complete_answer=complete_responses,
)
_RERANK_HOOKS = DialectHooks(engine_path=RERANK_PATH)
_COUNTING_HOOKS = DialectHooks(extra_fields=response_format_of)
