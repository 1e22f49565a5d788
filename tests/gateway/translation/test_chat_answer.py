"""Answers of a chat as Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import TextBlock, ToolUseBlock

from llb.gateway.translation.passthrough import ChatPassStream
from llb.gateway.translation.provider_errors import ProviderFailure
from tests.gateway.translation.builders import (
    MODEL,
    end,
    start,
    tool_use,
)
from tests.gateway.translation.validation import (
    call_delta,
    chat_stream,
    chunk,
    message_of_chunks,
    read_chat_stream,
    translate_whole,
)
from tests.providers import brain
from tests.providers.dialects import anthropic as anthropic_side
from tests.providers.http import sse


def test_a_streamed_call_stops_with_tool_use() -> None:
    chunks = [
        chunk({"content": "Let me look."}),
        chunk(call_delta("{}", id="a", name="f")),
        chunk({}, "stop"),
    ]
    assert message_of_chunks(chunks).stop_reason == "tool_use"


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


def test_text_and_calls_become_blocks_in_their_order() -> None:
    chunks = [
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "One "}),
        chunk({"content": "moment."}),
        chunk(call_delta('{"a"', id="x", name="f")),
        chunk(call_delta(": 1}")),
        chunk(call_delta("{}", index=1, id="y", name="g")),
        chunk({}, "tool_calls"),
    ]
    told = message_of_chunks(chunks)
    assert [b.type for b in told.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert isinstance(told.content[1], TextBlock)
    assert told.content[1].text == "One moment."


def test_a_stop_sequence_is_named_where_the_target_says_it() -> None:
    chunks = [chunk({"content": "a"}), chunk({}, "stop", choice={"stop_reason": "END"})]
    told = message_of_chunks(chunks, stop_sequences=("END",))
    assert (told.stop_reason, told.stop_sequence) == ("stop_sequence", "END")
    # A token that ends an answer is no stop sequence.
    assert message_of_chunks([chunk({}, "stop", choice={"stop_reason": 151645})]).stop_reason == "end_turn"


def test_a_refusal_is_one() -> None:
    assert message_of_chunks([chunk({"refusal": "No."}), chunk({}, "stop")]).stop_reason == "refusal"
    events = [*anthropic_side.message_events(MODEL, brain.Answer(pieces=["No."]))]
    events[-2]["delta"]["stop_reason"] = "refusal"
    translated = translate_whole(chat_stream(), b"".join(map(sse, events)))
    assert b'"finish_reason":"content_filter"' in translated


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b'"a"', b"<html>", b'{"choices": []}', b'{"error": {"message": "x"}}'],
)
def test_documents_that_are_no_answers_fail(body: bytes) -> None:
    from llb.gateway.translation.chat_answer import translate_chat_document
    from llb.gateway.translation.passthrough import pass_chat_document

    with pytest.raises(ProviderFailure):
        translate_chat_document(body, model="m", message_id="i", tool_names={})
    with pytest.raises(ProviderFailure):
        pass_chat_document(body, model="m")
