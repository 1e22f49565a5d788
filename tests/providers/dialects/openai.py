"""OpenAI's dialect as a provider speaks it: requests read strictly, answers and chunks written."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.providers.brain import Answer, Question, Tool
from tests.providers.errors import ProviderError

CREATED = 1_790_000_000
CHAT_FIELDS = frozenset(
    [
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    ]
)
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "audio", "tool_calls", "function_call"},
    "tool": {"role", "content", "tool_call_id"},
}


@dataclass(frozen=True)
class Style:
    """How a provider differs from OpenAI."""

    # Fields beyond OpenAI's are refused.
    strict: bool = False
    # Field of the answer with the thinking; None for none.
    reasoning_field: str | None = "reasoning_content"
    # Usage in every chunk, cumulative (Gemini).
    usage_everywhere: bool = False
    # `stop` although tools were called (Gemini, older engines).
    finish_stop_with_tools: bool = False
    # Image URLs are refused: Base64 only (Ollama).
    base64_images_only: bool = False
    # Whole calls in one delta, all with index 0 (Gemini).
    whole_calls: bool = False
    # Extra content of a tool call, such as Gemini's thought signature.
    call_extra: dict[str, Any] | None = None
    comments: bool = False


def read_chat(body: Any, style: Style) -> Question:
    """The question of a chat; raises `ProviderError` as the provider answers."""
    if not isinstance(body, dict):
        raise ProviderError(400, "We could not parse the JSON body of your request.")
    if style.strict and (unknown := set(body) - CHAT_FIELDS):
        raise ProviderError(400, f"Unrecognized request argument supplied: {min(unknown)}")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ProviderError(400, "Invalid 'messages': empty array.", param="messages")
    question = Question(str(body.get("model", "")))
    open_calls: set[str] = set()
    words = 0
    for message in messages:
        role = message.get("role")
        if role not in MESSAGE_FIELDS:
            raise ProviderError(400, f"Invalid value: '{role}' for role", param="messages")
        if style.strict and (unknown := set(message) - MESSAGE_FIELDS[role]):
            raise ProviderError(400, f"Additional properties are not allowed: {unknown}", param="messages")
        if open_calls and role != "tool":
            raise ProviderError(
                400,
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {sorted(open_calls)}",
                param="messages",
            )
        text = _read_content(message, question, style)
        words += len(text.split()) + 1
        if role == "user":
            question.text = text
            question.results.clear()
        elif role == "assistant":
            question.results.clear()
            for number, call in enumerate(message.get("tool_calls") or ()):
                _check_call(call, style, is_first=number == 0)
                open_calls.add(call["id"])
            if message.get("content") is None and not message.get("tool_calls") and style.strict:
                raise ProviderError(400, "Invalid value for 'content': expected a string, got null.")
        elif role == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise ProviderError(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                    "'tool_calls'.",
                    param="messages",
                )
            open_calls.discard(message["tool_call_id"])
            question.results.append(text)
    question.prompt_words = words
    _read_options(body, question)
    return question


def _read_content(message: dict[str, Any], question: Question, style: Style) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                question.images.append(_read_image(url, style))
            case {"type": "refusal"} | {
                "type": "input_audio",
                "input_audio": {"data": str(), "format": str()},
            }:
                pass
            case _:
                raise ProviderError(400, f"Invalid content part: {json.dumps(part)[:80]}", param="messages")
    return " ".join(texts)


def _read_image(url: str, style: Style) -> str:
    if not url.startswith("data:"):
        if style.base64_images_only:
            raise ProviderError(400, "invalid image input")
        return url
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        raise ProviderError(400, "Invalid base64 image.", param="messages") from None
    if kind not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        raise ProviderError(400, f"unsupported image type {kind}", param="messages")
    return kind


def _check_call(call: dict[str, Any], style: Style, *, is_first: bool) -> None:
    match call:
        case {"id": str(), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}}:
            if style.strict and (set(call) - {"id", "type", "function"} or len(name) > 64):
                raise ProviderError(400, f"Invalid tool call {name}", param="messages")
            if style.call_extra is not None and is_first and "extra_content" not in call:
                raise ProviderError(
                    400, "Function call is missing a thought_signature in functionCall parts.", param=None
                )
            json.loads(arguments)
        case _:
            raise ProviderError(400, f"Invalid tool call: {json.dumps(call)[:120]}", param="messages")


def _read_options(body: dict[str, Any], question: Question) -> None:
    for tool in body.get("tools") or ():
        match tool:
            case {"type": "function", "function": {"name": str(name)}}:
                question.tools.append(Tool(name, tool["function"].get("parameters") or {}))
            case _:
                raise ProviderError(400, f"Invalid tool: {json.dumps(tool)[:80]}", param="tools")
    match body.get("tool_choice", "auto"):
        case "auto" | "none" | "required" as choice:
            question.tool_choice = choice
        case {"type": "function", "function": {"name": str(name)}}:
            question.tool_choice = name
        case other:
            raise ProviderError(400, f"Invalid tool_choice: {other}", param="tool_choice")
    question.parallel = body.get("parallel_tool_calls", True)
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"name": str(), "schema": dict(schema)}}:
            question.schema = schema
        case {"type": "json_object"}:
            question.schema = {}
        case None | {"type": "text"}:
            pass
        case _:
            raise ProviderError(400, "Invalid response_format", param="response_format")
    question.max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    if question.max_tokens is not None and question.max_tokens < 1:
        raise ProviderError(400, "max_tokens is too small: it must be at least 1", param="max_tokens")
    stop = body.get("stop")
    question.stop = [stop] if isinstance(stop, str) else list(stop or ())
    question.think = body.get("reasoning_effort") not in (None, "none")


def usage_of(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": len(answer.thinking)},
    }


def _call_of(call: Any, style: Style, index: int | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": json.dumps(call.arguments) if call.arguments else ""},
    }
    if index is not None:
        document["index"] = 0 if style.whole_calls else index
    if style.call_extra is not None:
        document["extra_content"] = style.call_extra
    return document


def finish_of(answer: Answer, style: Style) -> str:
    return "stop" if style.finish_stop_with_tools and answer.finish == "tool_calls" else answer.finish


def chat_document(model: str, answer: Answer, style: Style) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if style.reasoning_field and answer.thinking:
        message[style.reasoning_field] = "".join(answer.thinking)
    if answer.calls:
        message["tool_calls"] = [_call_of(call, style) for call in answer.calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_of(answer, style)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [choice],
        "usage": usage_of(answer),
    }


def chat_chunks(model: str, answer: Answer, style: Style, *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, without `[DONE]`."""
    cumulative = Answer(prompt_tokens=answer.prompt_tokens, cached_tokens=answer.cached_tokens)

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        if style.usage_everywhere:
            cumulative.completion_tokens += 1
            document["usage"] = usage_of(answer if finish else cumulative)
        elif include_usage:
            document["usage"] = None
        return document

    yield chunk({"role": "assistant", "content": ""})
    for piece in answer.thinking if style.reasoning_field else ():
        yield chunk({style.reasoning_field or "": piece})
    for piece in answer.pieces:
        yield chunk({"content": piece})
    for index, call in enumerate(answer.calls):
        whole = _call_of(call, style, index)
        if style.whole_calls:
            yield chunk({"role": "assistant", "tool_calls": [whole]})
            continue
        text = whole["function"].pop("arguments")
        yield chunk({"tool_calls": [{**whole, "function": {**whole["function"], "arguments": ""}}]})
        for at in range(0, len(text), 7):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 7]}}]})
    yield chunk({}, finish_of(answer, style))
    if include_usage and not style.usage_everywhere:
        yield {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
            "choices": [],
            "usage": usage_of(answer),
        }


def completion_document(model: str, answer: Answer) -> dict[str, Any]:
    choice = {"text": answer.text, "index": 0, "logprobs": None, "finish_reason": answer.finish}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": CREATED,
        "model": model,
        "choices": [choice],
        "usage": usage_of(answer),
    }


def completion_chunks(model: str, answer: Answer, *, include_usage: bool) -> Iterator[dict[str, Any]]:
    base = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model}
    for piece in answer.pieces:
        yield {**base, "choices": [{"text": piece, "index": 0, "logprobs": None, "finish_reason": None}]}
    yield {**base, "choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": answer.finish}]}
    if include_usage:
        yield {**base, "choices": [], "usage": usage_of(answer)}


def embeddings_document(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise ProviderError(400, "'$.input' is invalid.", param="input")
    data = []
    for index, text in enumerate(texts):
        digest = hashlib.sha256(json.dumps(text).encode()).digest()
        vector = [byte / 255 - 0.5 for byte in digest[:8]]
        data.append({"object": "embedding", "index": index, "embedding": _encode_vector(vector, body)})
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def _encode_vector(vector: list[float], body: dict[str, Any]) -> Any:
    if body.get("encoding_format") != "base64":
        return vector
    import struct

    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
