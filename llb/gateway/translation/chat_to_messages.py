"""Requests: OpenAI's chat to Anthropic's Messages. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from llb.errors import InvalidRequest
from llb.gateway.normalization.text_files import PDF_IN_BASE64, decode_text_file
from llb.gateway.translation.content import (
    image_source_of_url,
    is_empty_text,
    normalize_tool_id,
    shorten_tool_name,
    shortened_names,
)
from llb.gateway.translation.thinking_blocks import blocks_of_chat_message, insert_thinking
from llb.gateway.translation.translated_request import TranslatedRequest, require_list
from llb.wire.decoding import DECODE_ERRORS

# Anthropic requires `max_tokens`; each of its present models has at least this many.
DEFAULT_MAX_TOKENS = 8192
MIN_THINKING_TOKENS = 1024
_THINKING_TOKENS = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 24_576,
    "max": 32_768,
}
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
# Models that think by a budget; later ones by an effort.
_BUDGET_MODEL = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[0-5])?(-2\d{7})?$)")
_SERVER_TOOL_TYPE = re.compile(r"[a-z_]+_20\d{6}")
# Anthropic's own fields, which clients of both dialects send.
_PASSED_FIELDS = ("top_k", "cache_control", "context_management", "stream")
_TRANSLATED_FIELDS = frozenset(
    {
        *_PASSED_FIELDS,
        *(
            "model",
            "messages",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "stop",
            "tools",
        ),
        *("tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "user"),
        *("functions", "function_call", "chat_template_kwargs", "output_config", "safety_identifier"),
        # The counts come anyway, and these have one meaning only here.
        *("stream_options", "n", "logprobs", "store", "keep_alive"),
    }
)


def translate_chat_request(
    chat: Mapping[str, Any], model: str, *, default_max_tokens: int = DEFAULT_MAX_TOKENS
) -> TranslatedRequest:
    """Translate a chat into a request of Messages for `model`.

    Raises `InvalidRequest` for what Anthropic cannot do and that would change the answer.
    """
    _refuse_impossible(chat)
    ignored = {name for name, value in chat.items() if name not in _TRANSLATED_FIELDS and value is not None}
    system, messages = _translate_messages(require_list(chat.get("messages"), "messages"))
    limit = chat.get("max_completion_tokens")
    max_tokens = limit if limit is not None else chat.get("max_tokens")
    document: dict[str, Any] = {
        "model": model,
        "max_tokens": default_max_tokens if max_tokens is None else max_tokens,
        "messages": messages,
    }
    if system:
        document["system"] = system
    document |= {name: chat[name] for name in _PASSED_FIELDS if chat.get(name) is not None}
    tools = _translate_tools(chat)
    if tools:
        document["tools"] = tools
        if choice := _translate_tool_choice(chat):
            document["tool_choice"] = choice
    document |= _thinking_fields(chat, model, document, ignored)
    _add_sampling(document, chat, ignored)
    _add_output_format(document, chat)
    if isinstance(user := chat.get("safety_identifier") or chat.get("user"), str):
        document["metadata"] = {"user_id": user}
    names = shortened_names(
        tool["function"]["name"] for tool in _chat_tools(chat) if tool.get("type") == "function"
    )
    return TranslatedRequest(document, tuple(sorted(ignored)), names)


def _refuse_impossible(chat: Mapping[str, Any]) -> None:
    """Refuse what would be answered wrongly, not merely less precisely."""
    if chat.get("n") not in (None, 1):
        raise InvalidRequest("This model gives one answer: n must be 1", param="n")
    for name in ("logprobs", "top_logprobs", "logit_bias", "audio", "web_search_options", "grammar"):
        if chat.get(name):
            raise InvalidRequest(f"This model does not support {name}", param=name)
    if "audio" in (chat.get("modalities") or ()):
        raise InvalidRequest("This model answers with text only", param="modalities")


# --- messages ----------------------------------------------------------------------------------------


def _translate_messages(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System blocks, and messages in which the results of parallel calls are one.

    Only system messages at the beginning are hoisted: to hoist a later one would change the prompt before
    what the provider has in its cache.
    """
    system: list[dict[str, Any]] = []
    translated: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            blocks = list(_text_blocks(message.get("content")))
            if not translated:
                system += blocks
                continue
            role = "system"
        elif role == "user":
            blocks = list(_content_blocks(message.get("content")))
        elif role == "assistant":
            blocks = _assistant_blocks(message)
        elif role in ("tool", "function"):
            role, blocks = "user", [_tool_result(message)]
        else:
            raise InvalidRequest(f"A message cannot have the role {role!r}", param="messages")
        if not blocks:
            continue
        if role != "assistant" and translated and translated[-1]["role"] == role:
            translated[-1]["content"] += blocks
        else:
            translated.append({"role": role, "content": blocks})
    if not translated:
        raise InvalidRequest("The messages have no content", param="messages")
    return system, translated


