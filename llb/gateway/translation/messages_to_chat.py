"""Requests: Anthropic's Messages to OpenAI's chat. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from llb.errors import InvalidRequest
from llb.gateway.translation.chat_profile import DEFAULT_PROFILE, ChatProfile
from llb.gateway.translation.content import (
    image_url_of_source,
    normalize_tool_id,
    shorten_tool_name,
    shortened_names,
)
from llb.gateway.translation.thinking_blocks import SKIPPED_SIGNATURE, carried_signatures, is_foreign
from llb.gateway.translation.translated_request import TranslatedRequest, require_list

_TRANSLATED_FIELDS = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences"),
        *("stream", "tools", "tool_choice", "thinking", "output_config", "cache_control", "service_tier"),
        # What Claude Code sends about itself.
        *("metadata", "keep_alive"),
    }
)
# Fields that run something at Anthropic.
_IMPOSSIBLE_FIELDS = ("mcp_servers", "container")
# Least number of thinking tokens of each effort.
_EFFORT_BY_BUDGET = ((16_000, "high"), (6_000, "medium"), (0, "low"))
_EFFORT_NAMES = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def translate_messages_request(
    body: Mapping[str, Any], model: str, profile: ChatProfile = DEFAULT_PROFILE
) -> TranslatedRequest:
    """Translate a request of Messages into a chat for `model`. Raises `InvalidRequest`."""
    for name in _IMPOSSIBLE_FIELDS:
        if body.get(name):
            raise InvalidRequest(f"This model does not support {name}", param=name)
    ignored = {name for name, value in body.items() if name not in _TRANSLATED_FIELDS and value is not None}
    messages: list[dict[str, Any]] = []
    if text := _system_text(body.get("system")):
        messages.append({"role": "system", "content": text})
    signatures: dict[str, Any] = {}
    for message in require_list(body.get("messages"), "messages"):
        messages += _translate_message(message, profile, signatures)
    document: dict[str, Any] = {"model": model, "messages": messages}
    if (limit := body.get("max_tokens")) is not None:
        document["max_completion_tokens" if profile.uses_max_completion_tokens else "max_tokens"] = limit
    for name in ("temperature", "top_p"):
        if body.get(name) is not None:
            document[name] = body[name]
    if body.get("top_k") is not None:
        if profile.accepts_extra_fields:
            document["top_k"] = body["top_k"]
        else:
            ignored.add("top_k")
    if body.get("stop_sequences"):
        document["stop"] = body["stop_sequences"]
    if body.get("stream"):
        document["stream"] = True
        if profile.accepts_stream_options:
            document["stream_options"] = {"include_usage": True}
    if tools := _translate_tools(body.get("tools")):
        document["tools"] = tools
        document |= _translate_tool_choice(body.get("tool_choice"))
    _add_thinking(document, body, model, profile, ignored)
    _add_response_format(document, body)
    names = shortened_names(str(tool.get("name", "")) for tool in body.get("tools") or ())
    return TranslatedRequest(document, tuple(sorted(ignored)), names)


# --- messages ----------------------------------------------------------------------------------------


def _system_text(system: Any) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    return "\n\n".join(str(block.get("text", "")) for block in require_list(system, "system"))


def _translate_message(
    message: dict[str, Any], profile: ChatProfile, signatures: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One message of Messages as one or more of a chat; collects the signatures that the history carries."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise InvalidRequest(f"A message cannot have the role {role!r}", param="messages")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = require_list(content, "messages")
    if role == "assistant":
        if translated := _translate_assistant(blocks, profile, signatures):
            yield translated
    elif role == "system":
        yield {"role": "system", "content": _system_text(blocks)}
    else:
        yield from _translate_user(blocks)


def _translate_user(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results of tools first, each in a message of its own, then everything else."""
    parts: list[dict[str, Any]] = []
    for block in blocks:
        if block.get("type") != "tool_result":
            parts.append(_translate_part(block))
            continue
        text, images = _translate_result(block)
        yield {
            "role": "tool",
            "tool_call_id": normalize_tool_id(str(block.get("tool_use_id", ""))),
            "content": text,
        }
        if images:
            # Results of tools can have text only.
            parts.append({"type": "text", "text": f"Images of the result of {block.get('tool_use_id')}:"})
            parts += images
    if parts:
        yield {"role": "user", "content": _simplify(parts)}


