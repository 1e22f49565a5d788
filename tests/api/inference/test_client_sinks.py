"""Client sinks: buffering, and transcripts of what another sink receives."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest
from sanic import Request

from llb.api.incoming_request import DirectRequest
from llb.api.inference.anthropic import PING_EVENT
from llb.api.inference.client_sinks import (
    BufferedSink,
    DirectResponseSink,
    ResponseSink,
    ResponsesSink,
    with_transcript,
)
from llb.api.responses import PassthroughResponse
from llb.gateway.dialects.responses_answer import AnswerLimits, ResponsesAnswer
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.sse import SSE_KEEPALIVE
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Role


def new_record() -> RequestRecord:
    principal = Principal(kind=PrincipalKind.KEY, id="key-1", role=Role.USER)
    return RequestRecord(1, "r", principal, "/v1/chat/completions", 0.0)


async def test_a_buffered_answer() -> None:
    sink = BufferedSink()
    sink.start_response(200, b"application/json", node_name="attic", queued_ms=3)
    await sink.write(b"{")
    await sink.write(b"}", last=True)
    assert (sink.body, sink.started) == (b"{}", False)
    assert sink.headers == {"x-llb-node": "attic", "x-llb-queue-ms": "3"}


async def test_a_transcript_is_recorded_on_the_way_to_another_sink() -> None:
    record, buffer = new_record(), BufferedSink()
    request = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    answer = json.dumps({"choices": [{"message": {"content": "Hello"}}]}).encode()
    sink = with_transcript(buffer, record, request)
    sink.start_response(200, b"application/json", node_name="attic", queued_ms=0)
    await sink.write(answer, last=True)
    assert buffer.body == answer
    assert record.transcript is not None
    text = record.transcript.build_text()
    assert text is not None
    assert (text.prompt, text.answer) == ("user: Hi", "Hello")


class WrittenResponse:
    """Response of Sanic that records what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    async def send(self, data: bytes, *, end_stream: bool) -> None:
        self.sent += data


async def test_silence_in_the_words_of_the_dialect() -> None:
    """Not every reader of Server-Sent Events ignores comments."""
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    for keepalive, expected in ((PING_EVENT, ping), (SSE_KEEPALIVE, b": heartbeat\n\n")):
        response = WrittenResponse()

        async def respond(_head: object, response: WrittenResponse = response) -> WrittenResponse:
            return response

        request = cast(Request, SimpleNamespace(respond=respond, stream=None))
        sink = ResponseSink(
            request,
            new_record(),
            rewrite_events=lambda data: data.upper(),
            keepalive=keepalive,
        )
        await sink.write(SSE_KEEPALIVE)
        assert response.sent == expected


@pytest.mark.parametrize("make_sink", [ResponseSink, DirectResponseSink])
async def test_a_comment_before_the_answer_begins_an_event_stream(make_sink: type[ResponseSink]) -> None:
    """The request is queued, or its model is loaded: no node has answered yet."""
    heads: list[PassthroughResponse] = []

    async def respond(head: PassthroughResponse) -> WrittenResponse:
        heads.append(head)
        return WrittenResponse()

    sink = make_sink(cast(DirectRequest, SimpleNamespace(respond=respond)), new_record())
    await sink.write(SSE_KEEPALIVE)
    sink.start_response(200, b"text/event-stream", node_name="attic", queued_ms=3)
    await sink.write(b"data: {}\n\n")
    [head] = heads
    assert (head.status, head.content_type, dict(head.headers)) == (200, "text/event-stream", {})


async def test_a_document_of_responses_in_pieces() -> None:
    buffer = BufferedSink()
    sink = ResponsesSink(buffer, ResponsesAnswer({"user": "me"}, "m", AnswerLimits()))
    sink.start_response(200, b"application/json", node_name="attic", queued_ms=0)
    await sink.write(b'{"status":')
    await sink.write(b'"completed"}')
    assert buffer.body == b""
    await sink.flush()
    await sink.flush()
    assert json.loads(buffer.body)["user"] == "me"