def _text_blocks(content: Any) -> Iterator[dict[str, Any]]:
    for block in _content_blocks(content):
        if block["type"] != "text":
            raise InvalidRequest("A system message can have text only", param="messages")
        yield block


def _content_blocks(content: Any) -> Iterator[dict[str, Any]]:
    """Blocks of a message's content; Anthropic refuses empty text, so that is left out."""
    if content is None or isinstance(content, str):
        if not is_empty_text(content):
            yield {"type": "text", "text": content}
        return
    for part in require_list(content, "messages"):
        block = _translate_part(part)
        if block is None:
            continue
        if isinstance(control := part.get("cache_control"), dict):
            block["cache_control"] = control
        yield block


def _translate_part(part: dict[str, Any]) -> dict[str, Any] | None:
    match part:
        case {"type": "text" | "refusal"}:
            text = part.get("text") if part["type"] == "text" else part.get("refusal")
            return None if is_empty_text(text) else {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"type": "image", "source": image_source_of_url(url)}
        case {"type": "file", "file": {"file_data": str(data), **file}}:
            document = {"type": "document", "source": _document_source(data)}
            return document | ({"title": file["filename"]} if isinstance(file.get("filename"), str) else {})
        # Anthropic's own parts, from clients that mix both.
        case {"type": "image" | "document", "source": dict()}:
            return {name: value for name, value in part.items() if name != "cache_control"}
    raise InvalidRequest(
        f"This model does not support content of type {part.get('type')!r}", param="messages"
    )


def _document_source(data: str) -> dict[str, Any]:
    """Anthropic's source of a file: a PDF as it is, any other as text. Raises `InvalidRequest`."""
    encoded = data.partition(",")[2] if data[:5].lower() == "data:" else data
    if encoded.lstrip().startswith(PDF_IN_BASE64):
        return {"type": "base64", "media_type": "application/pdf", "data": encoded.strip()}
    try:
        return {"type": "text", "media_type": "text/plain", "data": decode_text_file(data)}
    except ValueError as error:
        raise InvalidRequest(f"A file {error}", param="messages") from None


def _assistant_blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Thinking, text and calls, in the order in which the model made them."""
    blocks = list(_content_blocks(message.get("content")))
    if not blocks and not is_empty_text(message.get("refusal")):
        blocks = [{"type": "text", "text": message["refusal"]}]
    calls = require_list(message.get("tool_calls") or [], "messages")
    if isinstance(function := message.get("function_call"), dict):
        calls = [*calls, {"id": f"call_{function.get('name')}", "function": function}]
    blocks += [_tool_use(call) for call in calls]
    return insert_thinking(blocks, blocks_of_chat_message(message))


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("A tool call must have a function with a name", param="messages")
    return {
        "type": "tool_use",
        "id": normalize_tool_id(str(call.get("id", ""))),
        "name": shorten_tool_name(function["name"]),
        "input": parse_arguments(function.get("arguments")),
    }


def parse_arguments(arguments: Any) -> dict[str, Any]:
    """Arguments of a call as an object: a call without any may have an empty text."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None or is_empty_text(arguments):
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except DECODE_ERRORS:
        # Cut off by a token limit. The text is kept, so that the model can see what it did.
        return {"_arguments": arguments}
    return value if isinstance(value, dict) else {"_arguments": value}


