"""Input of OpenAI's Responses: messages, tool calls, their results and reasoning as the engine reads them."""

from __future__ import annotations

from typing import Any

from llb.gateway.normalization.content import (
    REASONING_TYPES,
    TEXT_TYPES,
    as_text,
    image_url_of,
    invalid,
    part_text,
    part_type,
    read_file_part,
    read_text,
)
from llb.gateway.normalization.document import RequestDocument
from llb.gateway.normalization.tool_calls import CallIds, arguments_text, result_text

_USER_ROLES = frozenset(("user", "system", "developer"))
# Calls of tools that run at the client, and the field with their arguments.
_CLIENT_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
    "computer_call": "action",
}
_CLIENT_RESULTS = frozenset(f"{kind}_output" for kind in _CLIENT_CALLS)
_PROVIDER_ITEMS = ("_call", "_list_tools", "_request", "_response")
_FUNCTION_CALL, _FUNCTION_RESULT = "function_call", "function_call_output"


def normalize_input(document: RequestDocument) -> None:
    """Write `input` and `instructions` as the engine reads them; raises `InvalidRequest` with the field."""
    instructions = document.get("instructions")
    if isinstance(instructions, list):
        texts = [_read_instruction(f"instructions[{index}]", item) for index, item in enumerate(instructions)]
        document.set("instructions", "\n\n".join(filter(None, texts)))
    value = document.get("input")
    if value is None or isinstance(value, str):
        return
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise invalid("input", "must be a text or a list of items")
    ids = CallIds()
    items: list[dict[str, Any]] = []
    for index, item in enumerate(value):
        items += _read_item(f"input[{index}]", item, ids, document)
    document.set("input", items)


def _read_instruction(path: str, item: Any) -> str:
    content = item.get("content", item.get("text")) if isinstance(item, dict) else item
    if isinstance(content, list):
        return "\n".join(part_text(f"{path}.content[{index}]", part) for index, part in enumerate(content))
    return read_text(path, content)


def _read_item(path: str, item: Any, ids: CallIds, document: RequestDocument) -> list[dict[str, Any]]:
    if isinstance(item, str):
        item = {"role": "user", "content": item}
    if not isinstance(item, dict):
        raise invalid(path, "must be an object")
    kind = item.get("type")
    if kind in (None, "message") and "role" in item:
        return [_read_message(path, item)]
    if kind in _CLIENT_CALLS:
        return [_read_call(path, kind, item, ids)]
    if kind in _CLIENT_RESULTS:
        return [_read_result(path, item, ids)]
    if kind == "reasoning":
        return _read_reasoning(path, item)
    if kind == "item_reference":
        raise invalid(path, "refers to an item that llb has not stored: send the item itself")
    if isinstance(kind, str) and (kind.startswith("compaction") or kind.endswith(_PROVIDER_ITEMS)):
        # A tool that ran at the provider in an earlier turn, or what only the provider can decrypt.
        document.ignore(f"input.{kind}")
        return []
    raise invalid(f"{path}.type", f"'{str(kind)[:64]}' is not supported")


def _read_message(path: str, item: dict[str, Any]) -> dict[str, Any]:
    role = item["role"].lower() if isinstance(item["role"], str) else item["role"]
    if role not in _USER_ROLES and role != "assistant":
        raise invalid(f"{path}.role", "must be user, system, developer or assistant")
    content = item.get("content")
    is_answer = role == "assistant"
    if content is None or isinstance(content, str):
        content = [content or ""] if is_answer else content or ""
    elif isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        content = [
            read
            for index, part in enumerate(content)
            for read in _read_part(f"{path}.content[{index}]", part, is_answer=is_answer)
        ]
    elif not isinstance(content, str):
        raise invalid(f"{path}.content", "must be a text or a list of parts")
    # The engine recognises an answer by its type.
    return {"type": "message", "role": role, "content": content}


def _read_part(path: str, part: Any, *, is_answer: bool) -> list[dict[str, Any]]:
    kind = part_type(path, part)
    text_type = "output_text" if is_answer else "input_text"
    if kind in TEXT_TYPES or kind in REASONING_TYPES:
        return [{"type": text_type, "text": part_text(path, part)}]
    if kind == "refusal":
        return [{"type": text_type, "text": read_text(f"{path}.refusal", part.get("refusal"))}]
    if kind in ("input_image", "image_url", "image") and not is_answer:
        return [{"type": "input_image", "image_url": image_url_of(path, part)}]
    if kind == "input_file" and not is_answer:
        return [{"type": "input_text", "text": text} for text in read_file_part(path, part)]
    raise invalid(
        f"{path}.type",
        f"'{kind[:64]}' is not supported: send input_text, input_image or text as input_file",
    )


def _read_call(path: str, kind: str, item: dict[str, Any], ids: CallIds) -> dict[str, Any]:
    name = item.get("name") or (kind.removesuffix("_call") if kind != _FUNCTION_CALL else None)
    if not isinstance(name, str):
        raise invalid(f"{path}.name", "is required")
    arguments = item.get(_CLIENT_CALLS[kind])
    if kind == "custom_tool_call":
        arguments = {"input": arguments}
    call_id = ids.begin(item.get("call_id") or item.get("id"), name)
    return {"type": _FUNCTION_CALL, "call_id": call_id, "name": name, "arguments": arguments_text(arguments)}


def _read_result(path: str, item: dict[str, Any], ids: CallIds) -> dict[str, Any]:
    output = result_text(item.get("output"))
    if isinstance(output, dict):
        output = [output]
    if isinstance(output, list):
        has_parts = all(
            isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in output
        )
        output = (
            [
                read
                for index, part in enumerate(output)
                for read in _read_part(f"{path}.output[{index}]", part, is_answer=False)
            ]
            if has_parts
            else as_text(output)
        )
    return {"type": _FUNCTION_RESULT, "call_id": ids.end(item.get("call_id")), "output": output or ""}


def _read_reasoning(path: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return reasoning with its text, or else its summary; none for what only its provider can decrypt."""
    for name in ("content", "summary"):
        parts = item.get(name)
        if isinstance(parts, list) and parts:
            text = "\n".join(part_text(f"{path}.{name}[{index}]", part) for index, part in enumerate(parts))
            if text:
                content = [{"type": "reasoning_text", "text": text}]
                return [{"type": "reasoning", "summary": [], "content": content}]
    return []
