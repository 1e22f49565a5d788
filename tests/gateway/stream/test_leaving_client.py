"""Outcome of an answer whose client leaves after its end, or before it."""

from __future__ import annotations

import asyncio

import pytest

from llb.gateway.http.client import HttpClient
from llb.gateway.stream.relay import RelayResult, relay_response
from tests.gateway.fake_engine import SSE_HEAD, Exchange, run_fake_engine
from tests.gateway.stream.relay_fixture import LAST, Sink, ask

CHAT_DELTA = b'data: {"choices":[{"delta":{"content":"data: [DONE]"},"finish_reason":null,"index":0}]}\n\n'
CHAT_FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop","index":0}]}\n\n'
MESSAGE_DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"input_tokens":31,"output_tokens":3}}\n\n'
)
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
TEXT_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
RESPONSE_END = (
    b'event: response.%b\ndata: {"type":"response.%b","response":{"usage":'
    b'{"input_tokens":31,"output_tokens":3}}}\n\n'
)
# Bytes that the client has received when it leaves, and those that the engine sends after that.
ANSWERED = {
    "after the finish reason": (CHAT_DELTA + CHAT_FINISH, LAST),
    "after a finish reason with spaces": (CHAT_FINISH.replace(b'":', b'": '), LAST),
    "after the counts": (CHAT_FINISH + LAST.partition(b"data: [DONE]")[0], b""),
    "after [DONE]": (CHAT_FINISH + LAST, b""),
    "after [DONE], without a finish reason": (CHAT_DELTA + LAST, b""),
    "after the stop reason": (MESSAGE_DELTA, MESSAGE_STOP),
    "after message_stop": (MESSAGE_DELTA + MESSAGE_STOP, b""),
    "after response.completed": (TEXT_DELTA + RESPONSE_END % (b"completed", b"completed"), b""),
    "after response.incomplete": (TEXT_DELTA + RESPONSE_END % (b"incomplete", b"incomplete"), b""),
}
UNANSWERED = {
    "in the middle": (CHAT_DELTA, CHAT_FINISH + LAST),
    "in the middle of a message": (b'event: message_start\ndata: {"message":{"stop_reason":null}}\n\n', b""),
    "in the middle of Responses": (TEXT_DELTA, RESPONSE_END % (b"completed", b"completed")),
}


async def leave(
    http_client: HttpClient, received: bytes, rest: bytes, *, ends: bool = False
) -> list[RelayResult]:
    """Return the outcomes reported for a client that leaves when it has received `received`."""
    sink, has_left = Sink(), asyncio.Event()
    results: list[RelayResult] = []

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(received)
        await has_left.wait()
        if rest:
            await exchange.send_chunk(rest)
        if ends:
            await exchange.end_body()
        await exchange.client_closed.wait()

    async with run_fake_engine(answer) as served:
        response = await ask(http_client, served)
        task = asyncio.ensure_future(relay_response(response, sink, on_client_left=results.append))
        await sink.until(1)
        task.cancel()
        has_left.set()
        await asyncio.wait([task])
        assert task.cancelled()
        await served.wait_for_open_connections(0)
    return results


@pytest.mark.parametrize("when", ANSWERED)
async def test_a_client_that_leaves_after_the_end_has_its_answer(http_client: HttpClient, when: str) -> None:
    [result] = await leave(http_client, *ANSWERED[when])
    assert (result.error, result.stream) == (None, True)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (31, 3)


@pytest.mark.parametrize("when", UNANSWERED)
async def test_a_client_that_leaves_before_the_end_has_no_answer(http_client: HttpClient, when: str) -> None:
    assert await leave(http_client, *UNANSWERED[when]) == []


async def test_counts_that_do_not_come_are_not_awaited_for_long(http_client: HttpClient) -> None:
    """The slot of a client that has left is needed by others."""
    [result] = await leave(http_client, CHAT_FINISH, b"")
    assert result.usage.completion_tokens is None
