"""Requests of Anthropic's Messages as chats of each target."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest
from llb.gateway.translation.chat_profile import profile_of
from llb.gateway.translation.messages_to_chat import is_strict, translate_messages_request
from tests.gateway.translation.builders import (
    MESSAGES_TOOL,
    PNG,
    USER,
)


def test_google_a_history_without_signatures_says_so() -> None:
    turn = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
    results = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "1"}]}
    back = translate_messages_request(
        {"messages": [USER, turn, results]}, "gemini", profile_of("google")
    ).document
    extra = back["messages"][1]["tool_calls"][0]["extra_content"]
    assert extra["google"]["thought_signature"] == "skip_thought_signature_validator"


@pytest.mark.parametrize(
    ("kind", "model", "expected"),
    [
        ("openai", "gpt-5", {"reasoning_effort": "medium"}),
        ("openai", "gpt-4o", {}),
        ("google", "gemini-2.5-pro", {"reasoning_effort": "medium"}),
        ("vllm", "qwen3", {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "medium"}}),
    ],
)
def test_thinking_is_asked_for_as_each_target_knows_it(
    kind: str, model: str, expected: dict[str, Any]
) -> None:
    body = {"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 8000}}
    request = translate_messages_request(body, model, profile_of(kind))
    names = ("reasoning_effort", "chat_template_kwargs")
    assert {name: request.document[name] for name in names if name in request.document} == expected
    assert ("thinking" in request.ignored) == (not expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mcp_servers", [{"type": "url", "url": "https://x", "name": "x"}]),
        ("container", "c"),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
        ("messages", [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}],
        ),
        ("messages", "hi"),
        ("tool_choice", {"type": "some"}),
    ],
)
def test_what_other_targets_cannot_do_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        translate_messages_request({"messages": [USER], "tools": [MESSAGES_TOOL], field: value}, "m")


def chat_messages(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    translated: list[dict[str, Any]] = translate_messages_request({"messages": [*messages]}, "m").document[
        "messages"
    ]
    return translated


def test_results_of_tools_come_before_the_text_and_their_images_after_them() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    output = [{"type": "text", "text": "two"}, {"type": "text", "text": "lines"}, image]
    blocks = [
        {"type": "text", "text": "And now?"},
        {"type": "tool_result", "tool_use_id": "a", "content": output},
        {"type": "tool_result", "tool_use_id": "b"},
    ]
    first, second, user = chat_messages({"role": "user", "content": blocks})
    assert first == {"role": "tool", "tool_call_id": "a", "content": "two\nlines"}
    assert second == {"role": "tool", "tool_call_id": "b", "content": ""}
    texts = [part.get("text") for part in user["content"]]
    assert texts == ["And now?", "Images of the result of a:", None]


@pytest.mark.parametrize(
    ("text", "told"), [("no file", "Error: no file"), ("error: no file", "error: no file"), ("", "Error: ")]
)
def test_a_failed_tool_says_so_in_its_text(text: str, told: str) -> None:
    failed = {"type": "tool_result", "tool_use_id": "a", "content": text, "is_error": True}
    [message] = chat_messages({"role": "user", "content": [failed]})
    assert message["content"] == told


def test_text_alone_is_a_string_and_an_empty_turn_is_left_out() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat_messages(
        {"role": "user", "content": parts},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": parts},
    ) == [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "a\nb"}]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            {"type": "document", "title": "T", "source": {"type": "text", "data": "x"}},
            {"type": "text", "text": "T\n\nx"},
        ),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            },
            {
                "type": "file",
                "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
            },
        ),
        (
            {"type": "search_result", "title": "T", "source": "s", "content": [{"text": "a"}, "no part"]},
            {"type": "text", "text": "T\ns\na"},
        ),
        ({"type": "tool_reference", "tool_name": "f"}, {"type": "text", "text": "f"}),
    ],
)
def test_blocks_that_a_chat_has_other_parts_for(block: dict[str, Any], part: dict[str, Any]) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "http://x/a.png"}}
    [message] = chat_messages({"role": "user", "content": [block, image]})
    assert message["content"][0] == part


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
    ],
)
def test_the_choice_of_a_tool(choice: Any, fields: dict[str, Any]) -> None:
    body = {"messages": [USER], "tools": [MESSAGES_TOOL], "tool_choice": choice}
    document = translate_messages_request(body, "m").document
    names = ("tool_choice", "parallel_tool_calls")
    assert {name: document[name] for name in names if name in document} == fields
    # Without tools there is nothing to choose.
    assert not {*names} & {*translate_messages_request({**body, "tools": []}, "m").document}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"anyOf": [{"type": "string"}, {"properties": {}, "additionalProperties": False}]}, False),
        # A value that looks like a schema is none.
        ({"const": {"properties": {"a": {}}}}, True),
    ],
)
def test_only_closed_schemas_are_strict(schema: dict[str, Any], expected: bool) -> None:
    assert is_strict(schema) is expected
