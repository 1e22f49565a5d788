"""Trial of a chat template: short conversations that a loaded server renders, to learn what it prints.

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


def try_template(
    connect: Callable[[], http.client.HTTPConnection], api_key: str, props: Mapping[str, Any]
) -> TemplateSupport | None:
    """Return what the template of a server prints; None if it does not print a plain conversation.

    `props` is the server's answer to `/props`.
    """
    capabilities = props.get("chat_template_caps")
    tools = bool(capabilities.get("supports_tools", True)) if isinstance(capabilities, dict) else True

    def prints(roles: Sequence[str]) -> bool:
        connection = connect()
        try:
            return _prints(connection, api_key, roles)
        finally:
            connection.close()

    try:
        if not prints(_PLAIN):
            return None
        return TemplateSupport(tools=tools, **{name: prints(roles) for name, roles in _TRIALS.items()})
    except (OSError, http.client.HTTPException, *DECODE_ERRORS):
        return None


def _prints(connection: http.client.HTTPConnection, api_key: str, roles: Sequence[str]) -> bool:
    """Return whether the template prints every message of a conversation of these roles."""
    messages = [
        {"role": role, "content": mark} for role, mark in zip(roles, _MARKS[: len(roles)], strict=True)
    ]
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    connection.request("POST", RENDER_PATH, msgspec.json.encode({"messages": messages}), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        return False
    prompt = msgspec.json.decode(body, type=_Rendered).prompt
    positions = [prompt.find(message["content"]) for message in messages]
    return all(at >= 0 for at in positions) and positions == sorted(positions)


class _Rendered(msgspec.Struct):
    prompt: str