def _tool_result(message: dict[str, Any]) -> dict[str, Any]:
    call_id = message.get("tool_call_id") or f"call_{message.get('name')}"
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": normalize_tool_id(str(call_id))}
    if content := list(_content_blocks(message.get("content"))):
        result["content"] = content
    if isinstance(control := message.get("cache_control"), dict):
        result["cache_control"] = control
    return result


# --- tools -------------------------------------------------------------------------------------------


def _chat_tools(chat: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = require_list(chat.get("tools") or [], "tools")
    legacy = require_list(chat.get("functions") or [], "functions")
    tools = [*tools, *({"type": "function", "function": function} for function in legacy)]
    for tool in tools:
        if tool.get("type") == "function" and not isinstance(
            (tool.get("function") or {}).get("name") if isinstance(tool.get("function"), dict) else None, str
        ):
            raise InvalidRequest("A tool must have a function with a name", param="tools")
    match chat.get("tool_choice"):
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(allowed)}}:
            names = {_name_of_choice(choice) for choice in allowed}
            tools = [tool for tool in tools if (tool.get("function") or {}).get("name") in names]
    return tools


def _translate_tools(chat: Mapping[str, Any]) -> list[dict[str, Any]]:
    translated: list[dict[str, Any]] = []
    for tool in _chat_tools(chat):
        if tool.get("type") != "function":
            if _SERVER_TOOL_TYPE.fullmatch(str(tool.get("type"))):
                translated.append(tool)
                continue
            raise InvalidRequest(f"This model has no tools of type {tool.get('type')!r}", param="tools")
        function = tool["function"]
        schema = function.get("parameters") or {}
        entry: dict[str, Any] = {
            "name": shorten_tool_name(function["name"]),
            "input_schema": {"type": "object", "properties": {}} | schema | {"type": "object"},
        }
        if isinstance(function.get("description"), str):
            entry["description"] = function["description"]
        if function.get("strict"):
            entry["strict"] = True
        if isinstance(control := tool.get("cache_control") or function.get("cache_control"), dict):
            entry["cache_control"] = control
        translated.append(entry)
    return translated


def _name_of_choice(choice: Any) -> str | None:
    match choice:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    return None


def _translate_tool_choice(chat: Mapping[str, Any]) -> dict[str, Any]:
    """`tool_choice` of Messages; whether calls may be parallel is a part of it."""
    choice = chat.get("tool_choice", chat.get("function_call"))
    translated: dict[str, Any] = {}
    match choice:
        case None:
            pass
        case "auto" | "none":
            translated = {"type": choice}
        case "required":
            translated = {"type": "any"}
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode)}}:
            translated = {"type": "any" if mode == "required" else "auto"}
        case _ if (name := _name_of_choice(choice)) is not None:
            translated = {"type": "tool", "name": shorten_tool_name(name)}
        case _:
            raise InvalidRequest(
                "tool_choice must be auto, none, required or name a function", param="tool_choice"
            )
    if chat.get("parallel_tool_calls") is False and translated.get("type") != "none":
        translated = {"type": "auto", **translated, "disable_parallel_tool_use": True}
    return translated


# --- options -----------------------------------------------------------------------------------------


