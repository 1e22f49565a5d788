"""Whole conversations through the translators, with the stand-ins' models behind them; streams cut anywhere."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.errors import InvalidRequest
from llb.gateway.stream.sse import MAX_LINE_BYTES
from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_profile import ChatProfile, profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from llb.gateway.translation.passthrough import ChatPassStream
from llb.gateway.translation.provider_errors import ProviderFailure, parse_error
from tests.gateway.translation.validation import (
    chat_of_events,
    chat_of_message,
    chat_stream,
    check_chat_request,
    check_messages_request,
    chunk,
    message_of_chat,
    message_of_chunks,
    messages_stream,
    translate_whole,
)
from tests.providers import brain
from tests.providers.dialects import anthropic as anthropic_side
from tests.providers.dialects import openai as openai_side
from tests.providers.dialects.openai import Style
from tests.providers.http import sse

MODEL = "claude-sonnet-5"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "It tells.", "parameters": SCHEMA},
}
TOOL = {"name": "weather", "description": "It tells.", "input_schema": SCHEMA}
USER = {"role": "user", "content": "weather in two cities, aloud"}


def ask_anthropic(body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """A chat with Anthropic behind it; returns the assistant's message as its client has it."""
    question = check_messages_request(translate_chat_request(body, MODEL).document)
    answer = brain.answer(question)
    if stream:
        completion = chat_of_events(anthropic_side.message_events(MODEL, answer))
    else:
        completion = chat_of_message(anthropic_side.message_document(MODEL, answer))
    assert completion.choices[0].finish_reason == answer.finish
    return completion.choices[0].message.model_dump(exclude_none=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", [None, "high"])
def test_a_chat_with_parallel_tools_at_anthropic(*, stream: bool, effort: str | None) -> None:
    body: dict[str, Any] = {"messages": [USER], "tools": [CHAT_TOOL], "reasoning_effort": effort}
    turn = ask_anthropic(body, stream=stream)
    assert turn["content"] == "Let me look."
    assert ("reasoning_content" in turn) == (effort is not None)
    arguments = [json.loads(call["function"]["arguments"]) for call in turn["tool_calls"]]
    assert arguments == [{"city": "city 0", "days": 7}, {"city": "city 1", "days": 7}]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"sunny {number}"}
        for number, call in enumerate(turn["tool_calls"])
    ]
    last = ask_anthropic({**body, "messages": [USER, turn, *results]}, stream=stream)
    assert last["content"] == "Results: sunny 0; sunny 1"


def ask_chat(body: dict[str, Any], profile: ChatProfile, style: Style, *, stream: bool) -> dict[str, Any]:
    """A message with an OpenAI-compatible target behind it; returns the assistant's turn."""
    question = check_chat_request(translate_messages_request(body, "m", profile).document, style)
    answer = brain.answer(question)
    if stream:
        message = message_of_chunks(openai_side.chat_chunks("m", answer, style, include_usage=True))
    else:
        message = message_of_chat(openai_side.chat_document("m", answer, style))
    assert message.usage.input_tokens == answer.prompt_tokens
    assert message.usage.output_tokens == answer.completion_tokens
    return {
        "role": "assistant",
        "content": [block.model_dump(exclude_none=True) for block in message.content],
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["openai", "google", "vllm", "ollama"])
def test_messages_with_parallel_tools_at_other_targets(kind: str, *, stream: bool) -> None:
    from tests.providers import KINDS

    style = KINDS[kind].style
    body: dict[str, Any] = {
        "messages": [USER],
        "system": "Be brief.",
        "max_tokens": 100,
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    }
    turn = ask_chat(body, profile_of(kind), style, stream=stream)
    calls = [block for block in turn["content"] if block["type"] == "tool_use"]
    assert [call["input"] for call in calls] == [{"city": "city 0", "days": 7}, {"city": "city 1", "days": 7}]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": [{"type": "text", "text": f"sunny {n}"}],
        }
        for n, call in enumerate(calls)
    ]
    last = ask_chat(
        {**body, "messages": [USER, turn, {"role": "user", "content": results}]},
        profile_of(kind),
        style,
        stream=stream,
    )
    assert last["content"][-1]["text"] == "Results: sunny 0; sunny 1"


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
    body: dict[str, Any] = {"messages": [USER], "tools": [CHAT_TOOL], field: value}
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
        translate_messages_request({"messages": [USER], "tools": [TOOL], field: value}, "m")


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


