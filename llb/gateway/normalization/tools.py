"""Tools of a request and the choice among them, in every dialect's spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct

from llb.errors import ToolsNotSupported
from llb.gateway.normalization.content import invalid
from llb.gateway.normalization.document import RequestDocument

_ANY_ARGUMENTS = {"type": "object", "properties": {}}
# Types of a tool that has a schema and is called by the client. All others run at their provider, or have a
# schema that only its models know.
_FUNCTION_TYPES = frozenset((None, "function", "custom"))
_SCHEMA_NAMES = ("parameters", "input_schema", "inputSchema", "schema")
_CHOICE_NAMES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


class ToolsForm(Enum):
    """How a dialect writes a tool and a choice."""

    CHAT = "chat"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


class _Tool(Struct, frozen=True):
    name: str
    description: str
    schema: dict[str, Any]
    strict: bool | None = None


class _Choice(Struct, frozen=True):
    """Choice of tools: its mode, and the names that it allows, None for all."""

    mode: str = "auto"
    names: tuple[str, ...] | None = None

    @property
    def requires_call(self) -> bool:
        return self.mode == "required"


def normalize_tools(document: RequestDocument, form: ToolsForm, *, supported: bool | None) -> None:
    """Write tools and their choice as the engine reads them.

    `supported`: whether the chat template of the model has tools, None while that is unknown; without them
    the engine would drop them. Raises `ToolsNotSupported`, and `InvalidRequest` that names the field.
    """
    _refuse_functions(document)
    tools, left_out = _read_tools(document.get("tools"), form)
    choice = _read_choice(document.get("tool_choice"), left_out)
    if choice.names is not None:
        known = {tool.name for tool in tools}
        for name in choice.names:
            if name not in known:
                raise invalid("tool_choice", _unknown_tool(name, left_out))
        tools = [tool for tool in tools if tool.name in choice.names]
    if choice.requires_call and not tools:
        raise invalid("tool_choice", "asks for a call, and the request has no tools that a client can call")
    if supported is False and tools:
        if choice.requires_call:
            raise ToolsNotSupported
        if choice.mode == "auto":
            document.ignore("tools")
        tools = []
    for kind in left_out:
        document.ignore(f"tools.{kind}")
    if form is ToolsForm.ANTHROPIC:
        _note_parallel_choice(document)
        # The engine knows no "none" here.
        tools = [] if choice.mode == "none" else tools
    if not tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            document.remove(name)
        return
    writer = _WRITERS[form]
    old_tools = document.get("tools")
    new_tools = [writer(tool) for tool in tools]
    if not _is_written(old_tools, new_tools):
        document.set("tools", new_tools)
    if "tool_choice" in document:
        written = (
            {"type": "any" if choice.requires_call else "auto"}
            if form is ToolsForm.ANTHROPIC
            else choice.mode
        )
        document.set("tool_choice", written)


def _is_written(old: Any, new: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether tools are as the engine reads them; further fields do no harm."""
    return (
        isinstance(old, list)
        and len(old) == len(new)
        and all(_contains(before, after) for before, after in zip(old, new, strict=True))
    )


def _contains(before: Any, after: Mapping[str, Any]) -> bool:
    if not isinstance(before, dict):
        return False
    for name, value in after.items():
        inner = before.get(name)
        if name == "function":
            if not _contains(inner, value):
                return False
        elif inner != value and not (name == "description" and inner is None and "description" not in before):
            return False
    return True


def _refuse_functions(document: RequestDocument) -> None:
    """Refuse the predecessor of tools, whose answers have another form; one without functions is dropped."""
    for name in ("functions", "function_call"):
        if document.get(name) in (None, [], "none", "auto"):
            document.remove(name)
        elif name in document:
            instead = "tools" if name == "functions" else "tool_choice"
            raise invalid(name, f"is no longer supported: send {instead}")


# --- reading -----------------------------------------------------------------------------------------


