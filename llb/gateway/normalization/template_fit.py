"""Messages that fit a chat template: what it would refuse or leave out is joined or moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llb.wire import TemplateSupport

SYSTEM_ROLES = frozenset(("system", "developer"))
_GAP = "\n\n"


def fit_messages(
    messages: Sequence[dict[str, Any]], support: TemplateSupport | None, *, text_type: str = "text"
) -> list[dict[str, Any]]:
    """Return messages that the template prints completely; those of a template that is unknown as they are.

    `text_type` is the type of a text part in this dialect. Items without a role, such as the calls of
    Responses, stay where they are.
    """
    fitted = list(messages)
    if support is None:
        return fitted
    if not support.late_system:
        fitted = _move_system(fitted, text_type)
    elif not support.several_system:
        fitted = _join_leading_system(fitted, text_type)
    if not support.consecutive_roles:
        fitted = _join_consecutive(fitted, text_type)
    if not support.user_after_tool:
        fitted = _join_after_results(fitted, text_type)
    return fitted


def split_system(
    messages: Sequence[dict[str, Any]], support: TemplateSupport | None, own_text: str | None
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the system text and the other messages, for a dialect that has a field for that text.

    Only the system messages that the template cannot print where they are come to `own_text`.
    """
    fitted = list(messages)
    if support is None or (support.late_system and support.several_system):
        return own_text, fitted
    texts = [own_text] if own_text else []
    kept: list[dict[str, Any]] = []
    for message in fitted:
        if message.get("role") in SYSTEM_ROLES and (not support.late_system or not kept):
            texts.append(text_of(message.get("content")))
        else:
            kept.append(message)
    return _GAP.join(filter(None, texts)) or None, kept


def text_of(content: Any) -> str:
    """Return the text in a content of any dialect."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def join_contents(first: Any, second: Any, text_type: str = "text") -> Any:
    """Return two contents as one; texts have an empty line between them."""
    if isinstance(first, str) and isinstance(second, str):
        return _GAP.join(filter(None, (first, second)))
    return [*_as_parts(first, text_type), *_as_parts(second, text_type)]


def _as_parts(content: Any, text_type: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": text_type, "text": content}] if content else []
    return list(content)


def _move_system(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    """Put all system messages at the front, as one."""
    system = [message for message in messages if message.get("role") in SYSTEM_ROLES]
    if not system or (len(system) == 1 and messages[0] is system[0]):
        return messages
    others = [message for message in messages if message.get("role") not in SYSTEM_ROLES]
    return [_join_all(system, text_type), *others]


def _join_leading_system(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    count = 0
    while count < len(messages) and messages[count].get("role") in SYSTEM_ROLES:
        count += 1
    if count < 2:
        return messages
    return [_join_all(messages[:count], text_type), *messages[count:]]


def _join_all(messages: Sequence[dict[str, Any]], text_type: str) -> dict[str, Any]:
    joined = dict(messages[0])
    for message in messages[1:]:
        joined["content"] = join_contents(joined["content"], message["content"], text_type)
    return joined


def _join_consecutive(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    """Join turns of the same role that follow each other; calls and results of tools stay apart."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        previous = joined[-1] if joined else None
        if previous is not None and _can_join(previous, message):
            content = join_contents(previous["content"], message["content"], text_type)
            joined[-1] = {**previous, **message, "content": content}
        else:
            joined.append(message)
    return joined


def _can_join(previous: dict[str, Any], message: dict[str, Any]) -> bool:
    role = message.get("role")
    if role not in ("user", "assistant") or previous.get("role") != role or "tool_calls" in previous:
        return False
    return not any(_has_tool_result(each.get("content")) for each in (previous, message))


def _has_tool_result(content: Any) -> bool:
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


def _join_after_results(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    """Add a user's turn to the result of a tool before it."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        is_turn = message.get("role") == "user" and not _has_tool_result(content)
        result = _with_result(joined[-1], content, text_type) if joined and is_turn else None
        if result is None:
            joined.append(message)
        else:
            joined[-1] = result
    return joined


def _with_result(previous: dict[str, Any], content: Any, text_type: str) -> dict[str, Any] | None:
    """Return the result of a tool with `content` behind it, in any dialect; None for another message."""
    if previous.get("role") == "tool":
        return {**previous, "content": join_contents(previous["content"], content, text_type)}
    if previous.get("type") == "function_call_output":
        return {**previous, "output": join_contents(previous["output"], content, text_type)}
    if _has_tool_result(previous.get("content")):
        *others, last = previous["content"]
        result = {**last, "content": join_contents(last["content"], content, text_type)}
        return {**previous, "content": [*others, result]}
    return None
