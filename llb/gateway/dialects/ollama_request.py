"""What Ollama's clients ask, and the same as a request of OpenAI's dialect. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llb.errors import InvalidRequest

CHAT_PATH, COMPLETION_PATH, EMBEDDINGS_PATH = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

MAX_TOKENS = 2**31 - 1  # an engine counts no further

# What an image begins with, in Base64; the engine looks at the bytes themselves.
_IMAGE_TYPES = {"iVBOR": "png", "/9j/": "jpeg", "R0lG": "gif", "UklG": "webp", "Qk": "bmp"}
_REASONING_EFFORTS = ("low", "medium", "high", "max")


class Options(Struct, frozen=True, omit_defaults=True):
    """Those that an engine has too. Others (`num_ctx`, `num_gpu`, …) pass unheard: they are the host's business."""

    num_predict: float | None = None
    num_keep: float | None = None
    temperature: float | None = None
    top_k: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | float | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: dict[str, Any] = {}


class ToolCall(Struct, frozen=True):
    function: CalledFunction
    id: str | None = None


class Message(Struct, frozen=True):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None


class ModelRequest(Struct, frozen=True, kw_only=True):
    """What all requests to a model have."""

    model: str
    options: Options | None = None
    keep_alive: str | float | None = None


class TextRequest(ModelRequest, frozen=True, kw_only=True):
    """What all have that are answered in words."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None

    @property
    def wants_stream(self) -> bool:
        return self.stream is not False


class ChatRequest(TextRequest, frozen=True, kw_only=True):
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(TextRequest, frozen=True, kw_only=True):
    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    template: str | None = None
    suffix: str | None = None
    context: list[int] | None = None


class EmbedRequest(ModelRequest, frozen=True, kw_only=True):
    input: str | list[str]
    dimensions: int | None = None


class OldEmbedRequest(ModelRequest, frozen=True, kw_only=True):
    prompt: str | None = None


class NamedModel(Struct, frozen=True, kw_only=True):
    """A request about a model, which older clients call `name`."""

    model: str = ""
    name: str = ""

    @property
    def requested_model(self) -> str:
        """Raises `InvalidRequest` where neither is given."""
        if not (self.model or self.name):
            raise InvalidRequest("model is required", param="model")
        return self.model or self.name


class PullRequest(NamedModel, frozen=True, kw_only=True):
    stream: bool | None = None


class EngineRequest(Struct, frozen=True):
    """A request as OpenAI's dialect has it: `path`, and the body without its `model`."""

    path: str
    document: dict[str, Any]

    def encode_body(self, model_id: str) -> bytes:
        """Raises `InvalidRequest` for what can be read and not be written."""
        try:
            return msgspec.json.encode({"model": model_id, **self.document})
        except (OverflowError, RecursionError):
            raise InvalidRequest("A number of the request is too large, or it is too deeply nested") from None


def translate_chat(request: ChatRequest) -> EngineRequest | None:
    """None: there is nothing to answer, the model is to be loaded. Raises `InvalidRequest`."""
    if not request.messages:
        return None
    document = {
        "messages": list(_translate_messages(request.messages)),
        **_generation_fields(request),
        **_response_format(request.format),
    }
    if request.tools:
        document["tools"] = request.tools
    return EngineRequest(CHAT_PATH, {**document, **_thinking_fields(request.think)})


def translate_generate(request: GenerateRequest) -> EngineRequest | None:
    """As `chat`: a prompt is its only message, unless it is `raw`."""
    if request.template:
        raise InvalidRequest(
            "A request cannot bring its own template: send the whole prompt with raw", param="template"
        )
    if request.suffix:
        raise InvalidRequest(
            "Text cannot be filled in before a suffix: send the model's own marks for that with raw",
            param="suffix",
        )
    if request.context:
        raise InvalidRequest(
            "A context of an earlier answer cannot be taken up: use /api/chat", param="context"
        )
    if not request.prompt and not request.images:
        return None
    if request.raw:
        if request.system or request.images:
            raise InvalidRequest("A raw prompt has no system message and no images", param="raw")
        return EngineRequest(
            COMPLETION_PATH,
            {"prompt": request.prompt, **_generation_fields(request), **_json_schema_field(request.format)},
        )
    messages = [Message("user", request.prompt, images=request.images)]
    if request.system:
        messages.insert(0, Message("system", request.system))
    document = {
        "messages": list(_translate_messages(messages)),
        **_generation_fields(request),
        **_response_format(request.format),
    }
    return EngineRequest(CHAT_PATH, {**document, **_thinking_fields(request.think)})


