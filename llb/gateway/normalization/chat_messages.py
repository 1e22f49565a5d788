"""Messages of OpenAI's chat: roles, content, tool calls and their results."""

from __future__ import annotations

from typing import Any

from llb.gateway.normalization.content import as_text, invalid, read_content, read_text
from llb.gateway.normalization.template_fit import join_run
from llb.gateway.normalization.tool_calls import CallIds, read_calls, result_text

_ROLE_NAMES = {"function": "tool"}
_REASONING_NAMES = ("reasoning_content", "reasoning")


def normalize_messages(messages: Any) -> list[dict[str, Any]]:
    """Return messages as the engine reads them; raises `InvalidRequest` that names the field."""
    if not isinstance(messages, list):
        raise invalid("messages", "must be a list")
    ids = CallIds()
    normalized = [
        _normalize_message(f"messages[{index}]", message, ids) for index, message in enumerate(messages)
    ]
    return _join_last_answers(normalized)


def _normalize_message(path: str, message: Any, ids: CallIds) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(path, "must be an object")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise invalid(f"{path}.role", "is required")
    lower = role.lower()
    role = _ROLE_NAMES.get(lower, lower)
    content = message.get("content")
    if role == "tool":
        content = _tool_content(content)
    text, reasoning = read_content(f"{path}.content", content)
    if not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    normalized: dict[str, Any] = {"role": role, "content": text}
    for field in _REASONING_NAMES:
        if message.get(field):
            reasoning = read_text(f"{path}.{field}", message[field]) + reasoning
            break
    if reasoning:
        normalized["reasoning_content"] = reasoning
    name = message.get("name") or message.get("tool_name")
    if isinstance(name, str):
        normalized["name"] = name
    if role == "assistant":
        calls = message.get("tool_calls")
        if not calls and isinstance(message.get("function_call"), dict):
            calls = [{"function": message["function_call"]}]
        if read := read_calls(f"{path}.tool_calls", calls, ids):
            normalized["tool_calls"] = read
    elif role == "tool":
        given = message.get("tool_call_id", message.get("tool_use_id"))
        normalized["tool_call_id"] = ids.end(given, name if isinstance(name, str) else None)
    return normalized


def _tool_content(content: Any) -> Any:
    """Return the result of a tool as content; a list of anything but parts as its JSON."""
    if isinstance(content, list) and not all(map(_is_part, content)):
        return as_text(content)
    return result_text(content)


def _is_part(item: Any) -> bool:
    return (
        item is None
        or isinstance(item, str)
        or (isinstance(item, dict) and ("type" in item or "text" in item))
    )


def _join_last_answers(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join several answers at the end, which the engine would refuse: the last one is continued."""
    begin = len(messages)
    while begin and messages[begin - 1]["role"] == "assistant" and "tool_calls" not in messages[begin - 1]:
        begin -= 1
    if len(messages) - begin < 2:
        return messages
    return [*messages[:begin], join_run(messages[begin:])]