def _read_tools(value: Any, form: ToolsForm) -> tuple[list[_Tool], list[str]]:
    """Return the tools that the client can call, and the types of the others."""
    if value is None:
        return [], []
    if not isinstance(value, list):
        raise invalid("tools", "must be a list")
    tools: list[_Tool] = []
    left_out: list[str] = []
    for index, item in enumerate(value):
        path = f"tools[{index}]"
        if not isinstance(item, dict):
            raise invalid(path, "must be an object")
        kind = item.get("type")
        has_schema = any(isinstance(item.get(name), dict) for name in _SCHEMA_NAMES)
        is_custom_text = kind == "custom" and form is not ToolsForm.ANTHROPIC and not has_schema
        if (kind not in _FUNCTION_TYPES and not has_schema) or is_custom_text:
            left_out.append(str(kind)[:64])
        else:
            tools.append(_read_tool(path, item))
    return tools, left_out


def _read_tool(path: str, item: Mapping[str, Any]) -> _Tool:
    function = item.get("function")
    if isinstance(function, dict):
        item, path = function, f"{path}.function"
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.name", "is required")
    description = item.get("description")
    if description is not None and not isinstance(description, str):
        raise invalid(f"{path}.description", "must be a text")
    key = next((key for key in _SCHEMA_NAMES if item.get(key) is not None), "parameters")
    schema = item.get(key)
    if schema is not None and not isinstance(schema, dict):
        raise invalid(f"{path}.{key}", "must be a JSON schema")
    strict = item.get("strict")
    return _Tool(
        name, description or "", _argument_schema(schema), strict if isinstance(strict, bool) else None
    )


def _argument_schema(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the schema of a tool's arguments, which are always an object."""
    if not schema:
        return dict(_ANY_ARGUMENTS)
    return (
        schema if "type" in schema or "$ref" in schema or "anyOf" in schema else {"type": "object", **schema}
    )


def _read_choice(value: Any, left_out: Sequence[str]) -> _Choice:
    if value is None:
        return _Choice()
    if isinstance(value, str):
        if value in _CHOICE_NAMES:
            return _Choice(_CHOICE_NAMES[value])
        return _Choice("required", (value,))
    if not isinstance(value, dict):
        raise invalid("tool_choice", "must be a text or an object")
    kind = value.get("type")
    if isinstance(kind, str) and kind in _CHOICE_NAMES:
        return _Choice(_CHOICE_NAMES[kind])
    if kind == "allowed_tools":
        return _read_allowed_tools(value)
    if kind in (None, "function", "tool", "custom"):
        owner = value.get("function") or value.get("custom") or value
        name = owner.get("name") if isinstance(owner, dict) else None
        if not isinstance(name, str) or not name:
            raise invalid("tool_choice", "must have the name of a tool")
        return _Choice("required", (name,))
    raise invalid("tool_choice", _unknown_tool(str(kind)[:64], left_out))


def _read_allowed_tools(value: Mapping[str, Any]) -> _Choice:
    inner = value.get("allowed_tools")
    owner = inner if isinstance(inner, dict) else value
    mode = _CHOICE_NAMES.get(str(owner.get("mode", "auto")))
    tools = owner.get("tools")
    if mode is None or not isinstance(tools, list):
        raise invalid("tool_choice", "must have a mode, auto or required, and a list of tools")
    names = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise invalid("tool_choice", "must have the names of functions")
        names.append(name)
    return _Choice(mode, tuple(names))


def _unknown_tool(name: str, left_out: Sequence[str]) -> str:
    if name in left_out:
        return f"asks for '{name}', which no engine of llb can run"
    return f"asks for '{name[:64]}', which is none of the tools of the request"


def _note_parallel_choice(document: RequestDocument) -> None:
    choice = document.get("tool_choice")
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        document.ignore("tool_choice.disable_parallel_tool_use")


# --- writing -----------------------------------------------------------------------------------------


def _write_chat(tool: _Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
    return {"type": "function", "function": function}


def _write_responses(tool: _Tool) -> dict[str, Any]:
    # The engine takes an absent one for true.
    strict = {} if tool.strict is None else {"strict": tool.strict}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
        **strict,
    }


def _write_anthropic(tool: _Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.schema}


_WRITERS: Mapping[ToolsForm, Callable[[_Tool], dict[str, Any]]] = {
    ToolsForm.CHAT: _write_chat,
    ToolsForm.RESPONSES: _write_responses,
    ToolsForm.ANTHROPIC: _write_anthropic,
}