def translate_embed(request: EmbedRequest) -> EngineRequest:
    """Raises `InvalidRequest` for what an engine does not do."""
    if request.dimensions is not None:
        raise InvalidRequest("A model's vectors have the length that they have", param="dimensions")
    return EngineRequest(EMBEDDINGS_PATH, {"input": request.input})


def translate_legacy_embed(request: OldEmbedRequest) -> EngineRequest:
    return EngineRequest(EMBEDDINGS_PATH, {"input": request.prompt or ""})


def build_load_request(*, is_embedding: bool) -> EngineRequest:
    """What costs nothing, and is not answered before the model is in memory."""
    if is_embedding:
        return EngineRequest(EMBEDDINGS_PATH, {"input": " "})
    return EngineRequest(COMPLETION_PATH, {"prompt": "", "max_tokens": 1})


# --- parts of a request ------------------------------------------------------------------------------


def _generation_fields(request: TextRequest) -> dict[str, Any]:
    document: dict[str, Any] = {"stream": request.wants_stream}
    if request.wants_stream:
        document["stream_options"] = {"include_usage": True}
    options: dict[str, Any] = msgspec.to_builtins(request.options or Options())
    most, keep = options.pop("num_predict", None), options.pop("num_keep", None)
    if most is not None and most >= 1:  # -1 and -2: as much as there is room for
        document["max_tokens"] = min(int(most), MAX_TOKENS)
    if keep is not None:
        document["n_keep"] = max(-1, min(int(keep), MAX_TOKENS))
    return document | options


def _response_format(output_format: str | dict[str, Any] | None) -> dict[str, Any]:
    schema = _parse_schema(output_format)
    if schema is None:
        return {}
    if not schema:
        return {"response_format": {"type": "json_object"}}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    }


def _json_schema_field(output_format: str | dict[str, Any] | None) -> dict[str, Any]:
    schema = _parse_schema(output_format)
    return {} if schema is None else {"json_schema": schema}


def _parse_schema(output_format: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON schema that is wanted, empty where any JSON will do; None without one."""
    if isinstance(output_format, str) and output_format not in ("", "json"):
        raise InvalidRequest('format is "json" or a JSON schema', param="format")
    return ({} if output_format else None) if isinstance(output_format, str) else output_format


def _thinking_fields(think: bool | str | None) -> dict[str, Any]:
    """A template that knows nothing of it goes on as ever."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _REASONING_EFFORTS:
        raise InvalidRequest(f"think is true, false or one of {', '.join(_REASONING_EFFORTS)}", param="think")
    return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": think}}


def _translate_messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """OpenAI's calls have ids, by which an answer names its call; Ollama's may have none: the order tells."""
    made = 0
    unanswered: list[str] = []
    for message in messages:
        document: dict[str, Any] = {"role": message.role, "content": _translate_content(message)}
        if message.thinking:
            document["reasoning_content"] = message.thinking
        if message.tool_calls:
            ids = [call.id or f"call_{made + place}" for place, call in enumerate(message.tool_calls)]
            made += len(ids)
            unanswered = list(ids)
            document["tool_calls"] = [
                {"id": call_id, "type": "function", "function": _translate_function(call.function)}
                for call_id, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            answered = message.tool_call_id or (unanswered[0] if unanswered else f"call_{made}")
            if answered in unanswered:
                unanswered.remove(answered)
            document["tool_call_id"] = answered
            if message.tool_name:
                document["name"] = message.tool_name
        yield document


def _translate_function(called: CalledFunction) -> dict[str, str]:
    return {"name": called.name, "arguments": msgspec.json.encode(called.arguments).decode()}


def _translate_content(message: Message) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    parts += [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return parts


def _data_url(image: str) -> str:
    if image.startswith("data:"):
        return image
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"
