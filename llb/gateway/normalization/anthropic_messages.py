"""Messages of Anthropic's dialect: the system text, content blocks, tool calls and their results."""

from __future__ import annotations

from typing import Any

from llb.gateway.normalization.content import image_url_of, invalid, part_type, read_text, read_text_file
from llb.gateway.normalization.document import RequestDocument
from llb.gateway.normalization.tool_calls import CallIds, arguments_object, result_text

# Reasoning that only Anthropic can decrypt.
_EMPTY_BLOCKS = frozenset(("redacted_thinking",))
# Calls that a server of Anthropic ran in an earlier turn, and their results.
_SERVER_CALLS = frozenset(("server_tool_use", "mcp_tool_use"))
_ERROR_PREFIX = "Error: "


def normalize_system(document: RequestDocument) -> None:
    """Write the system text as a text or as text blocks."""
    system = document.get("system")
    if system is None or isinstance(system, str):
        return
    document.set("system", _read_text_blocks("system", system))


def _read_text_blocks(path: str, value: Any) -> list[dict[str, Any]]:
    blocks = [value] if isinstance(value, dict) else value
    if not isinstance(blocks, list):
        raise invalid(path, "must be a text or a list of text blocks")
    read = []
    for index, block in enumerate(blocks):
        at = f"{path}[{index}]"
        if part_type(at, block) not in ("text", "input_text"):
            raise invalid(f"{at}.type", "must be text")
        text = block if isinstance(block, str) else read_text(f"{at}.text", block.get("text"))
        read.append({"type": "text", "text": text})
    return read


def normalize_blocks(messages: Any, document: RequestDocument) -> list[dict[str, Any]]:
    """Return messages as the engine reads them; raises `InvalidRequest` that names the field.

    Results of tools come before the other blocks of their turn, as a separate message: the engine would put
    them after.
    """
    if not isinstance(messages, list):
        raise invalid("messages", "must be a list")
    ids = CallIds()
    normalized: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(path, "must be an object")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise invalid(f"{path}.role", "is required")
        role, content = role.lower(), message.get("content")
        if content is None or isinstance(content, str):
            normalized.append({"role": role, "content": content or ""})
            continue
        blocks = _read_blocks(f"{path}.content", content, ids, document)
        results = [block for block in blocks if block["type"] == "tool_result"]
        others = [block for block in blocks if block["type"] != "tool_result"]
        if results:
            normalized.append({"role": role, "content": results})
        if others or not results:
            normalized.append({"role": role, "content": others or ""})
    return normalized


def _read_blocks(path: str, content: Any, ids: CallIds, document: RequestDocument) -> list[dict[str, Any]]:
    blocks = [content] if isinstance(content, dict) else content
    if not isinstance(blocks, list):
        raise invalid(path, "must be a text or a list of blocks")
    read: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        if block is not None:
            read += _read_block(f"{path}[{index}]", block, ids, document)
    return read


def _read_block(path: str, block: Any, ids: CallIds, document: RequestDocument) -> list[dict[str, Any]]:
    kind = part_type(path, block)
    if kind in ("text", "input_text", "output_text"):
        text = block if isinstance(block, str) else read_text(f"{path}.text", block.get("text"))
        return [{"type": "text", "text": text}]
    match kind:
        case "thinking":
            return [{"type": "thinking", "thinking": read_text(f"{path}.thinking", block.get("thinking"))}]
        case "image" | "image_url" | "input_image":
            return [_read_image(path, block)]
        case "document":
            return _read_document(path, block)
        case "search_result":
            title = read_text(f"{path}.title", block.get("title"))
            texts = _read_text_blocks(f"{path}.content", block.get("content") or [])
            return [{"type": "text", "text": title}, *texts] if title else texts
        case "tool_use":
            return [_read_call(path, block, ids)]
        case "tool_result":
            return [_read_result(path, block, ids)]
    if kind in _EMPTY_BLOCKS:
        return []
    if kind in _SERVER_CALLS or kind.endswith("_tool_result"):
        document.ignore(f"messages.{kind}")
        return []
    raise invalid(
        f"{path}.type",
        f"'{kind[:64]}' is not supported: send text, image, document with text, or tool blocks",
    )


def _read_image(path: str, block: Any) -> dict[str, Any]:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "base64" and isinstance(source.get("data"), str):
        return {"type": "image", "source": source}
    return {"type": "image", "source": {"type": "url", "url": image_url_of(path, block)}}


def _read_document(path: str, block: Any) -> list[dict[str, Any]]:
    """Return a document as text blocks: its title, its context and its text."""
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    match kind:
        case "text":
            texts = [{"type": "text", "text": read_text(f"{path}.source.data", source.get("data"))}]
        case "content":
            content = source.get("content")
            is_text = isinstance(content, str)
            texts = _read_text_blocks(f"{path}.source.content", [content] if is_text else content or [])
        case "base64":
            data = read_text(f"{path}.source.data", source.get("data"))
            texts = [{"type": "text", "text": read_text_file(f"{path}.source.data", data)}]
        case _:
            raise invalid(
                f"{path}.source.type", "must be text, content or base64: llb fetches and stores no documents"
            )
    heads = [block[name] for name in ("title", "context") if isinstance(block.get(name), str) and block[name]]
    return [*({"type": "text", "text": head} for head in heads), *texts]


def _read_call(path: str, block: Any, ids: CallIds) -> dict[str, Any]:
    name = block.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.name", "is required")
    return {
        "type": "tool_use",
        "id": ids.begin(block.get("id"), name),
        "name": name,
        "input": arguments_object(block.get("input")),
    }


def _read_result(path: str, block: Any, ids: CallIds) -> dict[str, Any]:
    content = result_text(block.get("content"))
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        inner: list[dict[str, Any]] = []
        for index, item in enumerate(content):
            at = f"{path}.content[{index}]"
            kind = part_type(at, item)
            if kind in ("text", "input_text", "output_text"):
                text = item if isinstance(item, str) else read_text(f"{at}.text", item.get("text"))
                inner.append({"type": "text", "text": text})
            elif kind in ("image", "image_url", "input_image"):
                inner.append(_read_image(at, item))
            elif kind == "document":
                inner += _read_document(at, item)
            elif kind == "search_result":
                inner += _read_text_blocks(f"{at}.content", item.get("content") or [])
            elif kind == "tool_reference":
                # The tool that a search of tools found is in the request.
                name = read_text(f"{at}.tool_name", item.get("tool_name"))
                inner.append({"type": "text", "text": name})
            else:
                raise invalid(f"{at}.type", f"'{kind[:64]}' is not supported: send text or image")
        content = inner
    if block.get("is_error"):
        content = _mark_error(content)
    return {
        "type": "tool_result",
        "tool_use_id": ids.end(block.get("tool_use_id")),
        "content": content if content is not None else "",
    }


def _mark_error(content: Any) -> Any:
    """Say in the text that the tool failed: the engine reads no `is_error`."""
    if isinstance(content, list):
        return [{"type": "text", "text": _ERROR_PREFIX}, *content]
    text = content or ""
    return text if text.lower().startswith("error") else _ERROR_PREFIX + text
