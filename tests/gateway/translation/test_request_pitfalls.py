"""Mistakes that other gateways make in calls, thinking, counts and messages.

The others are in `test_answer_pitfalls`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from anthropic.types import ToolUseBlock

from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from llb.gateway.translation.passthrough import ChatPassStream, pass_chat_document
from tests.gateway.translation.builders import (
    JPEG,
    MODEL,
    PNG,
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
    chat_stream,
    check_chat_request,
    check_messages_request,
    chunk,
    message_of_chat,
    message_of_chunks,
    read_chat_stream,
    translate_whole,
)
from tests.providers.dialects.anthropic import SIGNATURE
from tests.providers.http import sse


def test_a_streamed_call_stops_with_tool_use() -> None:
    chunks = [
        chunk({"content": "Let me look."}),
        chunk(call_delta("{}", id="a", name="f")),
        chunk({}, "stop"),
    ]
    assert message_of_chunks(chunks).stop_reason == "tool_use"


def test_an_end_with_calls_is_tool_calls() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    passed, _ = pass_chat_document(json.dumps(chat({"tool_calls": [call]})).encode(), model="m")
    assert json.loads(passed)["choices"][0]["finish_reason"] == "tool_calls"
    chunks = [chunk(call_delta("{}", id="a", name="f")), chunk({}, "stop")]
    data = b"".join(map(sse, chunks)) + sse("[DONE]")
    finished = read_chat_stream(translate_whole(ChatPassStream(model="m", include_usage=False), data))
    assert finished.choices[0].finish_reason == "tool_calls"
    events = [start(), *tool_use(0, "f", "{}"), *end("end_turn")]
    assert chat_of_events(events).choices[0].finish_reason == "tool_calls"
    # A text that ends is none.
    assert chat_of_message(message([{"type": "text", "text": "a"}])).choices[0].finish_reason == "stop"


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


def test_a_call_that_was_cut_reports_the_length() -> None:
    cut = [chunk(call_delta('{"city": "Par', id="a", name="f")), chunk({}, "stop")]
    assert message_of_chunks(cut).stop_reason == "max_tokens"
    data = b"".join(map(sse, cut)) + sse("[DONE]")
    passed = translate_whole(ChatPassStream(model="m", include_usage=False), data)
    assert b'"finish_reason":"length"' in passed
    events = [start(), *tool_use(0, "f", '{"city": "Par'), *end("max_tokens")]
    translated = translate_whole(chat_stream(), b"".join(sse(event) for event in events))
    assert b'"finish_reason":"length"' in translated


def test_calls_of_google_have_their_arguments() -> None:
    chunks = [
        chunk({"role": "assistant", **call_delta('{"city": "Paris"}', id="a", name="weather")}),
        chunk(call_delta('{"city": "Rome"}', id="b", name="weather"), "stop"),
    ]
    used = [b for b in message_of_chunks(chunks).content if isinstance(b, ToolUseBlock)]
    assert [(b.id, b.input) for b in used] == [("a", {"city": "Paris"}), ("b", {"city": "Rome"})]
    data = b"".join(map(sse, chunks)) + sse("[DONE]")
    passed = read_chat_stream(translate_whole(ChatPassStream(model="m", include_usage=False), data))
    calls: Any = passed.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]


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


def test_cached_tokens_are_part_of_the_one_count_and_not_of_the_other() -> None:
    counts: Any = {"input_tokens": 10, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 20}
    text = [{"type": "text", "text": "a"}]
    for answer in (
        chat_of_message(message(text, **counts)),
        chat_of_events([start(**counts), *block(0, text[0]), *end("end_turn")]),
    ):
        usage = answer.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (120, 90)
        assert (usage.completion_tokens, usage.total_tokens) == (5, 125)
    chat_usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 90},
    }
    for told in (
        message_of_chat(chat({"content": "a"}, usage=chat_usage)).usage,
        message_of_chunks(
            [chunk({"content": "a"}), chunk({}, "stop"), {"choices": [], "usage": chat_usage}]
        ).usage,
    ):
        assert (told.input_tokens, told.cache_read_input_tokens, told.output_tokens) == (10, 90, 5)


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
    ("declared", "data", "actual"),
    [
        ("image/jpg", JPEG, "image/jpeg"),
        ("image/png", JPEG, "image/jpeg"),
        ("image/jpeg", PNG, "image/png"),
        ("IMAGE/PNG", PNG, "image/png"),
        (
            "application/octet-stream",
            base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 " + bytes(20)).decode(),
            "image/webp",
        ),
        ("", base64.b64encode(b"GIF89a" + bytes(20)).decode(), "image/gif"),
    ],
)
def test_the_type_of_an_image_is_that_of_its_bytes(declared: str, data: str, actual: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:{declared};base64,{data}"}}
    request = translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)
    assert check_messages_request(request.document).images == [actual]
    source = {"type": "base64", "media_type": declared or "image/png", "data": data}
    back = translate_messages_request(
        {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}, "m"
    )
    assert check_chat_request(back.document).images == [actual]


def test_a_url_stays_a_url_and_a_source_an_object() -> None:
    url = "https://example.com/cat.png"
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    request = translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)
    assert request.document["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": url}}
    ]
    back = translate_messages_request(request.document, "m")
    assert back.document["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": url}}]