def _simplify(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Text alone as a string: some chat templates know no other."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _translate_result(block: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    content = block.get("content")
    texts: list[str] = []
    images: list[dict[str, Any]] = []
    if isinstance(content, str):
        texts.append(content)
    elif content is not None:
        for part in map(_translate_part, require_list(content, "messages")):
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(part)
    text = "\n".join(texts)
    if block.get("is_error") and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return text, images


def _translate_part(block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "source": source}:
            return {"type": "image_url", "image_url": {"url": image_url_of_source(source)}}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            title = block.get("title")
            return {"type": "text", "text": f"{title}\n\n{text}" if title else text}
        case {"type": "document", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            name = block.get("title") or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": f"data:{kind};base64,{data}"}}
        case {"type": "search_result", "content": list(content)}:
            texts = [str(part.get("text", "")) for part in content if isinstance(part, dict)]
            return {
                "type": "text",
                "text": "\n".join([str(block.get("title", "")), str(block.get("source", "")), *texts]),
            }
        case {"type": "tool_reference", "tool_name": str(name)}:
            return {"type": "text", "text": name}
    raise InvalidRequest(
        f"This model does not support content of type {block.get('type')!r}", param="messages"
    )


def _translate_assistant(
    blocks: list[dict[str, Any]], profile: ChatProfile, signatures: dict[str, Any]
) -> dict[str, Any] | None:
    texts: list[str] = []
    thinking: list[str] = []
    signed: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                thinking.append(text)
                if not is_foreign(block):
                    signed.append({**block, "position": index})
            case {"type": "redacted_thinking"}:
                if carried := carried_signatures(block):
                    signatures.update(carried)
                else:
                    signed.append({**block, "position": index})
            case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
                calls.append(_tool_call(call_id, name, block.get("input") or {}))
            case _:
                raise InvalidRequest(
                    f"This model does not support content of type {block.get('type')!r}", param="messages"
                )
    if profile.has_thought_signatures:
        for number, call in enumerate(calls):
            # Google signs the first of parallel calls only.
            extra = signatures.get(call["id"]) or (None if number else SKIPPED_SIGNATURE)
            if extra is not None:
                call["extra_content"] = extra
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) if texts else None}
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        if not thinking:
            return None
        message["content"] = ""
    if profile.accepts_extra_fields and thinking:
        message["reasoning_content"] = "".join(thinking)
        if signed:
            message["thinking_blocks"] = signed
    return message


def _tool_call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": shorten_tool_name(name), "arguments": msgspec.json.encode(arguments).decode()}
    return {"id": normalize_tool_id(call_id), "type": "function", "function": function}


# --- tools -------------------------------------------------------------------------------------------


def _translate_tools(tools: Any) -> list[dict[str, Any]]:
    translated: list[dict[str, Any]] = []
    for tool in require_list(tools or [], "tools"):
        if tool.get("type") not in (None, "custom"):
            raise InvalidRequest(f"This model has no tools of type {tool['type']!r}", param="tools")
        if not isinstance(tool.get("name"), str):
            raise InvalidRequest("A tool must have a name", param="tools")
        function: dict[str, Any] = {
            "name": shorten_tool_name(tool["name"]),
            "parameters": tool.get("input_schema") or {"type": "object", "properties": {}},
        }
        if isinstance(tool.get("description"), str):
            function["description"] = tool["description"]
        if tool.get("strict"):
            function["strict"] = True
        translated.append({"type": "function", "function": function})
    return translated


def _translate_tool_choice(choice: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    match choice:
        case None:
            return fields
        case {"type": "auto" | "none" as kind}:
            fields["tool_choice"] = kind
        case {"type": "any"}:
            fields["tool_choice"] = "required"
        case {"type": "tool", "name": str(name)}:
            fields["tool_choice"] = {"type": "function", "function": {"name": shorten_tool_name(name)}}
        case _:
            raise InvalidRequest("tool_choice must have type auto, any, tool or none", param="tool_choice")
    if choice.get("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    return fields


# --- options -----------------------------------------------------------------------------------------


def _add_thinking(
    document: dict[str, Any], body: Mapping[str, Any], model: str, profile: ChatProfile, ignored: set[str]
) -> None:
    thinking, output = body.get("thinking"), body.get("output_config")
    effort = _EFFORT_NAMES.get(str(output.get("effort"))) if isinstance(output, dict) else None
    wants: bool | None = None
    match thinking:
        case {"type": "enabled", "budget_tokens": int(budget)}:
            wants = True
            effort = effort or next(name for least, name in _EFFORT_BY_BUDGET if budget >= least)
        case {"type": "adaptive" | "enabled"}:
            wants = True
        case {"type": "disabled"}:
            wants, effort = False, None
    if wants is None and effort is None:
        return
    if profile.sends_reasoning_effort(model):
        if effort is not None:
            document["reasoning_effort"] = effort
        elif wants is False and profile.accepts_reasoning_effort:
            document["reasoning_effort"] = "none"
    elif profile.accepts_extra_fields:
        # Chat templates ignore arguments that they do not use.
        template: dict[str, Any] = {} if wants is None else {"enable_thinking": wants}
        if effort is not None:
            template["reasoning_effort"] = effort
        document["chat_template_kwargs"] = template
    elif wants:
        ignored.add("thinking")


def _add_response_format(document: dict[str, Any], body: Mapping[str, Any]) -> None:
    output = body.get("output_config")
    match output.get("format") if isinstance(output, dict) else body.get("output_format"):
        case {"type": "json_schema", "schema": dict(schema)}:
            named = {"name": "answer", "schema": schema, "strict": is_strict(schema)}
            document["response_format"] = {"type": "json_schema", "json_schema": named}


def is_strict(schema: Any) -> bool:
    """Whether a schema is one that OpenAI accepts as strict: closed objects, each property required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema and isinstance(schema["properties"], dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if set(required) != set(schema["properties"]):
            return False
    return all(is_strict(value) for name, value in schema.items() if name not in ("enum", "const", "default"))
