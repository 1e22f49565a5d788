"""The text of a request, from the bytes that pass by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.gateway.stream.transcript import MAX_DOCUMENT_BYTES, MAX_TEXT_BYTES, Transcript, extract_prompt
from llb.wire import RequestText

SSE, JSON = b"text/event-stream", b"application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\nthere"}]},
            "system: Be brief.\n\nuser: Hi\nthere",
        ),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "text", "text": "What is this? "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
            "user: What is this? [image_url]",
        ),
        (
            {"messages": [
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "1", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}]},
                {"role": "tool", "tool_call_id": "1", "content": "rain"}]},
            'assistant: \nweather {"city":"Oslo"}\n\ntool: rain',
        ),
        ({"prompt": "One, two,"}, "One, two,"),
        ({"prompt": [1, 2, 3]}, "[1, 2, 3]"),
        ({"input": ["one", "two"]}, "one\ntwo"),
        ({"input": "one"}, "one"),
        (
            {"instructions": "Be brief.", "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "rain"}]},
            "system: Be brief.\n\nuser: Hi\n\nfunction_call: \nweather {}\n\nfunction_call_output: rain",
        ),
        (
            {"system": [{"type": "text", "text": "Be brief."}], "messages": [
                {"role": "assistant", "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "1", "name": "weather", "input": {"city":"Oslo"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]}]},
            'system: Be brief.\n\nassistant: I look.\nweather {"city": "Oslo"}\n\nuser: rain[image]',
        ),
        ({"query": "a panda", "documents": ["a bear", "hi"]}, "a panda\n\na bear\n\nhi"),
        ({"model": "m"}, ""),
        ({"messages": "x"}, ""),
        ([], ""),
    ],
)  # fmt: skip
def test_prompts(body: Any, prompt: str) -> None:
    assert extract_prompt(json.dumps(body).encode()) == prompt


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_request_has_no_prompt(body: bytes) -> None:
    assert extract_prompt(body) == ""


def event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def text(content_type: bytes, *parts: bytes, prompt: str = "") -> RequestText | None:
    transcript = Transcript(prompt)
    transcript.set_content_type(content_type)
    for part in parts:
        transcript.feed(part)
    return transcript.build_text()


def answer(content_type: bytes, *parts: bytes) -> str | None:
    kept = text(content_type, *parts)
    return None if kept is None else kept.answer


def test_a_streamed_chat() -> None:
    parts = [
        b": heartbeat\n\n",
        event(delta={"role": "assistant", "content": None}),
        event(delta={"content": "Hel"}) + event(delta={"content": "lo\n"}),
        event(delta={"content": "you."}),
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\ndata: [DONE]\n\n',
    ]
    assert answer(SSE, *parts) == "Hello\nyou."


def test_streamed_calls_of_functions() -> None:
    parts = [
        event(delta={"tool_calls": [{"index": 0, "function": {"name": "weather", "arguments": "{"}}]}),
        event(delta={"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
        event(delta={"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": "{}"}}]}),
    ]
    assert answer(SSE, *parts) == "weather {}\ntime {}"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}, "Hello"),
        ({"choices": [{"text": " three"}]}, " three"),
        ({"data": [{"embedding": [0.1]}]}, None),
        (
            {
                "type": "message",
                "content": [
                    {"type": "thinking", "thinking": "Hm"},
                    {"type": "text", "text": "Hello"},
                    {"type": "tool_use", "name": "weather", "input": {}},
                ],
            },
            "Hello\nweather {}",
        ),
        (
            {
                "object": "response",
                "output": [
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
                    {"type": "function_call", "name": "weather", "arguments": "{}"},
                ],
            },
            "Hello\nweather {}",
        ),
        ({"choices": [{"delta": 7}]}, None),
    ],
)
def test_answers_that_are_no_streams(document: Any, said: str | None) -> None:
    body = json.dumps(document).encode()
    assert answer(JSON, body[:9], body[9:]) == said


def events(*bodies: dict[str, Any]) -> list[bytes]:
    return [f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode() for body in bodies]


def test_a_streamed_message() -> None:
    block, delta = "content_block_start", "content_block_delta"
    assert answer(SSE, *events(
        {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 1}}},
        {"type": block, "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": delta, "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": delta, "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {"type": block, "index": 1, "content_block": {"type": "tool_use", "name": "weather", "input": {}}},
        {"type": delta, "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    )) == "Hello\nweather {}"  # fmt: skip


def test_streamed_responses() -> None:
    text, whole = (
        "response.output_text",
        {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
    )
    assert answer(SSE, *events(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "item": {"type": "message", "content": []}},
        {"type": f"{text}.delta", "delta": "Hel"},
        {"type": f"{text}.delta", "delta": "lo"},
        {"type": f"{text}.done", "text": "Hello"},
        {"type": "response.output_item.done", "item": whole},
        {"type": "response.output_item.added", "item": {"type": "function_call", "name": "weather", "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.completed", "response": {"output": [whole], "usage": {"output_tokens": 3}}},
    )) == "Hello\nweather {}"  # fmt: skip


def test_a_streamed_completion() -> None:
    assert answer(SSE, event(text="a"), event(text="b")) == "ab"


def test_of_a_long_prompt_the_end_is_kept_and_of_a_long_answer_the_beginning() -> None:
    kept = text(
        SSE, *[event(delta={"content": "é" * 1000})] * 100, prompt="x" + "é" * MAX_TEXT_BYTES + "the question"
    )
    assert kept is not None
    assert kept.prompt is not None
    assert kept.answer is not None
    assert kept.prompt.endswith("ééthe question")
    assert kept.answer == "é" * (MAX_TEXT_BYTES // 2)
    assert MAX_TEXT_BYTES - 2 < len(kept.prompt.encode()) <= MAX_TEXT_BYTES
    assert (kept.prompt_truncated, kept.answer_truncated) == (True, True)


def test_what_fits_is_not_called_truncated() -> None:
    kept = text(SSE, event(delta={"content": "y" * MAX_TEXT_BYTES}), prompt="x" * MAX_TEXT_BYTES)
    assert kept == RequestText(prompt="x" * MAX_TEXT_BYTES, answer="y" * MAX_TEXT_BYTES)


def test_memory_stays_flat() -> None:
    transcript = Transcript("x" * 10_000_000)
    transcript.set_content_type(SSE)
    for _ in range(1000):
        transcript.feed(event(delta={"content": "y" * 1000}))
    assert len(transcript._prompt) == MAX_TEXT_BYTES
    assert transcript._answer_bytes < MAX_TEXT_BYTES + 2000

    transcript = Transcript("")
    transcript.set_content_type(JSON)
    for _ in range(1000):
        transcript.feed(b"z" * 1000)
    assert len(transcript._document) < MAX_DOCUMENT_BYTES + 2000
    assert transcript.build_text() == RequestText(answer_truncated=True)


def test_where_nothing_was_said_there_is_no_text() -> None:
    assert text(JSON) is None
    assert Transcript("").build_text() is None
