"""Thinking in both dialects: blocks with signatures, kept as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ThinkingBlock

from llb.gateway.translation.chat_profile import profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from tests.gateway.translation.builders import (
    MODEL,
    TOOL,
    USER,
    block,
    chat,
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
    check_chat_request,
    check_messages_request,
    chunk,
    message_of_chat,
    message_of_chunks,
)
from tests.providers.dialects.anthropic import SIGNATURE
from tests.providers.kinds.clouds import GeminiProvider


def thinking_turn() -> dict[str, Any]:
    """What a chat client has after an answer with thinking and a call, streamed."""
    thought = {"type": "thinking", "thinking": "", "signature": ""}
    events = [
        start(),
        *block(
            0,
            thought,
            {"type": "thinking_delta", "thinking": "It asks "},
            {"type": "thinking_delta", "thinking": "for weather."},
            {"type": "signature_delta", "signature": SIGNATURE},
        ),
        *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Let me look."}),
        *tool_use(2, "weather", "{}"),
        *end("tool_use"),
    ]
    return chat_of_events(events).choices[0].message.model_dump(exclude_none=True)


def test_thinking_comes_back_before_its_call() -> None:
    turn = thinking_turn()
    assert turn["reasoning_content"] == "It asks for weather."
    body = {"messages": [USER, turn, result("toolu_2")], "tools": [TOOL], "reasoning_effort": "high"}
    request = translate_chat_request(body, MODEL)
    content = request.document["messages"][1]["content"]
    assert [b["type"] for b in content] == ["thinking", "text", "tool_use"]
    assert content[0] == {"type": "thinking", "thinking": "It asks for weather.", "signature": SIGNATURE}
    assert check_messages_request(request.document).think
    assert not request.ignored


def test_a_client_that_keeps_no_thinking_is_answered_without_it() -> None:
    turn = thinking_turn()
    del turn["thinking_blocks"]
    body = {"messages": [USER, turn, result("toolu_2")], "tools": [TOOL], "reasoning_effort": "high"}
    request = translate_chat_request(body, MODEL)
    assert not check_messages_request(request.document).think
    assert request.ignored == ("reasoning_effort",)
    # The next turn thinks again.
    following = [*body["messages"], {"role": "assistant", "content": "Sunny."}, USER]
    assert check_messages_request(
        translate_chat_request(body | {"messages": following}, MODEL).document
    ).think


def test_a_block_with_a_signature_alone_is_kept() -> None:
    silent = {"type": "thinking", "thinking": "", "signature": SIGNATURE}
    for turn in (
        chat_of_message(message([silent, {"type": "text", "text": "a"}])).choices[0].message,
        chat_of_events(
            [
                start(),
                *block(0, {**silent, "signature": ""}, {"type": "signature_delta", "signature": SIGNATURE}),
                *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "a"}),
                *end("end_turn"),
            ]
        )
        .choices[0]
        .message,
    ):
        request = translate_chat_request(
            {"messages": [USER, turn.model_dump(exclude_none=True), USER]}, MODEL
        )
        assert request.document["messages"][1]["content"][0] == silent


def test_thinking_is_neither_reordered_nor_altered() -> None:
    content: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": " First,\n\n", "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "text", "text": "I look."},
        {"type": "thinking", "thinking": "Then\t", "signature": SIGNATURE},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, None]}},
        {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}},
    ]
    turn = chat_of_message(message(content, "tool_use")).choices[0].message.model_dump(exclude_none=True)
    request = translate_chat_request({"messages": [USER, turn, result("toolu_1"), result("toolu_2")]}, MODEL)
    assert request.document["messages"][1]["content"] == content
    streamed = chat_of_events(
        [
            start(),
            *block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": " First,\n\n"},
                {"type": "signature_delta", "signature": SIGNATURE},
            ),
            *block(1, content[1]),
            *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I look."}),
            *block(
                3,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": "Then\t"},
                {"type": "signature_delta", "signature": SIGNATURE},
            ),
            *block(
                4,
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
                {"type": "input_json_delta", "partial_json": '{"a": [1, null]}'},
            ),
            *block(5, {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}}),
            *end("tool_use"),
        ]
    )
    turn = streamed.choices[0].message.model_dump(exclude_none=True)
    request = translate_chat_request({"messages": [USER, turn, result("toolu_1"), result("toolu_2")]}, MODEL)
    assert request.document["messages"][1]["content"] == content


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_kept_under_both_of_its_names(field: str) -> None:
    chunks = [chunk({field: "Hm"}), chunk({field: "m."}), chunk({"content": "a"}), chunk({}, "stop")]
    for told in (message_of_chunks(chunks), message_of_chat(chat({field: "Hmm.", "content": "a"}))):
        assert isinstance(told.content[0], ThinkingBlock)
        assert told.content[0].thinking == "Hmm."
    turn = {"role": "assistant", "content": [b.model_dump() for b in told.content]}
    back = translate_messages_request({"messages": [USER, turn, USER]}, "m").document
    assert back["messages"][1]["reasoning_content"] == "Hmm."
    # OpenAI itself refuses the field.
    strict = translate_messages_request(
        {"messages": [USER, turn, USER]}, "gpt-4o", profile_of("openai")
    ).document
    check_chat_request(strict)


def test_google_a_signature_comes_back_through_a_client_of_anthropic() -> None:
    signed = call_delta('{"city": "Paris"}', id="a", name="weather")
    signed["tool_calls"][0]["extra_content"] = GeminiProvider.SIGNATURE
    second = call_delta('{"city": "Rome"}', id="b", name="weather")
    told = message_of_chunks([chunk(signed), chunk(second), chunk({}, "stop")])
    assert [b.type for b in told.content] == ["redacted_thinking", "tool_use", "tool_use"]
    turn = {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in told.content]}
    results = [{"type": "tool_result", "tool_use_id": name, "content": "sunny"} for name in "ab"]
    body = {"messages": [USER, turn, {"role": "user", "content": results}]}
    back = translate_messages_request(body, "gemini", profile_of("google")).document
    calls = back["messages"][1]["tool_calls"]
    assert calls[0]["extra_content"] == GeminiProvider.SIGNATURE
    assert "extra_content" not in calls[1]
    # Another provider gets none of it.
    elsewhere = translate_messages_request(body, "m").document
    check_chat_request(elsewhere)
    assert "extra_content" not in json.dumps(elsewhere)
    assert "thinking_blocks" not in json.dumps(elsewhere)