def _thinking_fields(
    chat: Mapping[str, Any], model: str, document: dict[str, Any], ignored: set[str]
) -> dict[str, Any]:
    """`thinking`, and the effort in `output_config`."""
    fields: dict[str, Any] = {}
    if isinstance(given := chat.get("output_config"), dict):
        fields["output_config"] = dict(given)
    if isinstance(chat.get("thinking"), dict):
        fields["thinking"] = chat["thinking"]
        return fields if _has_thinking_turns(document) else _without_thinking(fields, ignored, "thinking")
    template = chat.get("chat_template_kwargs")
    template = template if isinstance(template, dict) else {}
    effort = chat.get("reasoning_effort") or template.get("reasoning_effort")
    if effort is None and template.get("enable_thinking") is not None:
        effort = "medium" if template["enable_thinking"] else "none"
    if effort is None:
        return fields
    if effort == "none":
        return fields | {"thinking": {"type": "disabled"}}
    if effort not in _EFFORTS:
        raise InvalidRequest(
            f"reasoning_effort must be one of none, {', '.join(_EFFORTS)}", param="reasoning_effort"
        )
    if not _has_thinking_turns(document):
        return _without_thinking(fields, ignored, "reasoning_effort")
    if not _BUDGET_MODEL.match(model):
        output = {**fields.get("output_config", {}), "effort": _EFFORTS[effort]}
        return {"thinking": {"type": "adaptive"}, "output_config": output}
    if _is_forced(document):
        return _without_thinking(fields, ignored, "reasoning_effort")
    budget = _THINKING_TOKENS[effort]
    if chat.get("max_tokens") is None and chat.get("max_completion_tokens") is None:
        # The limit is ours, so it leaves room for the answer.
        document["max_tokens"] += budget
    budget = min(budget, document["max_tokens"] - 1)
    if budget < MIN_THINKING_TOKENS:
        return _without_thinking(fields, ignored, "reasoning_effort")
    return fields | {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _without_thinking(fields: dict[str, Any], ignored: set[str], name: str) -> dict[str, Any]:
    ignored.add(name)
    return {key: value for key, value in fields.items() if key != "thinking"}


def _is_forced(document: dict[str, Any]) -> bool:
    return (document.get("tool_choice") or {}).get("type") in ("any", "tool")


def _has_thinking_turns(document: dict[str, Any]) -> bool:
    """Whether the present turn can continue with thinking.

    Anthropic refuses thinking in a turn whose tool calls came without it, as they do from clients that keep
    no thinking.
    """
    for message in reversed(document["messages"]):
        kinds = [block["type"] for block in message["content"]]
        if message["role"] == "user" and "tool_result" not in kinds:
            return True
        if message["role"] == "assistant" and "tool_use" in kinds:
            return "thinking" in kinds or "redacted_thinking" in kinds
    return True


def _add_sampling(document: dict[str, Any], chat: Mapping[str, Any], ignored: set[str]) -> None:
    thinks = document.get("thinking", {}).get("type") in ("enabled", "adaptive")
    temperature = chat.get("temperature")
    if temperature is not None and thinks:
        ignored.add("temperature")
    elif isinstance(temperature, (int, float)):
        # OpenAI's range is 0 to 2.
        document["temperature"] = min(temperature, 1)
    if chat.get("top_p") is not None:
        document["top_p"] = chat["top_p"]
    stop = chat.get("stop")
    sequences = [stop] if isinstance(stop, str) else list(stop or ())
    if kept := [sequence for sequence in sequences if not is_empty_text(sequence)]:
        document["stop_sequences"] = kept
    if len(kept) < len(sequences):
        ignored.add("stop")


def _add_output_format(document: dict[str, Any], chat: Mapping[str, Any]) -> None:
    match chat.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            output = document.setdefault("output_config", {})
            output["format"] = {"type": "json_schema", "schema": close_objects(schema)}
        case {"type": "json_object"}:
            # Anthropic has no mode for any JSON.
            instruction = {"type": "text", "text": "Answer with one JSON object and nothing else."}
            document["system"] = [*document.get("system", []), instruction]


def close_objects(schema: Any) -> Any:
    """Schema whose objects allow no additional properties, as Anthropic requires."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        name: value if name in ("enum", "const", "default", "examples") else close_objects(value)
        for name, value in schema.items()
    }
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed
