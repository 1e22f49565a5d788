"""Answers that are wanted whole and asked for as streams: they are what the engine would have said
without.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llb.errors import EngineFailed, InvalidRequest, LlbError
from llb.gateway.http.client import HttpClient
from llb.gateway.stream.aggregator import (
    AGGREGATOR_OF_PATH,
    ChatAggregator,
    CompletionAggregator,
    MessagesAggregator,
    ResponsesAggregator,
    StreamAggregator,
)
from llb.gateway.stream.disconnect_detection import ProgressFilter, request_progress
from llb.gateway.stream.relay import EventRelay, RelayResult, RelayTimeouts, relay_aggregated, relay_response
from tests.clients.models import write_scripted_model
from tests.gateway.conftest import Engines
from tests.gateway.fake_engine import SSE_HEAD, Exchange, run_fake_engine
from tests.gateway.real_engine import RealEngine, post_json
from tests.gateway.stream.relay_fixture import Sink

CHAT, TEXT, RESPONSES, MESSAGES = AGGREGATOR_OF_PATH
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Bergen"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
CONTEXT = 4096
HELLO = [{"role": "user", "content": "Say hello to Zoë 👋."}]
# Of two answers to the same question: who they are, when, and how long it took.
THEIR_OWN = ("id", "created", "created_at", "completed_at", "timings", "call_id")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scripted_model(
        tmp_path_factory.mktemp("tools") / "tools.gguf",
        {"get_weather": {"city": "Oslo"}},
        "Hi",
        context=CONTEXT,
    )


@pytest.fixture
def real(
    request: pytest.FixtureRequest, engines: Engines, tools: Path, chat_gguf: Path, smollm2: Path
) -> RealEngine:
    """SmolLM2 where characters of several tokens matter."""
    models = {"tools": tools, "chat": chat_gguf, "smollm2": smollm2}
    return engines(models[request.param], 1, CONTEXT)


def comparable(document: Any) -> Any:
    """A document without what differs between any two answers; such fields must still be there."""
    if isinstance(document, dict):
        return {
            name: type(value) if name in THEIR_OWN else comparable(value) for name, value in document.items()
        }
    return [comparable(item) for item in document] if isinstance(document, list) else document


async def said_whole(
    http_client: HttpClient, real: RealEngine, path: bytes, body: dict[str, Any]
) -> tuple[dict[str, Any], RelayResult]:
    sink = Sink()
    result = await relay_response(await post_json(http_client, real, body, path), sink)
    return json.loads(sink.got), result


async def put_together(
    http_client: HttpClient, real: RealEngine, path: bytes, body: dict[str, Any]
) -> tuple[dict[str, Any], RelayResult]:
    sink = Sink()
    asked = json.loads(request_progress(json.dumps(body).encode(), stream=False))
    result = await relay_aggregated(
        await post_json(http_client, real, asked, path), sink, AGGREGATOR_OF_PATH[path]()
    )
    assert sink.ended
    return json.loads(sink.got), result


@pytest.mark.parametrize(
    ("real", "path", "body"),
    [
        ("smollm2", CHAT, {"messages": HELLO, "max_tokens": 12}),
        ("chat", CHAT, {"messages": HELLO, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}),
        ("smollm2", CHAT, {"messages": HELLO, "max_tokens": 12, "stream": False, "stop": ["\n"]}),
        (
            "chat",
            CHAT,
            {
                "messages": HELLO,
                "max_tokens": 40,
                "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}},
            },
        ),
        ("smollm2", TEXT, {"prompt": "One, two,", "max_tokens": 8}),
        ("chat", TEXT, {"prompt": "One, two,", "max_tokens": 8, "logprobs": 2, "echo": True}),
        ("smollm2", RESPONSES, {"model": "m", "input": "Say hello.", "max_output_tokens": 8}),
        ("chat", MESSAGES, {"messages": HELLO, "max_tokens": 8}),
        ("smollm2", MESSAGES, {"messages": HELLO, "max_tokens": 40, "stop_sequences": ["!"]}),
        (
            "tools",
            CHAT,
            {
                "messages": HELLO,
                "max_tokens": 200,
                "tools": [{"type": "function", "function": FUNCTION}],
                "tool_choice": "required",
            },
        ),
        (
            "tools",
            RESPONSES,
            {
                "model": "m",
                "input": "Weather?",
                "max_output_tokens": 200,
                "tools": [{"type": "function", **FUNCTION}],
                "tool_choice": "required",
            },
        ),
        (
            "tools",
            MESSAGES,
            {
                "messages": HELLO,
                "max_tokens": 200,
                "tools": [{"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}],
                "tool_choice": {"type": "any"},
            },
        ),
    ],
    indirect=["real"],
)
async def test_it_is_what_the_engine_says_without_a_stream(
    http_client: HttpClient, real: RealEngine, path: bytes, body: dict[str, Any]
) -> None:
    body = {"seed": 1, "temperature": 0, **body}
    await said_whole(http_client, real, path, body)  # the prompt is in the cache now, for both
    expected, plain = await said_whole(http_client, real, path, body)
    found, result = await put_together(http_client, real, path, body)
    if "tools" in body:
        assert '"get_weather"' in json.dumps(expected)
    assert comparable(found) == comparable(expected)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.cached_tokens) == (
        plain.usage.prompt_tokens,
        plain.usage.completion_tokens,
        plain.usage.cached_tokens,
    )
    assert not result.stream


# --- however it is cut, and whatever goes wrong ------------------------------------------------------


def event(data: object, name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"finish_reason": finish, "index": 0, "delta": delta}
    return event({"choices": [choice], "created": 7, "id": "c", "model": "m", **fields})


PROGRESS: dict[str, Any] = {"prompt_progress": {"total": 9, "cache": 0, "processed": 9, "time_ms": 1}}
DONE = event(b"[DONE]")
CALLS = (
    chunk({"role": "assistant", "content": None}, **PROGRESS)
    + chunk({"role": "assistant", "content": None})
    + chunk({"reasoning_content": "Hm"})
    + chunk({"reasoning_content": "m."})
    + chunk({"content": "Zoë\u2028"})
    + chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]})
    + chunk({"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]})
    + chunk({}, "tool_calls")
    + event({"choices": [], "created": 8, "id": "c", "model": "m", "usage": {"prompt_tokens": 9}})
    + DONE
)  # fmt: skip
BLOCKS = (
    event({"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 9}}})
    + event({"type": "ping"})
    + event({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}})
    + event({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hmm"}})
    + event({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}})
    + event({"type": "content_block_stop", "index": 0})
    # As llama-server sends it, without an empty input.
    + event({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}})
    + event({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}})
    + event({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ":1}"}})
    + event({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "u", "name": "g", "input": {}}})
    + event({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"cut'}})
    + event({"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": {"output_tokens": 4}})
    + event({"type": "message_stop"})
)  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 7, 1000, 100_000])
def test_a_chat_with_thoughts_and_calls_however_it_is_cut(step: int) -> None:
    whole = ChatAggregator()
    for at in range(0, len(CALLS), step):
        whole.feed(CALLS[at : at + step])
    assert whole.is_complete
    document = json.loads(whole.document())
    assert document["choices"] == [
        {
            "finish_reason": "tool_calls",
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Zoë\u2028",
                "reasoning_content": "Hmm.",
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": "{}"}, "id": "a"},
                    {"type": "function", "function": {"name": "g", "arguments": "{}"}, "id": "b"},
                ],
            },
        }
    ]
    assert (document["created"], document["usage"]) == (8, {"prompt_tokens": 9})
    assert "timings" not in document


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_message_with_thoughts_and_calls_however_it_is_cut(step: int) -> None:
    whole = MessagesAggregator()
    for at in range(0, len(BLOCKS), step):
        whole.feed(BLOCKS[at : at + step])
    assert whole.is_complete
    assert json.loads(whole.document()) == {
        "id": "m",
        "content": [
            {"type": "thinking", "thinking": "Hmm", "signature": "s"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        ],
        "usage": {"input_tokens": 9, "output_tokens": 4},
        "stop_reason": "max_tokens",
        "stop_sequence": None,
    }


@pytest.mark.parametrize(
    ("kind", "before", "first"),
    [
        (ChatAggregator, chunk({"role": "assistant"}, **PROGRESS), chunk({"content": "a"})),
        (
            ResponsesAggregator,
            event({"type": "response.created"}) + event({"type": "response.in_progress", **PROGRESS}),
            event({"type": "response.output_item.added"}),
        ),
    ],
)
def test_a_prompt_that_is_being_read_is_no_beginning(
    kind: type[StreamAggregator], before: bytes, first: bytes
) -> None:
    whole = kind()
    begun = []
    for events in (before, first):
        whole.feed(events)
        begun.append(whole.has_started)
    assert begun == [False, True]


@pytest.mark.parametrize(
    "kind", [ChatAggregator, CompletionAggregator, ResponsesAggregator, MessagesAggregator]
)
@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"error": {"code": 500, "message": "out of memory", "type": "server_error"}}, EngineFailed),
        ({"error": {"code": 400, "message": "'top_k' is wrong"}}, InvalidRequest),
        ({"type": "error", "error": {"type": "api_error", "message": "out of memory"}}, EngineFailed),
        ({"code": 400, "message": "'top_k' is wrong", "type": "invalid_request_error"}, InvalidRequest),
        ({}, EngineFailed),
        (b"nonsense", EngineFailed),
        (b'{"choices": 3, "type": 4}', EngineFailed),
        (b"[]", EngineFailed),
        (b'{"type":"message_start","message":{"usage":7}}', EngineFailed),
    ],
)
def test_what_the_engine_says_in_place_of_an_answer(
    kind: type[ChatAggregator], told: object, error: type[LlbError]
) -> None:
    with pytest.raises(error):
        kind().feed(event(told, "error"))


async def test_nothing_is_written_of_an_answer_that_breaks(http_client: HttpClient) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(CALLS.removesuffix(DONE))
        if json.loads(exchange.body)["ends"]:
            await exchange.end_body()
        else:
            exchange.abort()

    async with run_fake_engine(answer) as served:
        for ends in (True, False):
            sink = Sink()
            response = await http_client.request(
                served.target, b"POST", b"/", (), json.dumps({"ends": ends}).encode(),
                connect_timeout_s=5, header_timeout_s=5,
            )  # fmt: skip
            with pytest.raises(EngineFailed):
                await relay_aggregated(response, sink, ChatAggregator())
            assert sink.writes == []
        await served.wait_for_open_connections(0)


# --- before the first token --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', {"model": "m", "return_progress": True}),
        (b' {"stream":true, "x": {}} \r\n', {"stream": True, "x": {}, "return_progress": True}),
    ],
)
def test_a_stream_is_asked_to_say_how_far_it_is(body: bytes, expected: dict[str, Any]) -> None:
    assert json.loads(request_progress(body, stream=True)) == expected


def test_of_two_wishes_the_last_counts() -> None:
    asked = json.loads(request_progress(b'{"stream":false,"stream_options":null}', stream=False))
    assert asked == {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def test_progress_is_kept_from_the_client() -> None:
    progress, first, second = chunk({}, **PROGRESS), chunk({"content": '"prompt_progress":'}), chunk({})
    prelude = ProgressFilter()
    assert prelude.filter_events(progress + progress) == b""
    assert prelude.filter_events(progress + first + second) == first + second
    assert prelude.is_finished
    assert prelude.flush() == b""


def test_the_first_events_of_responses_come_with_the_first_token() -> None:
    created = event({"type": "response.created", "response": {}}, "response.created")
    said = event({"type": "response.in_progress", "response": {}}, "response.in_progress")
    with_progress = (
        b'event: response.in_progress\ndata: {"type": "response.in_progress", "response":'
        b' {},"prompt_progress":{"total":9}}\n\n'
    )
    first = event({"type": "response.output_item.added"}, "response.output_item.added")
    prelude = ProgressFilter()
    assert prelude.filter_events(created + with_progress) == b""
    assert prelude.filter_events(with_progress) == b""
    assert prelude.flush() == created + said
    assert prelude.filter_events(first) == created + said + first


async def test_the_first_byte_is_the_first_of_the_answer(http_client: HttpClient) -> None:
    go_on = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(chunk({}, **PROGRESS))
        await go_on.wait()
        await exchange.send_chunk(CALLS)
        await exchange.end_body()

    async with run_fake_engine(answer) as served:
        sink = Sink()
        response = await http_client.request(
            served.target, b"POST", b"/", (), b"{}", connect_timeout_s=5, header_timeout_s=5
        )
        task = asyncio.ensure_future(
            relay_response(
                response,
                sink,
                begun=EventRelay(response, opening_filter=ProgressFilter()),
                timeouts=RelayTimeouts(keepalive_s=0.01),
            )
        )
        await sink.until(2)  # silence is filled all the same
        assert response.first_byte_at is None
        assert response.received_bytes == 0
        go_on.set()
        result = await task
    told = sink.got.replace(b": heartbeat\n\n", b"")
    assert told == CALLS[CALLS.index(b"\n\n") + 2 :]
    assert result.first_byte_at is not None
