"""Mistakes that other gateways make in errors, limits, tools and counts, and those of Google's base."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import TextBlock, ThinkingBlock, ToolUseBlock

from llb.gateway.translation.chat_profile import profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from llb.gateway.translation.passthrough import ChatPassStream
from llb.gateway.translation.provider_errors import ProviderFailure, parse_error
from tests.gateway.translation.builders import (
    MODEL,
    TOOL,
    USER,
    block,
    chat,
    end,
    result,
    start,
    tool_use,
)
from tests.gateway.translation.validation import (
    call_delta,
    chat_of_events,
    chat_stream,
    check_chat_request,
    check_messages_request,
    chunk,
    message_of_chat,
    message_of_chunks,
    messages_stream,
    translate_whole,
)
from tests.providers.http import sse
from tests.providers.kinds.clouds import GeminiProvider


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


def test_an_error_after_the_head_is_an_error() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    stream = chat_stream()
    stream.feed(sse(start()))
    assert not stream.has_content
    with pytest.raises(ProviderFailure, match="Overloaded") as caught:
        stream.feed(sse(error, "error"))
    assert caught.value.status == 529
    begun = chat_stream()
    begun.feed(b"".join(map(sse, [start(), *block(0, {"type": "text", "text": "a"})])))
    assert begun.has_content
    for body in (
        {"error": {"message": "Out of memory", "type": "server_error", "code": 500}},
        {"object": "error", "message": "Out of memory", "type": "InternalServerError", "code": 500},
        [{"error": {"code": 500, "message": "Out of memory", "status": "INTERNAL"}}],
        {**chunk({}, "error"), "error": {"message": "Out of memory", "code": 500}},
    ):
        for reader in (messages_stream(), ChatPassStream(model="m", include_usage=True)):
            reader.feed(sse(chunk({"role": "assistant", "content": ""})))
            assert not reader.has_content
            with pytest.raises(ProviderFailure, match="Out of memory"):
                reader.feed(sse(body))


@pytest.mark.parametrize("reader", [chat_stream, messages_stream])
def test_a_stream_that_is_cut_is_an_error(reader: Any) -> None:
    stream = reader()
    stream.feed(sse(start()) if reader is chat_stream else sse(chunk({"content": "a"})))
    with pytest.raises(ProviderFailure, match="before its answer was complete"):
        stream.finish()


def test_a_count_of_zero_is_no_missing_count() -> None:
    stream = chat_stream()
    data = [start(input_tokens=0, cache_read_input_tokens=0), *block(0, {"type": "text", "text": "a"})]
    translate_whole(stream, b"".join(map(sse, [*data, *end("end_turn", output_tokens=0)])))
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (0, 0)
    reader = ChatPassStream(model="m", include_usage=True)
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    translate_whole(reader, sse(chunk({"content": "a"}, "stop", usage=usage)) + sse("[DONE]"))
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (0, 0)
    silent = ChatPassStream(model="m", include_usage=True)
    translate_whole(silent, sse(chunk({"content": "a"}, "stop")) + sse("[DONE]"))
    assert silent.usage.prompt_tokens is None


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


def test_counts_after_the_end_are_counted() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    told = message_of_chunks([chunk({"content": "a"}), chunk({}, "stop"), {"choices": [], "usage": usage}])
    assert (told.usage.input_tokens, told.usage.output_tokens, told.stop_reason) == (3, 2, "end_turn")


# --- Google's compatible base ----------------------------------------------------------------------------


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


def test_google_a_history_without_signatures_says_so() -> None:
    turn = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
    results = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "1"}]}
    back = translate_messages_request(
        {"messages": [USER, turn, results]}, "gemini", profile_of("google")
    ).document
    extra = back["messages"][1]["tool_calls"][0]["extra_content"]
    assert extra["google"]["thought_signature"] == "skip_thought_signature_validator"


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


def test_google_errors_come_in_arrays() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]
    body = [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}]
    failure = parse_error(429, json.dumps(body).encode())
    assert (failure.message, failure.kind, failure.retry_after_s) == ("Quota", "RESOURCE_EXHAUSTED", 7.5)


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
