"""Tool calls of earlier turns as text, for a chat template that would leave them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from llb.gateway.normalization.template_fit import join_contents, text_of
from llb.gateway.normalization.tool_calls import arguments_object


def chat_history_as_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of OpenAI's chat with their calls and results written as text."""
    names: dict[Any, str] = {}
    written: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            name = names.get(message.get("tool_call_id"), message.get("name"))
            written.append({"role": "user", "content": _with_head(_result_head(name), message["content"])})
        elif calls := message.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls}
            texts = [_call_text(call["function"]["name"], call["function"]["arguments"]) for call in calls]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            written.append({**rest, "content": join_contents(message["content"], "\n".join(texts))})
        else:
            written.append(message)
    return written


def blocks_as_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of Anthropic's dialect with their calls and results written as text."""
    names: dict[Any, str] = {}
    written: list[dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, list):
            written.append(message)
            continue
        blocks: list[dict[str, Any]] = []
        for block in content:
            if block["type"] == "tool_use":
                names[block["id"]] = block["name"]
                blocks.append({"type": "text", "text": _call_text(block["name"], block["input"])})
            elif block["type"] == "tool_result":
                head = _result_head(names.get(block["tool_use_id"]))
                with_head = _with_head(head, block["content"])
                blocks += [{"type": "text", "text": with_head}] if isinstance(with_head, str) else with_head
            else:
                blocks.append(block)
        written.append({**message, "content": blocks})
    return written


def items_as_text(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the input of Responses with its calls and results written as messages."""
    names: dict[Any, str] = {}
    written: list[dict[str, Any]] = []
    for item in items:
        match item.get("type"):
            case "function_call":
                names[item["call_id"]] = item["name"]
                text = {"type": "output_text", "text": _call_text(item["name"], item["arguments"])}
                written.append({"type": "message", "role": "assistant", "content": [text]})
            case "function_call_output":
                content = _with_head(_result_head(names.get(item["call_id"])), item["output"], "input_text")
                written.append({"type": "message", "role": "user", "content": content})
            case _:
                written.append(item)
    return written


def _call_text(name: str, arguments: Any) -> str:
    call = {"name": name, "arguments": arguments_object(arguments)}
    return f"Tool call: {msgspec.json.encode(call).decode()}"


def _result_head(name: Any) -> str:
    return f"Result of {name}:" if isinstance(name, str) and name else "Result of a tool:"


def _with_head(head: str, content: Any, text_type: str = "text") -> Any:
    if isinstance(content, str):
        return f"{head}\n{content}"
    if all(set(part) <= {"type", "text"} for part in content):
        return f"{head}\n{text_of(content)}"
    return join_contents(head, content, text_type)
