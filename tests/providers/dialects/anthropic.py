"""Anthropic's Messages as the provider speaks it: requests read strictly, answers and events written."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.providers.brain import Answer, Question, Tool
from tests.providers.errors import ProviderError

FIELDS = frozenset(
    [
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    ]
)
COUNT_FIELDS = frozenset(
    ["cache_control", "messages", "model", "output_config", "system", "thinking", "tool_choice", "tools"]
)
BLOCK_FIELDS = {
    "text": {"type", "text", "cache_control", "citations"},
    "image": {"type", "source", "cache_control"},
    "document": {"type", "source", "cache_control", "title", "context", "citations"},
    "tool_use": {"type", "id", "name", "input", "cache_control", "caller"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
}
MEDIA_SIGNATURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
SIGNATURE = "c2lnbmF0dXJlIG9mIHRoZSB0aG91Z2h0"
FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def refuse(message: str) -> ProviderError:
    return ProviderError(400, message, type="invalid_request_error")


def read_messages(body: Any, *, counting: bool = False) -> Question:
    """The question of a request; raises `ProviderError` as Anthropic answers."""
    if not isinstance(body, dict):
        raise refuse("The request body is not valid JSON")
    if unknown := set(body) - (COUNT_FIELDS if counting else FIELDS):
        raise refuse(f"{min(unknown)}: Extra inputs are not permitted")
    if not counting and not (isinstance(body.get("max_tokens"), int) and body["max_tokens"] >= 1):
        raise refuse("max_tokens: Field required")
    question = Question(str(body.get("model", "")), max_tokens=body.get("max_tokens"))
    words = 0
    system = body.get("system", [])
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system:
        words += len(_check_block(block, "system", question).split())
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refuse("messages: at least one message is required")
    if messages[0].get("role") != "user":
        raise refuse('messages: first message must use the "user" role')
    open_calls: list[str] = []
    merged: list[tuple[str, list[dict[str, Any]]]] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in ("user", "assistant", "system") or set(message) != {"role", "content"}:
            raise refuse(f"messages.{number}: unexpected role or fields {sorted(message)}")
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks and number < len(messages) - 1:
            raise refuse(f"messages.{number}: all messages must have non-empty content")
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, list(blocks)))
    for number, (role, blocks) in enumerate(merged):
        texts = [_check_block(block, f"messages.{number}.content", question) for block in blocks]
        words += sum(len(text.split()) + 1 for text in texts)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if open_calls and sorted(results) != sorted(open_calls):
            raise refuse(
                f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(sorted(set(open_calls) - set(results)))}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
        if results and not open_calls:
            raise refuse(f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks")
        open_calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        kinds = [block["type"] for block in blocks]
        thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
        is_last = role == "assistant" and all(later != role for later, _ in merged[number + 1 :])
        if is_last and thinks and "tool_use" in kinds and "thinking" not in kinds[0]:
            raise refuse(
                f"messages.{number}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kinds[0]}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block"
            )
        if role == "user":
            plain = " ".join(b["text"] for b in blocks if b["type"] == "text")
            question.text = plain or question.text
            question.results = [_result_text(b) for b in blocks if b["type"] == "tool_result"]
    if open_calls:
        raise refuse("messages: the last tool calls have no results")
    question.prompt_words = words
    _read_options(body, question)
    return question


def _check_block(block: dict[str, Any], where: str, question: Question) -> str:
    kind = block.get("type", "")
    if kind not in BLOCK_FIELDS:
        raise refuse(
            f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        )
    if unknown := set(block) - BLOCK_FIELDS[kind]:
        raise refuse(f"{where}.{kind}.{min(unknown)}: Extra inputs are not permitted")
    match block:
        case {"type": "text", "text": str(text)}:
            if not text.strip():
                raise refuse(f"{where}: text content blocks must be non-empty")
            return text
        case {"type": "image", "source": dict(source)}:
            question.images.append(_check_image(source, where))
        case {"type": "tool_use", "id": str(), "name": str(name), "input": dict()} if 1 <= len(name) <= 64:
            pass
        case {"type": "tool_result", "tool_use_id": str()}:
            content = block.get("content", "")
            for part in content if isinstance(content, list) else ():
                _check_block(part, f"{where}.tool_result", question)
            return _result_text(block)
        case {"type": "thinking", "thinking": str(), "signature": str(signature)}:
            if signature != SIGNATURE:
                raise refuse(f"{where}: Invalid `signature` in `thinking` block")
        case {"type": "redacted_thinking", "data": str()}:
            pass
        case {"type": "document"}:
            pass
        case _:
            raise refuse(f"{where}.{kind}: Input should be valid: {json.dumps(block)[:100]}")
    return ""


def _check_image(source: dict[str, Any], where: str) -> str:
    match source:
        case {"type": "url", "url": str(url)} if len(source) == 2:
            return url
        case {"type": "base64", "media_type": str(media_type), "data": str(data)} if len(source) == 3:
            if media_type not in MEDIA_SIGNATURES:
                raise refuse(
                    f"{where}.image.source.media_type: Input should be one of {list(MEDIA_SIGNATURES)}"
                )
            try:
                raw = base64.b64decode(data, validate=True)
            except ValueError:
                raise refuse(f"{where}.image.source.base64: invalid base64 data") from None
            if not raw.startswith(MEDIA_SIGNATURES[media_type]):
                raise refuse(f"{where}: Image does not match the provided media type {media_type}")
            return media_type
    raise refuse(f"{where}.image.source: Input should be a valid dictionary or object")


def _result_text(block: dict[str, Any]) -> str:
    content = block.get("content", "")
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", f"<{part.get('type')}>") for part in content)


def _read_options(body: dict[str, Any], question: Question) -> None:
    for tool in body.get("tools") or ():
        match tool:
            case {"name": str(name), "input_schema": {"type": "object"}} if len(name) <= 64:
                unknown = set(tool) - {
                    "name",
                    "description",
                    "input_schema",
                    "cache_control",
                    "strict",
                    "type",
                }
                if unknown:
                    raise refuse(f"tools.0.custom.{min(unknown)}: Extra inputs are not permitted")
                question.tools.append(Tool(name, tool["input_schema"]))
            case _:
                raise refuse(f"tools: Input should be valid: {json.dumps(tool)[:100]}")
    choice = body.get("tool_choice") or {"type": "auto"}
    match choice:
        case {"type": "auto" | "none" as kind}:
            question.tool_choice = kind
        case {"type": "any"}:
            question.tool_choice = "required"
        case {"type": "tool", "name": str(name)}:
            question.tool_choice = name
        case _:
            raise refuse(f"tool_choice: {choice}")
    if choice["type"] == "none" and "disable_parallel_tool_use" in choice:
        raise refuse("tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted")
    question.parallel = not choice.get("disable_parallel_tool_use", False)
    match body.get("thinking"):
        case {"type": "enabled", "budget_tokens": int(budget)}:
            if budget < 1024 or budget >= body["max_tokens"]:
                raise refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
            if body.get("temperature", 1) != 1:
                raise refuse("`temperature` may only be set to 1 when thinking is enabled.")
            if question.tool_choice not in ("auto", "none"):
                raise refuse("Thinking may not be enabled when tool_choice forces tool use.")
            question.think = True
        case {"type": "adaptive"}:
            question.think = True
        case {"type": "disabled"} | None:
            pass
        case other:
            raise refuse(f"thinking: {other}")
    if not 0 <= body.get("temperature", 1) <= 1:
        raise refuse("temperature: range: 0..1")
    match body.get("output_config", {}).get("format"):
        case {"type": "json_schema", "schema": dict(schema)}:
            question.schema = schema
        case None:
            pass
        case other:
            raise refuse(f"output_config.format: {other}")
    question.stop = list(body.get("stop_sequences") or ())


def usage_of(answer: Answer, *, begun: bool = False) -> dict[str, Any]:
    return {
        "input_tokens": answer.prompt_tokens - answer.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": 1 if begun else answer.completion_tokens,
    }


def _blocks(answer: Answer, *, signed: bool) -> Iterator[dict[str, Any]]:
    if answer.thinking:
        thinking = {"type": "thinking", "thinking": "".join(answer.thinking)}
        yield {**thinking, "signature": SIGNATURE if signed else ""}
    if answer.text:
        yield {"type": "text", "text": answer.text}
    for call in answer.calls:
        yield {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": call.arguments}


def stop_fields(answer: Answer) -> dict[str, Any]:
    reason = "stop_sequence" if answer.stop_sequence else FINISH[answer.finish]
    return {"stop_reason": reason, "stop_sequence": answer.stop_sequence}


def message_document(model: str, answer: Answer, *, signed: bool = True) -> dict[str, Any]:
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(_blocks(answer, signed=signed)),
        **stop_fields(answer),
        "usage": usage_of(answer),
    }


def message_events(model: str, answer: Answer, *, signed: bool = True) -> Iterator[dict[str, Any]]:
    """The events of a stream, with a ping after the first."""
    start = {**message_document(model, answer), "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**start, "usage": usage_of(answer, begun=True)}}
    yield {"type": "ping"}
    for index, block in enumerate(_blocks(answer, signed=signed)):
        match block:
            case {"type": "thinking"}:
                empty: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in answer.thinking]
                if signed:
                    deltas.append({"type": "signature_delta", "signature": SIGNATURE})
            case {"type": "text"}:
                empty = {"type": "text", "text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
            case _:
                empty = {**block, "input": {}}
                text = json.dumps(block["input"]) if block["input"] else ""
                pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces]]
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    usage = usage_of(answer)
    yield {"type": "message_delta", "delta": stop_fields(answer), "usage": usage}
    yield {"type": "message_stop"}
