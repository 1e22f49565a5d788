"""Start of a message or a chat that llama-server leaves out."""

from __future__ import annotations

import json

import pytest

from llb.errors import EngineFailed
from llb.gateway.http.client import HttpClient
from llb.gateway.http.upstream_errors import InvalidResponse, UpstreamClosed
from llb.gateway.stream.aggregator import MessagesAggregator
from llb.gateway.stream.disconnect_detection import ProgressFilter
from llb.gateway.stream.relay import EventRelay, relay_aggregated, relay_response
from llb.gateway.stream.start_event import ChatStartEvent, MessagesStartEvent, read_token_count
from tests.gateway.fake_engine import Exchange, run_fake_engine
from tests.gateway.stream.relay_fixture import LAST, Sink, ask, stream

REST = (
    b"event: content_block_start\ndata:"
    b' {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\nevent:'
    b" content_block_delta\ndata:"
    b' {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xf0\x9f\x8c\x9f"}}\n\nevent:'
    b" message_delta\ndata:"
    b' {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\nevent:'
    b' message_stop\ndata: {"type":"message_stop"}\n\n'
)
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","role":"assistant","usage":'
    b'{"cache_read_input_tokens":3,"input_tokens":2,"output_tokens":0}}}\n\n'
)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sent", [START + REST, REST], ids=["as it should", "without"])
async def test_a_message_begins_with_its_start(http_client: HttpClient, sent: bytes, whole: bool) -> None:
    sink, counted = Sink(), 0

    async def count() -> int:
        nonlocal counted
        counted += 1
        return 31

    opening = MessagesStartEvent("chat", "007", count)
    async with run_fake_engine(stream(sent)) as served:
        response = await ask(http_client, served)
        if whole:
            result = await relay_aggregated(response, sink, MessagesAggregator(), start_event=opening)
            message = json.loads(sink.got)
            assert message["content"] == [{"type": "text", "text": "🌟"}]
            assert message["stop_reason"] == "end_turn"
        else:
            result = await relay_response(
                response, sink, begun=EventRelay(response, opening_filter=ProgressFilter(opening))
            )
            assert sink.got.endswith(REST)
            assert sink.got.count(b"message_start\n") == 1
            message = json.loads(sink.got.split(b"\n")[1].removeprefix(b"data: "))["message"]
    assert counted == (sent == REST)
    assert message["id"] == ("msg_007" if counted else "1")
    assert message["usage"]["input_tokens"] == (31 if counted else 2)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (31 if counted else 5, 4)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_message_whose_prompt_cannot_be_counted_is_asked_for_elsewhere(
    http_client: HttpClient, whole: bool
) -> None:
    sink = Sink()

    async def count() -> int:
        raise UpstreamClosed(before_first_byte=True)

    opening = MessagesStartEvent("chat", "007", count)
    async with run_fake_engine(stream(REST)) as served:
        response = await ask(http_client, served)
        relaying = (
            relay_aggregated(response, sink, MessagesAggregator(), start_event=opening)
            if whole
            else relay_response(
                response, sink, begun=EventRelay(response, opening_filter=ProgressFilter(opening))
            )
        )
        with pytest.raises(EngineFailed):
            await relaying
    assert sink.got == b""


async def test_an_error_is_no_message_without_a_start(http_client: HttpClient) -> None:
    failed = b'event: error\ndata: {"type":"error","error":{"message":"No"}}\n\n'

    async def count() -> int:
        raise AssertionError("nothing is to be counted")

    sink = Sink()
    async with run_fake_engine(stream(failed)) as served:
        response = await ask(http_client, served)
        opening_filter = ProgressFilter(MessagesStartEvent("chat", "007", count))
        await relay_response(response, sink, begun=EventRelay(response, opening_filter=opening_filter))
    assert sink.got == failed


ROLE = (
    b"data:"
    b' {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"id":"1"}\n\n'
)
WORD = (
    b"data:"
    b' {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\xf0\x9f\x8c\x9f"}}],"id":"1"}\n\n'
)
ERROR = b'data: {"error":{"message":"No"}}\n\n'


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (ROLE + WORD + LAST, ROLE + WORD + LAST),
        (WORD + LAST, ROLE + WORD + LAST),
        (ERROR, ERROR),
        (LAST, LAST),
        (b": comment\n\n" + LAST, b": comment\n\n" + LAST),
        (b'data: {"choices":[7]}\n\n', b'data: {"choices":[7]}\n\n'),
        (b'data: {"choices":null}\n\n', b'data: {"choices":null}\n\n'),
        (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
    ],
)
async def test_a_chat_begins_with_its_role(http_client: HttpClient, sent: bytes, expected: bytes) -> None:
    sink = Sink()
    async with run_fake_engine(stream(sent)) as served:
        response = await ask(http_client, served)
        begun = EventRelay(response, opening_filter=ProgressFilter(ChatStartEvent()))
        await relay_response(response, sink, begun=begun)
    assert sink.got == expected


@pytest.mark.parametrize(
    ("body", "expected"), [(b'{"input_tokens":7}', 7), (b'{"input_tokens":"7"}', None), (b"No", None)]
)
async def test_reading_a_count(http_client: HttpClient, body: bytes, expected: int | None) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with run_fake_engine(answer) as served:
        response = await ask(http_client, served)
        if expected is None:
            with pytest.raises(InvalidResponse):
                await read_token_count(response, 5)
        else:
            assert await read_token_count(response, 5) == expected
