"""Requests in Ollama's dialect and their translation to OpenAI's dialect. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llb.errors import InvalidRequest
from llb.gateway.normalization.content import read_content
from llb.gateway.normalization.scalars import read_flag, read_token_limit, read_whole_number
from llb.gateway.normalization.tool_calls import CallIds, arguments_text, result_text
from llb.policy.endpoints import dialects

# llama.cpp counts tokens with 32 bits.
MAX_TOKENS = 2**31 - 1

# Image formats by the start of their Base64 encoding. Only a hint: the engine detects the format itself.
_IMAGE_TYPES = {"iVBOR": "png", "/9j/": "jpeg", "R0lG": "gif", "UklG": "webp", "Qk": "bmp"}
_REASONING_EFFORTS = ("low", "medium", "high", "max")


class Options(Struct, frozen=True, omit_defaults=True):
    """The options that llama-server has too; the others, such as `num_ctx` and `num_gpu`, are ignored."""

    # Their values are read where the values of all dialects are.
    num_predict: Any = None
    num_keep: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    typical_p: Any = None
    seed: Any = None
    stop: Any = None
    repeat_penalty: Any = None
    repeat_last_n: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None


class CalledFunction(Struct, frozen=True):
    name: str
    # An object, its text, null or nothing.
    arguments: Any = None


class ToolCall(Struct, frozen=True):
    function: CalledFunction
    id: str | None = None


class Message(Struct, frozen=True):
    role: str
    # A text, or parts of another dialect.
    content: Any = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None


class ModelRequest(Struct, frozen=True, kw_only=True):
    """Fields of every request that runs a model."""

    model: str
    options: Options | None = None
    keep_alive: str | float | None = None


class TextRequest(ModelRequest, frozen=True, kw_only=True):
    """Fields of every request that generates text."""

    # A flag in any form.
    stream: Any = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None

    @property
    def wants_stream(self) -> bool:
        """Whether the answer is streamed; raises `InvalidRequest`."""
        return self.stream is None or read_flag("stream", self.stream)


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
    input: str | list[str] | None = None
    dimensions: int | None = None
    truncate: bool | None = None


class OldEmbedRequest(ModelRequest, frozen=True, kw_only=True):
    prompt: str | None = None


class NamedModel(Struct, frozen=True, kw_only=True):
    """A request about a model. Older clients send its name as `name`."""

    model: str = ""
    name: str = ""

    @property
    def requested_model(self) -> str:
        """The model name; raises `InvalidRequest` if neither field has one."""
        if not (self.model or self.name):
            raise InvalidRequest("model is required", param="model")
        return self.model or self.name


class PullRequest(NamedModel, frozen=True, kw_only=True):
    stream: bool | None = None


class EngineRequest(Struct, frozen=True):
    """A request in OpenAI's dialect: the path, and the body without its `model`."""

    path: str
    document: dict[str, Any]

    def encode_body(self, model_id: str) -> bytes:
        """Return the body as JSON; raises `InvalidRequest` for values that cannot be encoded."""
        try:
            return msgspec.json.encode({"model": model_id, **self.document})
        except (OverflowError, RecursionError):
            raise InvalidRequest(
                "The request has a number that is too large, or is too deeply nested"
            ) from None


def translate_chat(request: ChatRequest) -> EngineRequest | None:
    """Translate a chat; raises `InvalidRequest`.

    Returns None for a chat without messages, which loads or unloads the model.
    """
    if not request.messages:
        return None
    document = {
        "messages": list(_translate_messages(request.messages)),
        **_generation_fields(request),
        **_response_format(request.format),
    }
    if request.tools:
        document["tools"] = request.tools
    return EngineRequest(dialects.CHAT, {**document, **_thinking_fields(request.think)})


