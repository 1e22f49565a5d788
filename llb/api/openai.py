"""OpenAI's dialect: chats, completions, Responses, embeddings, and the reranking that others have added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.api.inference import Dialect, Inference
from llb.api.replies import decode, error_body, reply
from llb.api.shapes import INFERENCE, OF_READINESS
from llb.errors import LlbError
from llb.wire import InferenceHead, ModelObject, ModelObjects, Scope

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
RESPONSES_PATHS = ("/v1/responses", "/v1/responses/input_tokens")


def openai_blueprint(inference: Inference) -> Blueprint:
    """`/v1` as OpenAI's clients call it."""
    blueprint = Blueprint("openai")
    dispatcher = inference.dispatcher

    @blueprint.get("/v1/models", name="models")
    @requires(Scope.INFERENCE)
    @Documented("List the Ready models", reply=ModelObjects)
    async def list_models(_request: Request) -> HTTPResponse:
        ready = dispatcher.ready_models()
        return reply(ModelObjects(data=tuple(ModelObject(id=model.id) for model in ready)))

    @blueprint.get("/v1/models/<model_id:path>", name="model")
    @requires(Scope.INFERENCE)
    @Documented("Show a Ready model", reply=ModelObject, errors=OF_READINESS)
    async def get_model(_request: Request, model_id: str) -> HTTPResponse:
        model = dispatcher.model(unquote(model_id))  # clients write the slash of `org/repo` as %2F
        dispatcher.require_ready(model)
        return reply(ModelObject(id=model.id))

    @requires(Scope.INFERENCE)
    async def infer(request: Request) -> None:
        await inference.answer(request, _PLAIN)

    @requires(Scope.INFERENCE)
    async def respond(request: Request) -> None:
        await inference.answer(request, _RESPONSES)

    for path in PATHS:
        blueprint.add_route(infer, path, methods=["POST"], name=_name(path), ctx_documented=INFERENCE[path])
    for path in RESPONSES_PATHS:
        blueprint.add_route(respond, path, methods=["POST"], name=_name(path), ctx_documented=INFERENCE[path])
    return blueprint


def _name(path: str) -> str:
    return path.removeprefix("/v1/").replace("/", "_")


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
