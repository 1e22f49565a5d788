"""Trial of a chat template: a loaded server renders short conversations, which shows its features.

llama-server answers a template's refusal with an error, and leaves out silently what a template leaves out.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from llb.wire import TemplateSupport
from llb.wire.decoding import DECODE_ERRORS

RENDER_PATH = "/apply-template"
# Words that no template has.
_MARKS = ("kwevxa", "kwevxb", "kwevxc", "kwevxd", "kwevxe")
_PLAIN = ("system", "user", "assistant", "user")
_TRIALS: Mapping[str, Sequence[str]] = {
    "several_system": ("system", "system", "user"),
    "late_system": ("system", "user", "assistant", "system", "user"),
    "consecutive_roles": ("user", "user", "assistant", "user"),
}
# Some templates demand an id of nine characters.
_CALL = {"id": "call00001", "type": "function", "function": {"name": "kwevxf", "arguments": "{}"}}
_WITH_RESULT: Sequence[Mapping[str, Any]] = (
    {"role": "user", "content": _MARKS[0]},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": _CALL["id"], "name": "kwevxf", "content": _MARKS[1]},
)
_LAST_TURN = {"role": "user", "content": _MARKS[2]}
_TOOLS = [{"type": "function", "function": {"name": "kwevxf", "description": "x", "parameters": {}}}]


def try_template(
    connect: Callable[[], http.client.HTTPConnection], api_key: str, props: Mapping[str, Any]
) -> TemplateSupport | None:
    """Return what the template of a server prints; None if it does not print a plain conversation.

    `props` is the server's answer to `/props`.
    """
    capabilities = props.get("chat_template_caps")
    tools = bool(capabilities.get("supports_tools", True)) if isinstance(capabilities, dict) else True

    def prints(messages: Sequence[Mapping[str, Any]], **fields: Any) -> bool:
        connection = connect()
        try:
            return _prints(connection, api_key, messages, fields)
        finally:
            connection.close()

    try:
        if not prints(_conversation(_PLAIN)):
            return None
        tried = {name: prints(_conversation(roles)) for name, roles in _TRIALS.items()}
        # The trial is conclusive only for a template that prints results.
        prints_results = tools and prints(_WITH_RESULT, tools=_TOOLS)
        tried["user_after_tool"] = not prints_results or prints([*_WITH_RESULT, _LAST_TURN], tools=_TOOLS)
        return TemplateSupport(tools=tools, **tried)
    except (OSError, http.client.HTTPException, *DECODE_ERRORS):
        return None


def _conversation(roles: Sequence[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": mark} for role, mark in zip(roles, _MARKS[: len(roles)], strict=True)]


def _prints(
    connection: http.client.HTTPConnection,
    api_key: str,
    messages: Sequence[Mapping[str, Any]],
    fields: Mapping[str, Any],
) -> bool:
    """Return whether the template prints the contents of all messages, in their order."""
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    body = msgspec.json.encode({"messages": messages, **fields})
    connection.request("POST", RENDER_PATH, body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        return False
    prompt = msgspec.json.decode(answer, type=_Rendered).prompt
    positions = [prompt.find(message["content"]) for message in messages if message["content"]]
    return all(at >= 0 for at in positions) and positions == sorted(positions)


class _Rendered(msgspec.Struct):
    prompt: str
