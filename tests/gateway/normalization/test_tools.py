"""Tools and the choice among them, in every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest, ToolsNotSupported
from llb.wire import TemplateSupport
from tests.gateway.normalization.normalizing import ANTHROPIC, CHAT, RESPONSES, run, sent

NO_TOOLS = TemplateSupport(tools=False)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ANY = {"type": "object", "properties": {}}


def chat_tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def names(path: str, fields: dict[str, Any]) -> list[str]:
    tools = sent(path, fields).get("tools", [])
    return [tool["function"]["name"] if path == CHAT else tool["name"] for tool in tools]


TOOLS = {
    CHAT: [chat_tool("f", parameters=SCHEMA), chat_tool("g", parameters=SCHEMA)],
    RESPONSES: [{"type": "function", "name": name, "parameters": SCHEMA} for name in "fg"],
    ANTHROPIC: [{"name": name, "input_schema": SCHEMA} for name in "fg"],
}
REQUIRED = {CHAT: "required", RESPONSES: "required", ANTHROPIC: {"type": "any"}}


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "g"}},
        {"type": "function", "name": "g"},
        {"type": "tool", "name": "g"},
        {"name": "g"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [chat_tool("g")]}},
    ],
)
def test_a_named_tool_is_the_only_one_and_required(path: str, choice: dict[str, Any]) -> None:
    fields = {"tools": TOOLS[path], "tool_choice": choice}
    assert names(path, fields) == ["g"]
    assert sent(path, fields)["tool_choice"] == REQUIRED[path]


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize("choice", ["required", "any", {"type": "any"}, {"type": "required"}])
def test_a_call_of_any_tool_is_required(path: str, choice: Any) -> None:
    fields = {"tools": TOOLS[path], "tool_choice": choice}
    assert names(path, fields) == ["f", "g"]
    assert sent(path, fields)["tool_choice"] == REQUIRED[path]


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
def test_no_tool(choice: Any) -> None:
    assert sent(CHAT, {"tools": TOOLS[CHAT], "tool_choice": choice})["tool_choice"] == "none"
    assert sent(RESPONSES, {"tools": TOOLS[RESPONSES], "tool_choice": choice})["tool_choice"] == "none"
    assert sent(ANTHROPIC, {"tools": TOOLS[ANTHROPIC], "tool_choice": choice}) == {}


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize(
    "choice",
    [{"type": "function", "name": "h"}, {"type": "tool", "name": "h"}, "h", {"type": "web_search"}, 5],
)
def test_an_unknown_tool_is_refused(path: str, choice: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(path, {"tools": TOOLS[path], "tool_choice": choice})
    assert refused.value.details["param"] == "tool_choice"


@pytest.mark.parametrize("path", TOOLS)
def test_a_choice_without_tools(path: str) -> None:
    assert sent(path, {"tools": [], "tool_choice": "auto"}) == {}
    with pytest.raises(InvalidRequest, match="no tools"):
        run(path, {"tool_choice": "required"})


@pytest.mark.parametrize("path", TOOLS)
def test_a_template_without_tools(path: str) -> None:
    for choice in ("required", {"type": "function", "name": "f"}):
        with pytest.raises(ToolsNotSupported) as refused:
            run(path, {"tools": TOOLS[path], "tool_choice": choice}, NO_TOOLS)
        assert refused.value.code == "tools_not_supported"
    for fields in ({"tools": TOOLS[path]}, {"tools": TOOLS[path], "tool_choice": "auto"}):
        normalized = run(path, {**fields, "parallel_tool_calls": True}, NO_TOOLS)
        assert normalized.ignored == ("tools",)
        assert normalized.body == b"{}"
    assert run(path, {"tools": TOOLS[path], "tool_choice": "none"}, NO_TOOLS).ignored == ()


@pytest.mark.parametrize(
    "tool",
    [
        chat_tool("f"),
        chat_tool("f", description=None, parameters=None, strict=None),
        chat_tool("f", parameters={}),
        {"function": {"name": "f"}},
        {"name": "f"},
        {"type": "function", "name": "f", "parameters": None},
        {"name": "f", "input_schema": {}, "type": "custom"},
    ],
)
def test_tools_without_parameters_in_the_form_of_any_dialect(tool: dict[str, Any]) -> None:
    function = {"name": "f", "description": "", "parameters": ANY}
    assert sent(CHAT, {"tools": [tool]})["tools"] == [{"type": "function", "function": function}]
    [found] = sent(RESPONSES, {"tools": [{**tool, "type": "function"}]})["tools"]
    assert found == {"type": "function", **function}
    [found] = sent(ANTHROPIC, {"tools": [tool]})["tools"]
    assert found == {"name": "f", "description": "", "input_schema": ANY}


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize(
    "kind",
    ["web_search", "web_search_20250305", "computer_use_preview", "bash_20250124", "mcp", "file_search"],
)
def test_tools_of_a_provider_are_left_out_and_named(path: str, kind: str) -> None:
    normalized = run(path, {"tools": [{"type": kind, "name": "x"}, *TOOLS[path]]})
    assert normalized.ignored == (f"tools.{kind}",)
    assert names(path, {"tools": [{"type": kind}, *TOOLS[path]]}) == ["f", "g"]
    assert sent(path, {"tools": [{"type": kind}]}) == {}


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("f", "tools"),
        ([1], "tools[0]"),
        ([chat_tool("")], "tools[0].function.name"),
        ([chat_tool("f", parameters=[])], "tools[0].function.parameters"),
        ([TOOLS[CHAT][0], {"type": "function"}], "tools[1].name"),
    ],
)
def test_tools_that_are_none(tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(CHAT, {"tools": tools})
    assert refused.value.details["param"] == param


def test_the_predecessor_of_tools() -> None:
    assert sent(CHAT, {"functions": [], "function_call": "auto"}) == {}
    for name, value in (("functions", [{"name": "f"}]), ("function_call", {"name": "f"})):
        with pytest.raises(InvalidRequest) as refused:
            run(CHAT, {name: value})
        assert refused.value.details["param"] == name


def test_probabilities_together_with_tools() -> None:
    fields = {"tools": TOOLS[CHAT], "logprobs": True, "top_logprobs": 3}
    found = sent(CHAT, fields)
    assert found["n_probs"] == 3
    assert not found.keys() & {"logprobs", "top_logprobs"}
    assert sent(CHAT, {"logprobs": True, "top_logprobs": 3}) == {"logprobs": True, "top_logprobs": 3}
    assert sent(CHAT, {"logprobs": False, "top_logprobs": 0}) == {"logprobs": False}


def test_one_call_at_a_time_is_not_known_to_the_engine_in_this_dialect() -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    normalized = run(ANTHROPIC, {"tools": TOOLS[ANTHROPIC], "tool_choice": choice})
    assert normalized.ignored == ("tool_choice.disable_parallel_tool_use",)
