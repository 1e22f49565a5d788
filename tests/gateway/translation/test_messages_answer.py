"""Anthropic's messages as answers of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ToolUseBlock

from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_answer import finish_reason_of, translate_message_document
from llb.gateway.translation.provider_errors import ProviderFailure
from tests.gateway.translation.builders import (
    MODEL,
    USER,
    block,
    end,
    message,
    result,
    start,
    tool_use,
)
from tests.gateway.translation.validation import (
    call_delta,
    chat_of_events,
    chat_of_message,
    chat_stream,
    check_messages_request,
    chunk,
    message_of_chunks,
    translate_whole,
)
from tests.providers.http import sse


def test_a_call_without_arguments_has_an_empty_object() -> None:
    for pieces in ((), ("",), ("", "")):
        called = chat_of_events([start(), *tool_use(0, "now", *pieces), *end("tool_use")])
        assert called.choices[0].message.tool_calls[0].function.arguments == "{}"  # type: ignore[index, union-attr]
    used = message_of_chunks([chunk(call_delta("", id="a", name="now")), chunk({}, "tool_calls")])
    assert isinstance(used.content[0], ToolUseBlock)
    assert used.content[0].input == {}
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": ""}}
    request = translate_chat_request(
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result("a")]}, MODEL
    )
    assert request.document["messages"][1]["content"][0]["input"] == {}
    check_messages_request(request.document)


@pytest.mark.parametrize(
    ("stop_reason", "has_calls", "expected"),
    [
        (None, False, "stop"),
        ("end_turn", True, "tool_calls"),
        ("stop_sequence", False, "stop"),
        ("pause_turn", False, "stop"),
        ("tool_use", True, "tool_calls"),
        # A call that was cut is no complete call.
        ("max_tokens", True, "length"),
        ("model_context_window_exceeded", False, "length"),
        ("refusal", True, "content_filter"),
        ("a_reason_of_later_versions", False, "stop"),
    ],
)
def test_reasons_of_the_end(stop_reason: str | None, has_calls: bool, expected: str) -> None:
    assert finish_reason_of(stop_reason, has_calls=has_calls) == expected


def test_a_document_has_its_content_calls_and_names() -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "a"},
        {"type": "a_block_of_later_versions"},
        {"type": "tool_use", "id": "t", "name": "short", "input": {"x": 1}},
    ]
    answer = chat_of_message(message(content, "tool_use"), names={"short": "a.long.name"})
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("a", "tool_calls")
    calls: Any = choice.message.tool_calls
    [call] = calls
    assert (call.function.name, call.function.arguments) == ("a.long.name", '{"x":1}')
    # A message has content, be it empty; a call alone has none.
    assert chat_of_message(message([])).choices[0].message.content == ""
    assert chat_of_message(message(content[2:], "tool_use")).choices[0].message.content is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"content": "text"}', b'{"type": "error", "error": {"type": "overloaded_error"}}'],
)
def test_a_document_that_is_no_message_fails(body: bytes) -> None:
    with pytest.raises(ProviderFailure):
        translate_message_document(body, model="m", created=1, tool_names={})


def test_text_in_the_start_of_a_block_is_not_lost() -> None:
    events = [start(), *block(0, {"type": "text", "text": "Hel"}, {"type": "text_delta", "text": "lo"})]
    assert chat_of_events([*events, *end("end_turn")]).choices[0].message.content == "Hello"


def test_parallel_calls_are_numbered_without_the_blocks_between_them() -> None:
    thinking = {"type": "redacted_thinking", "data": "x"}
    events = [
        start(),
        *tool_use(0, "f", "{}"),
        *block(1, thinking),
        *tool_use(2, "g", "{}"),
        *end("tool_use"),
    ]
    data = translate_whole(chat_stream(), b"".join(map(sse, events)))
    chunks = [json.loads(line[6:]) for line in data.split(b"\n\n") if line.startswith(b"data: {")]
    calls = [call for part in chunks for choice in part["choices"]
             for call in choice["delta"].get("tool_calls", ())]  # fmt: skip
    assert [call["index"] for call in calls if "id" in call] == [0, 1]


def test_events_that_are_unknown_are_skipped_and_those_without_sense_fail() -> None:
    stream = chat_stream()
    stream.feed(sse(start()))
    assert stream.feed(sse({"type": "ping"}) + sse({"type": "later"})) == b""
    with pytest.raises(ProviderFailure, match="cannot be decoded"):
        stream.feed(sse([1]))
    refused = chat_stream()
    with pytest.raises(ProviderFailure, match="No memory"):
        refused.feed(sse({"type": 5, "error": {"message": "No memory"}}))


@pytest.mark.parametrize("include_usage", [False, True])
def test_counts_are_sent_only_where_they_were_asked_for(include_usage: bool) -> None:
    events = [start(input_tokens=7), *block(0, {"type": "text", "text": "a"}), *end("end_turn")]
    stream = chat_stream(include_usage=include_usage)
    data = translate_whole(stream, b"".join(map(sse, events)))
    assert (b'"prompt_tokens":7' in data) is include_usage
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (7, 5)
