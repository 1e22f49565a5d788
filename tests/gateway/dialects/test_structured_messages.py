"""Messages that want an answer in a schema, as chats, and the way back of the answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.errors import EngineFailed, InvalidRequest, LlbError
from llb.gateway.dialects.structured_messages import (
    MessagesSink,
    StructuredMessages,
    read_structured_messages,
)
from llb.gateway.inference_call import InferenceCall
from llb.gateway.stream.sse import SSE_KEEPALIVE, iter_data

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FORM = {"type": "json_schema", "schema": SCHEMA}
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Name a city."}]}],
    "stop_sequences": ["!"],
}
ERROR_EVENT = b'event: error\ndata: {"type":"error"}\n\n'


def read(body: object) -> StructuredMessages | None:
    return read_structured_messages(json.dumps(body).encode(), lambda _: None)


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": FORM}},
        {"output_config": {"format": FORM, "effort": "low"}},
        {"output_format": FORM},
        {"output_config": {"effort": "low"}, "output_format": FORM},
    ],
)
def test_a_schema_makes_a_chat_of_the_request(fields: dict[str, Any]) -> None:
    structured = read({**BODY, **fields, "stream": True})
    assert structured is not None
    assert (structured.path, structured.model) == ("/v1/chat/completions", "m")
    chat = json.loads(structured.encode())
    assert chat["response_format"]["json_schema"]["schema"] == SCHEMA
    assert [message["role"] for message in chat["messages"]] == ["system", "user"]
    assert (chat["max_tokens"], chat["stop"], chat["stream"]) == (9, ["!"], True)
    assert chat["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        {**BODY, "output_config": {"effort": "high"}},
        {**BODY, "output_config": None, "output_format": None},
        {**BODY, "output_config": 7},
        {"messages": [{"role": "user", "content": '"output_config"'}]},
    ],
)
def test_other_requests_stay_as_they_are(body: dict[str, Any]) -> None:
    assert read(body) is None


def test_bounds_are_checked_before_the_request_is_translated() -> None:
    def refuse(_: bytes) -> None:
        raise InvalidRequest("too many", param="messages")

    with pytest.raises(InvalidRequest, match="too many"):
        read_structured_messages(json.dumps({**BODY, "messages": 7, "output_format": FORM}).encode(), refuse)


class Client:
    started = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = False

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.status = status

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self.written.append(data)
        self.ended = last

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in iter_data(b"".join(self.written))]


def format_error_event(_: LlbError) -> bytes:
    return ERROR_EVENT


def start(content_type: bytes) -> tuple[MessagesSink, Client]:
    structured = read({**BODY, "output_format": FORM})
    assert structured is not None
    call = SimpleNamespace(model=SimpleNamespace(id="m"), format_error_event=format_error_event)
    client = Client()
    sink = structured.complete_answer(client, cast(InferenceCall, call))
    sink.start_response(200, content_type, node_name="attic", queued_ms=0)
    return sink, client


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    document = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def test_a_document() -> None:
    sink, client = start(b"application/json")
    chat = {
        "choices": [{"message": {"content": '{"city":"Oslo"}'}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9},
    }
    data = json.dumps(chat).encode()
    await sink.write(data[:20])
    await sink.write(data[20:], last=True)
    await sink.flush()
    [written] = client.written
    message = json.loads(written)
    assert message["content"] == [{"type": "text", "text": '{"city":"Oslo"}'}]
    assert (message["model"], message["stop_reason"]) == ("m", "max_tokens")
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (5, 9)
    assert client.ended


async def test_a_document_that_is_none() -> None:
    sink, client = start(b"application/json")
    with pytest.raises(EngineFailed):
        await sink.write(b'{"error": {"message": "no"}}', last=True)
    assert client.written == []


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_stream_however_it_is_cut(step: int) -> None:
    sink, client = start(b"text/event-stream")
    data = (
        chunk({"content": '{"city"'})
        + chunk({"content": ':"Oslo"}'})
        + chunk({}, "stop")
        + b"data: [DONE]\n\n"
    )
    for at in range(0, len(data), step):
        await sink.write(data[at : at + step])
    await sink.write(SSE_KEEPALIVE)
    await sink.flush()
    assert SSE_KEEPALIVE in client.written
    assert [event["type"] for event in client.events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize(
    "failure", [ERROR_EVENT, b"\n\n" + ERROR_EVENT, b'data: {"error": {"message": "no"}}\n\n']
)
async def test_an_error_ends_a_stream(failure: bytes) -> None:
    sink, client = start(b"text/event-stream")
    await sink.write(chunk({"content": "{"}))
    await sink.write(failure)
    await sink.write(chunk({"content": "}"}))
    await sink.flush()
    assert [event["type"] for event in client.events][-2:] == ["content_block_delta", "error"]