def translate_generate(request: GenerateRequest) -> EngineRequest | None:
    """Translate a prompt to a chat with one message, or to a completion if it is `raw`.

    Returns None without a prompt. Raises `InvalidRequest`.
    """
    if request.template:
        raise InvalidRequest("template is not supported: send a complete prompt with raw", param="template")
    if request.suffix:
        raise InvalidRequest(
            "suffix is not supported: send the model's own fill-in-the-middle tokens with raw",
            param="suffix",
        )
    if request.context:
        raise InvalidRequest("context is not supported: use /api/chat", param="context")
    if not request.prompt and not request.images:
        return None
    if request.raw:
        if request.system or request.images:
            raise InvalidRequest("A raw prompt cannot have a system message or images", param="raw")
        return EngineRequest(
            dialects.COMPLETIONS,
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
    return EngineRequest(dialects.CHAT, {**document, **_thinking_fields(request.think)})


def translate_embed(request: EmbedRequest) -> EngineRequest | None:
    """Translate a request for embeddings; texts that are too long are truncated by default.

    Returns None for a request without a text, which loads the model.
    """
    if not request.input:
        return None
    document: dict[str, Any] = {"input": request.input, "truncate": request.truncate is not False}
    if request.dimensions:
        document["dimensions"] = request.dimensions
    return EngineRequest(dialects.EMBEDDINGS, document)


def translate_legacy_embed(request: OldEmbedRequest) -> EngineRequest | None:
    """Translate a request of older clients for one embedding; None without a text."""
    return EngineRequest(dialects.EMBEDDINGS, {"input": request.prompt}) if request.prompt else None


def build_load_request(*, is_embedding: bool) -> EngineRequest:
    """Return the cheapest request that is answered only once the model is loaded."""
    if is_embedding:
        return EngineRequest(dialects.EMBEDDINGS, {"input": " "})
    return EngineRequest(dialects.COMPLETIONS, {"prompt": "", "max_tokens": 1})


# --- parts of a request ------------------------------------------------------------------------------


def _generation_fields(request: TextRequest) -> dict[str, Any]:
    document: dict[str, Any] = {"stream": request.wants_stream}
    if request.wants_stream:
        document["stream_options"] = {"include_usage": True}
    given: dict[str, Any] = msgspec.to_builtins(request.options or Options())
    options = {name: value for name, value in given.items() if value is not None}
    num_predict, num_keep = options.pop("num_predict", None), options.pop("num_keep", None)
    limit = None if num_predict is None else read_token_limit("num_predict", num_predict)
    # Every negative number means no limit but the context.
    if limit is not None and limit >= 1:
        document["max_tokens"] = limit
    if num_keep is not None:
        document["n_keep"] = max(-1, min(read_whole_number("num_keep", num_keep), MAX_TOKENS))
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
    """Return the requested JSON schema, empty for any JSON, None for plain text."""
    if isinstance(output_format, str) and output_format not in ("", "json"):
        raise InvalidRequest('format must be "json" or a JSON schema', param="format")
    return ({} if output_format else None) if isinstance(output_format, str) else output_format


def _thinking_fields(think: bool | str | None) -> dict[str, Any]:
    # Chat templates ignore arguments that they do not use.
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _REASONING_EFFORTS:
        raise InvalidRequest(
            f"think must be true, false or one of {', '.join(_REASONING_EFFORTS)}", param="think"
        )
    return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": think}}


def _translate_messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Translate messages, with an id for each tool call and its result.

    OpenAI's dialect requires the ids. In Ollama's they are optional: results follow the order of the calls.
    """
    ids = CallIds()
    for index, message in enumerate(messages):
        document: dict[str, Any] = {"role": message.role, "content": _translate_content(index, message)}
        if message.thinking:
            document["reasoning_content"] = message.thinking
        if message.tool_calls:
            document["tool_calls"] = [
                {
                    "id": ids.begin(call.id, call.function.name),
                    "type": "function",
                    "function": _translate_function(call.function),
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            document["tool_call_id"] = ids.end(message.tool_call_id, message.tool_name)
            if message.tool_name:
                document["name"] = message.tool_name
        yield document


def _translate_function(function: CalledFunction) -> dict[str, str]:
    return {"name": function.name, "arguments": arguments_text(function.arguments)}


def _translate_content(index: int, message: Message) -> str | list[dict[str, Any]]:
    given = result_text(message.content) if message.role == "tool" else message.content
    content, _ = read_content(f"messages[{index}].content", given)
    if not message.images:
        return content
    parts = list(content) if isinstance(content, list) else []
    if content and isinstance(content, str):
        parts.append({"type": "text", "text": content})
    parts += [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return parts


def _data_url(image: str) -> str:
    if image.startswith("data:"):
        return image
    subtype = next((subtype for start, subtype in _IMAGE_TYPES.items() if image.startswith(start)), "png")
    return f"data:image/{subtype};base64,{image}"
