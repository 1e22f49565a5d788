"""Requests of OpenAI's chat as requests of Anthropic's Messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ToolUseBlock

from llb.errors import InvalidRequest
from llb.gateway.translation.chat_profile import profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from tests.gateway.translation.builders import (
    MODEL,
    TOOL,
    USER,
    end,
    result,
    start,
    tool_use,
)
from tests.gateway.translation.validation import (
    call_delta,
    chat_of_events,
    check_chat_request,
    check_messages_request,
    chunk,
    message_of_chunks,
)
from tests.providers import brain


def test_results_of_parallel_calls_are_one_message() -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for name in "abc"
    ]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    follow_up = {"role": "user", "content": "And now?"}
    request = translate_chat_request(
        {"messages": [USER, turn, result("b"), result("a"), result("c"), follow_up]}, MODEL
    )
    question = check_messages_request(request.document)
    assert len(request.document["messages"]) == 3
    assert question.results == ["sunny"] * 3
    assert question.text == "And now?"
    back = translate_messages_request(request.document, "m")
    roles = [m["role"] for m in back.document["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "tool", "user"]
    check_chat_request(back.document)


def test_empty_text_is_left_out() -> None:
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    parts = [{"type": "text", "text": " \n"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": ""},
        USER,
        turn,
        result("a", ""),
        {"role": "user", "content": parts},
    ]
    request = translate_chat_request({"messages": messages}, MODEL)
    check_messages_request(request.document)
    assert "system" not in request.document
    assert request.document["messages"][1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("auto", {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", {"type": "any", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
    ],
)
def test_whether_calls_are_parallel_is_a_part_of_the_choice(choice: str | None, expected: Any) -> None:
    body = {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": False, "tool_choice": choice}
    request = translate_chat_request(body, MODEL)
    assert request.document["tool_choice"] == expected
    assert not check_messages_request(request.document).parallel or choice == "none"
    back = translate_messages_request(request.document, "m").document
    assert back.get("parallel_tool_calls", choice == "none") is (choice == "none")
    assert "tool_choice" not in translate_chat_request({**body, "tools": []}, MODEL).document


def test_later_system_messages_stay_in_their_place() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": "Hello."},
        {"role": "system", "content": "It is late."},
        {"role": "user", "content": "Bye."},
    ]
    request = translate_chat_request({"messages": messages}, MODEL)
    assert [b["text"] for b in request.document["system"]] == ["Be brief.", "Be kind."]
    assert [m["role"] for m in request.document["messages"]] == ["user", "assistant", "system", "user"]
    check_messages_request(request.document)
    back = translate_messages_request(request.document, "m").document["messages"]
    assert [m["role"] for m in back] == ["system", "user", "assistant", "system", "user"]


def test_the_token_limit_is_kept_for_each_target() -> None:
    body = {"max_tokens": 77, "messages": [USER]}
    assert translate_messages_request(body, "m", profile_of("ollama")).document["max_tokens"] == 77
    openai_body = translate_messages_request(body, "gpt-5", profile_of("openai")).document
    assert openai_body["max_completion_tokens"] == 77
    assert translate_chat_request(body, MODEL).document["max_tokens"] == 77
    assert (
        translate_chat_request({"messages": [USER], "max_completion_tokens": 5}, MODEL).document["max_tokens"]
        == 5
    )


def test_payloads_of_tools_are_not_altered() -> None:
    arguments: dict[str, Any] = {
        "text": 'Ünï "quoted"\n\\',
        "list": [1, 2.5, None, {"deep": []}],
        "empty": {},
    }
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}
    output = json.dumps({"rows": [1, 2, 3], "note": "line\nbreak"})
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result("a", output)]
    request = translate_chat_request({"messages": messages}, MODEL)
    assert request.document["messages"][1]["content"][0]["input"] == arguments
    back = translate_messages_request(request.document, "m").document["messages"]
    assert json.loads(back[1]["tool_calls"][0]["function"]["arguments"]) == arguments
    assert back[2]["content"] == output
    pieces = [json.dumps(arguments)[at : at + 3] for at in range(0, 90, 3)]
    called = chat_of_events([start(), *tool_use(0, "f", *pieces), *end("tool_use")])
    tool_calls: Any = called.choices[0].message.tool_calls
    assert tool_calls[0].function.arguments == "".join(pieces)


def test_the_field_of_the_limit_goes_by_the_target() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 7, "messages": [USER]}
    assert translate_chat_request(both, MODEL).document["max_tokens"] == 7
    assert "max_completion_tokens" not in translate_chat_request(both, MODEL).document


def test_names_and_ids_of_tools_are_those_that_each_provider_accepts() -> None:
    name = "mcp__a-server-with-a-long-name__and.a.tool/with:characters_that_are_too_many_to_be_accepted"
    tool = {"type": "function", "function": {"name": name, "parameters": {}}}
    call = {"id": "functions.f:0", "type": "function", "function": {"name": name, "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result("functions.f:0")]
    request = translate_chat_request({"messages": messages, "tools": [tool]}, MODEL)
    question = check_messages_request(request.document)
    short = question.tools[0].name
    assert request.tool_names == {short: name}
    called = chat_of_events([start(), *tool_use(0, short), *end("tool_use")], names=dict(request.tool_names))
    assert called.choices[0].message.tool_calls[0].function.name == name  # type: ignore[index, union-attr]
    back = translate_messages_request(
        {"messages": [USER], "tools": [{"name": name, "input_schema": {}}]}, "m"
    )
    assert back.document["tools"][0]["function"]["name"] == short
    used = message_of_chunks(
        [chunk(call_delta("{}", id="a", name=short)), chunk({}, "stop")], names=dict(back.tool_names)
    )
    assert isinstance(used.content[0], ToolUseBlock)
    assert used.content[0].name == name


def test_calls_of_clients_have_no_index() -> None:
    turn = (
        chat_of_events([start(), *tool_use(0, "f", "{}"), *end("tool_use")]).choices[0].message.model_dump()
    )
    assert "index" in turn["tool_calls"][0]
    request = translate_chat_request({"messages": [USER, turn, result("toolu_0")]}, MODEL)
    check_messages_request(request.document)
    check_chat_request(translate_messages_request(request.document, "m").document)


def test_structured_output_at_anthropic_and_back() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}},
    }
    chat_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = translate_chat_request({"messages": [USER], "response_format": chat_format}, MODEL).document
    sent = request["output_config"]["format"]["schema"]
    assert sent["additionalProperties"] is sent["properties"]["a"]["additionalProperties"] is False
    assert brain.answer(check_messages_request(request)).text == '{"a": {"b": "b"}}'
    back = translate_messages_request(request, "m").document
    assert back["response_format"]["json_schema"]["strict"] is False
    closed = {
        **schema,
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    output = {"format": {"type": "json_schema", "schema": closed}}
    strict = translate_messages_request({"messages": [USER], "output_config": output}, "m").document
    assert strict["response_format"]["json_schema"]["strict"] is True
    any_json = translate_chat_request({"messages": [USER], "response_format": {"type": "json_object"}}, MODEL)
    assert "JSON" in any_json.document["system"][-1]["text"]


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("claude-sonnet-5", "low", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("claude-opus-4-8", "max", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}),
        ("claude-haiku-4-5", "high", {"thinking": {"type": "enabled", "budget_tokens": 16_384}}),
        ("claude-3-7-sonnet-latest", "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ("claude-sonnet-5", "none", {"thinking": {"type": "disabled"}}),
    ],
)
def test_effort_is_a_budget_for_older_models(model: str, effort: str, expected: dict[str, Any]) -> None:
    document = translate_chat_request({"messages": [USER], "reasoning_effort": effort}, model).document
    assert {name: document[name] for name in ("thinking", "output_config") if name in document} == expected
    check_messages_request(document)
    small = translate_chat_request(
        {"messages": [USER], "reasoning_effort": effort, "max_tokens": 500}, "claude-haiku-4-5"
    )
    check_messages_request(small.document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("logit_bias", {"1": 2}),
        ("modalities", ["text", "audio"]),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("messages", [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        ("messages", [{"role": "owner", "content": "a"}]),
        ("messages", []),
        ("messages", [{"role": "user", "content": ""}]),
        ("tool_choice", "maybe"),
        ("reasoning_effort", "huge"),
        ("tools", [{"type": "function", "function": {}}]),
        ("tools", "all"),
    ],
)
def test_what_anthropic_cannot_do_is_refused(field: str, value: Any) -> None:
    body: dict[str, Any] = {"messages": [USER], "tools": [TOOL], field: value}
    with pytest.raises(InvalidRequest) as caught:
        translate_chat_request(body, MODEL)
    assert caught.value.details["param"] in (field, "messages")


@pytest.mark.parametrize(
    ("data", "source"),
    [
        ("data:application/pdf;base64,JVBERi0xLjc=", "application/pdf"),
        ("JVBERi0xLjc=", "application/pdf"),
        ("data:text/csv;base64,YSxi", "text/plain"),
        ("YSxi", "text/plain"),
    ],
)
def test_files_are_documents(data: str, source: str) -> None:
    part = {"type": "file", "file": {"filename": "name", "file_data": data}}
    translated = translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)
    [document] = translated.document["messages"][0]["content"]
    assert document["title"] == "name"
    assert document["source"]["media_type"] == source
    assert document["source"]["data"] == ("a,b" if source == "text/plain" else "JVBERi0xLjc=")


def test_a_file_of_another_kind_is_refused() -> None:
    part = {"type": "file", "file": {"file_data": "UEsDBAAA"}}
    with pytest.raises(InvalidRequest, match="not text in UTF-8"):
        translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)


def test_fields_without_a_counterpart_are_named() -> None:
    request = translate_chat_request(
        {"messages": [USER], "seed": 1, "frequency_penalty": 0.5, "stop": ["\n", "x"]}, MODEL
    )
    assert request.ignored == ("frequency_penalty", "seed", "stop")
    assert request.document["stop_sequences"] == ["x"]
    check_messages_request(request.document)
    back = translate_messages_request(
        {"messages": [USER], "top_k": 5, "context_management": {}}, "gpt-4o", profile_of("openai")
    )
    assert back.ignored == ("context_management", "top_k")
    check_chat_request(back.document)