# --- streams ----------------------------------------------------------------------------------------------


def message_bytes() -> bytes:
    answer = brain.Answer(
        thinking=["Hm", "m."],
        pieces=["Let ", "me."],
        calls=[brain.Call("a", "f", {"x": "é" * 9}), brain.Call("b", "g", {})],
    )
    answer.finish = "tool_calls"
    events = anthropic_side.message_events(MODEL, answer)
    return b": comment\n\n" + b"".join(sse(event, event["type"]) for event in events)


def chat_bytes() -> bytes:
    answer = brain.Answer(
        thinking=["Hm", "m."],
        pieces=["Let ", "me."],
        calls=[brain.Call("a", "f", {"x": "é" * 9}), brain.Call("b", "g", {})],
    )
    answer.finish = "tool_calls"
    chunks = openai_side.chat_chunks("m", answer, Style(), include_usage=True)
    return b": comment\n\n" + b"".join(map(sse, chunks)) + sse("[DONE]")


STREAMS = {
    "messages to chat": (chat_stream, message_bytes()),
    "chat to messages": (messages_stream, chat_bytes()),
    "chat": (lambda: ChatPassStream(model="m", include_usage=False), chat_bytes()),
}


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=st.lists(st.integers(min_value=0, max_value=4000), max_size=20), crlf=st.booleans())
def test_a_stream_may_be_cut_anywhere(name: str, *, cuts: list[int], crlf: bool) -> None:
    make, data = STREAMS[name]
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    whole: AnswerStream = make()  # type: ignore[operator]
    expected = whole.feed(data) + whole.finish()
    pieces: AnswerStream = make()  # type: ignore[operator]
    ends = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    parts = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert b"".join(map(pieces.feed, parts)) + pieces.finish() == expected
    assert pieces.usage == whole.usage
    # What comes after the end is dropped.
    assert pieces.feed(b"data: {}\n\n") == b""


@pytest.mark.parametrize("name", STREAMS)
@given(noise=st.binary(max_size=200))
def test_noise_is_a_failure_and_no_crash(name: str, noise: bytes) -> None:
    make, data = STREAMS[name]
    stream: AnswerStream = make()  # type: ignore[operator]
    with suppress(ProviderFailure):
        stream.feed(data[: len(data) // 2] + b"\n\ndata: " + noise + b"\n\n")
        stream.finish()


@pytest.mark.parametrize("name", STREAMS)
@given(
    event=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "choices",
                        "delta",
                        "index",
                        "usage",
                        "message",
                        "content_block",
                        "error",
                        "tool_calls",
                        "function",
                        "id",
                        "content",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_events_of_any_shape_are_no_crash(name: str, event: Any) -> None:
    stream: AnswerStream = STREAMS[name][0]()  # type: ignore[operator]
    with suppress(ProviderFailure):
        stream.feed(sse(event))
        stream.finish()


def test_a_line_without_an_end_is_bounded() -> None:
    stream: AnswerStream = STREAMS["chat"][0]()  # type: ignore[operator]
    piece = b"x" * (1024 * 1024)
    for _ in range(MAX_LINE_BYTES // len(piece)):
        assert stream.feed(piece) == b""
    with pytest.raises(ProviderFailure, match="line without an end"):
        stream.feed(piece)


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


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (401, '{"error": "Unauthorized"}', "Unauthorized", None),
        (400, '{"detail": [{"loc": ["body"], "msg": "bad"}]}', '[{"loc":["body"],"msg":"bad"}]', None),
        (404, '{"detail": "Not Found"}', "Not Found", None),
        (429, '{"error": "Model is overloaded", "error_type": "overloaded"}', "Model is overloaded", None),
        (400, '{"error": {"message": "bad", "code": "invalid_value", "param": "n"}}', "bad", "invalid_value"),
        (502, "<html>secret host</html>", "The endpoint answered with status 502", None),
        (529, "", "The endpoint is overloaded", None),
        (
            429,
            '{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"spend_limit"}}}',
            "m",
            "spend_limit",
        ),
    ],
)
def test_errors_are_read_in_each_shape(status: int, body: str, message: str, code: str | None) -> None:
    failure = parse_error(status, body.encode())
    assert (failure.status, failure.message, failure.code) == (status, message, code)
