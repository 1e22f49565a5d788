"""Client sinks: buffering, and transcripts of what another sink receives."""

from __future__ import annotations

import json

from llb.api.inference.client_sinks import BufferedSink, with_transcript
from llb.gateway.observability.request_log import RequestRecord
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
