"""OpenAI's dialect: chats, completions, Responses, embeddings, and the reranking that others have added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb.api.access import requires
from llb.api.inference import Dialect, Inference
from llb.api.replies import decode, error_body, reply
from llb.errors import LlbError
from llb.wire import InferenceHead, Model, Scope

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
RESPONSES_PATHS = ("/v1/responses", "/v1/responses/input_tokens")


def openai_blueprint(inference: Inference) -> Blueprint:
    """`/v1` as OpenAI's clients call it."""
    blueprint = Blueprint("openai")
    dispatcher = inference.dispatcher

    @blueprint.get("/v1/models", name="models")
    @requires(Scope.INFERENCE)
    async def list_models(_request: Request) -> HTTPResponse:
        return reply(
            {"object": "list", "data": [_model_object(model) for model in dispatcher.ready_models()]}
        )

    @blueprint.get("/v1/models/<model_id:path>", name="model")
    @requires(Scope.INFERENCE)
    async def get_model(_request: Request, model_id: str) -> HTTPResponse:
        model = dispatcher.model(unquote(model_id))  # clients write the slash of `org/repo` as %2F
        dispatcher.require_ready(model)
        return reply(_model_object(model))

    @requires(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        await inference.answer(request, _PLAIN)

    @requires(Scope.INFERENCE)
    async def respond(request: Request) -> None:
        await inference.answer(request, _RESPONSES)

    for path in PATHS:
        blueprint.add_route(infer, path, methods=["POST"], name=_name(path))
    for path in RESPONSES_PATHS:
        blueprint.add_route(respond, path, methods=["POST"], name=_name(path))
    return blueprint


def _name(path: str) -> str:
    return path.removeprefix("/v1/").replace("/", "_")


def _model_object(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": 0, "owned_by": "llb"}


# --- Responses ---------------------------------------------------------------------------------------


def responses_error_event(error: LlbError) -> bytes:
    """An error inside a stream of Responses: `error` is what the official client looks for."""
    body = {
        "type": "error",
        "sequence_number": 0,
        "code": error.code,
        "message": error.message,
        "param": None,
        **error_body(error),
    }
    return b"event: error\ndata: " + msgspec.json.encode(body) + b"\n\n"


def wanted_form(head: InferenceHead) -> Mapping[str, Any]:
    """The form of the answer (`text.format`) as a chat asks for it: of Responses the engine does not know it."""
    if not head.text:
        return {}
    match decode(bytes(head.text), dict[str, Any] | None):  # type: ignore[arg-type]  # a type to msgspec
        case {"format": {"type": "json_schema", **schema}}:
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case {"format": {"type": "json_object"}}:
            return {"response_format": {"type": "json_object"}}
    return {}


_PLAIN = Dialect()
_RESPONSES = Dialect(error_event=responses_error_event, amend=wanted_form)
