"""Messages that fit a chat template: those it would refuse or leave out are joined or moved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
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
        return own_text or None, fitted
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
    return join_all_contents((first, second), text_type)


def join_all_contents(contents: Sequence[Any], text_type: str = "text") -> Any:
    """Return contents as one, as `join_contents` does, in linear time."""
    texts = list(takewhile(lambda content: isinstance(content, str), contents))
    text = _GAP.join(filter(None, texts))
    others = contents[len(texts) :]
    if not others:
        return text
    return [part for content in (text, *others) for part in _as_parts(content, text_type)]


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
    return {**messages[0], "content": join_all_contents([each["content"] for each in messages], text_type)}


def _join_consecutive(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    """Join turns of the same role that follow each other; calls and results of tools stay apart."""
    runs: list[list[dict[str, Any]]] = []
    previous_role = None
    for message in messages:
        role = message.get("role")
        can_join = role in ("user", "assistant") and not _has_tool_result(message.get("content"))
        if can_join and role == previous_role:
            runs[-1].append(message)
        else:
            runs.append([message])
        previous_role = role if can_join and "tool_calls" not in message else None
    return [join_run(run, text_type) for run in runs]


def join_run(messages: Sequence[dict[str, Any]], text_type: str = "text") -> dict[str, Any]:
    """Return messages of the same role as one, with the fields of all."""
    if len(messages) == 1:
        return messages[0]
    joined: dict[str, Any] = {}
    for message in messages:
        joined.update(message)
    joined["content"] = join_all_contents([message["content"] for message in messages], text_type)
    return joined


def _has_tool_result(content: Any) -> bool:
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


def _join_after_results(messages: list[dict[str, Any]], text_type: str) -> list[dict[str, Any]]:
    """Add a user's turn to the result of a tool before it."""
    kept: list[dict[str, Any]] = []
    # Turns behind each of them.
    turns: list[list[Any]] = []
    is_result = False
    for message in messages:
        content = message.get("content")
        has_result = _has_tool_result(content)
        if is_result and message.get("role") == "user" and not has_result:
            turns[-1].append(content)
            continue
        kept.append(message)
        turns.append([])
        is_result = (
            has_result or message.get("role") == "tool" or message.get("type") == "function_call_output"
        )
    return [_with_turns(*each, text_type) for each in zip(kept, turns, strict=True)]


def _with_turns(result: dict[str, Any], turns: list[Any], text_type: str) -> dict[str, Any]:
    """Return the result of a tool, in any dialect, with the contents of `turns` behind it."""
    if not turns:
        return result
    if result.get("role") == "tool":
        return {**result, "content": join_all_contents([result["content"], *turns], text_type)}
    if result.get("type") == "function_call_output":
        return {**result, "output": join_all_contents([result["output"], *turns], text_type)}
    *others, last = result["content"]
    joined = {**last, "content": join_all_contents([last["content"], *turns], text_type)}
    return {**result, "content": [*others, joined]}
