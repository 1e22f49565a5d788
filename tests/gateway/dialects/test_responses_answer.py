"""Completion of the answers of Responses: positions, status, repeated fields, pieces of any size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.gateway.dialects.responses_answer import AnswerLimits, ResponsesAnswer, read_echoed_fields
from llb.gateway.stream.sse import SSE_KEEPALIVE

CALL = {"arguments": "", "call_id": "fc_1", "name": "f", "type": "function_call", "status": "in_progress"}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
NO_LIMITS = AnswerLimits()
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
NO_LIMITS = AnswerLimits()
# A message and a call, as llama-server streams them.
EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}},
    {"type": "response.output_item.added", "item": {**MESSAGE, "status": "in_progress"}},
    {"type": "response.content_part.added", "item_id": "msg_1", "part": {"type": "output_text", "text": ""}},
    {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"},
    {"type": "response.output_item.added", "item": CALL},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"},
    {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": "{}"},
    {"type": "response.output_item.done", "item": {**CALL, "status": "completed"}},
    {
        "type": "response.completed",
        "response": {"id": "resp_1", "status": "completed", "output": [MESSAGE, CALL], "usage": USAGE},
    },
]
STREAM = b"".join(
    b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()) for event in EVENTS
)


def complete(limits: AnswerLimits = NO_LIMITS, step: int = 10_000) -> list[dict[str, Any]]:
    answer = ResponsesAnswer(read_echoed_fields(b'{"model":"m","user":"me"}'), "m", limits, lambda: 7.5)
    pieces = (STREAM[at : at + step] for at in range(0, len(STREAM), step))
    completed = b"".join(answer.complete_events(piece) for piece in pieces)
    assert answer.take_unfinished() == b""
    lines = completed.decode().splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [line[7:] for line in lines if line.startswith("event: ")] == [event["type"] for event in events]
    return events


@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_events_have_their_positions(step: int) -> None:
    events = complete(step=step)
    assert [event["sequence_number"] for event in events] == list(range(len(EVENTS)))
    assert [event.get("output_index") for event in events] == [None, 0, 0, 0, 1, 1, 1, 1, None]
    assert [event.get("content_index") for event in events] == [None, None, 0, 0, *[None] * 5]
    assert events[3]["logprobs"] == []
    assert events[6]["name"] == "f"
    assert events[4]["item"]["id"] == "fc_1"


def test_a_complete_answer() -> None:
    *_, done, end = complete(AnswerLimits(output_tokens=4, context_length=lambda: 9))
    assert end["type"] == "response.completed"
    assert (end["response"]["status"], end["response"]["completed_at"]) == ("completed", 7)
    assert (end["response"]["user"], end["response"]["tools"]) == ("me", [])
    assert done["item"]["status"] == "completed"


@pytest.mark.parametrize("limits", [AnswerLimits(output_tokens=3), AnswerLimits(context_length=lambda: 8)])
def test_an_answer_that_reached_a_limit(limits: AnswerLimits) -> None:
    *_, done, end = complete(limits)
    assert end["type"] == "response.incomplete"
    response = end["response"]
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == done["item"]["status"] == "incomplete"


def test_what_is_no_event_passes_unchanged() -> None:
    answer = ResponsesAnswer({}, "m", AnswerLimits())
    for other in (SSE_KEEPALIVE, b"data: [DONE]\n\n", b'data: {"type"\n\n', b'data: ["type"]\n\n'):
        assert answer.complete_events(other) == other
    assert answer.complete_events(b"data: {") == b""
    assert answer.take_unfinished() == b"data: {"


def test_null_is_no_value_to_repeat() -> None:
    fields = read_echoed_fields(b'{"tools":null,"temperature":0.5,"metadata":{"a":"b"}}')
    assert (fields["tools"], fields["temperature"], fields["metadata"]) == ([], 0.5, {"a": "b"})
