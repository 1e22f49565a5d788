"""Answers of targets that speak the client's dialect."""

from __future__ import annotations

import json

from llb.gateway.translation.passthrough import ChatPassStream, pass_chat_document
from tests.gateway.translation.builders import (
    chat,
    end,
    message,
    start,
    tool_use,
)
from tests.gateway.translation.validation import (
    call_delta,
    chat_of_events,
    chat_of_message,
    chunk,
    message_of_chunks,
    read_chat_stream,
    translate_whole,
)
from tests.providers.http import sse


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


def test_google_counts_are_cumulative() -> None:
    counts = [{"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 7 + n} for n in (1, 2, 3)]
    chunks = [chunk({"content": "a"}, usage=count) for count in counts]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    told = message_of_chunks(chunks)
    assert (told.usage.input_tokens, told.usage.output_tokens) == (7, 3)
    reader = ChatPassStream(model="google:gemini", include_usage=False)
    passed = translate_whole(reader, b"".join(map(sse, chunks)) + sse("[DONE]"))
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (7, 3)
    assert b"usage" not in passed
    assert passed.count(b'"model":"google:gemini"') == 3


def test_openai_counts_that_were_not_asked_for_are_taken_out_again() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    chunks = [
        chunk({"content": "a"}, usage=None),
        chunk({}, "stop", usage=None),
        {**chunk(), "choices": [], "usage": usage},
    ]
    data = b"".join(map(sse, chunks)) + sse("[DONE]")
    reader = ChatPassStream(model="m", include_usage=False)
    assert b"usage" not in translate_whole(reader, data)
    assert reader.usage.completion_tokens == 2
    asked = translate_whole(ChatPassStream(model="m", include_usage=True), data)
    assert asked.count(b'"usage"') == 3
