"""Disconnect detection: which requests ask for progress, and that the client sees none of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llb.gateway.engine_routes import Operation
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.disconnect_detection import ProgressFilter, needs_progress, request_progress
from llb.policy.routing import RequestEstimate, Throughput
from llb.wire import InferenceFields
from tests.gateway.gateway_fixture import make_call

PROGRESS = b'data: {"choices":[],"prompt_progress":{"total":9,"processed":3}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"\\"prompt_progress\\":"}}]}\n\n'


def is_asked(
    rate: float | None, *, stream: bool = False, operation: Operation = Operation.CHAT, **fields: Any
) -> bool:
    throughput = Throughput() if rate is None else Throughput(rate, rate)
    performance = SimpleNamespace(throughput_of=lambda _node_id, _model_id: throughput)
    call = replace(make_call(stream=stream, operation=operation), head=InferenceFields(model="m", **fields))
    estimate = RequestEstimate(context_tokens=10)
    return needs_progress(call, estimate, cast(PerformanceModel, performance), "a")


@pytest.mark.parametrize(
    ("rate", "options", "expected"),
    [
        # 10 tokens to read and 10 to write.
        (100.0, {"max_tokens": 10}, False),
        (10.0, {"max_tokens": 10}, True),
        # An answer of any length, and an engine that nobody has measured.
        (1e9, {}, True),
        (None, {"max_tokens": 1}, True),
        (1e9, {"stream": True}, True),
        # The client asks for the progress itself.
        (1e9, {"stream": True, "return_progress": True}, False),
        (1.0, {"operation": Operation.EMBEDDINGS}, False),
    ],
)
def test_who_is_asked_for_progress(rate: float | None, options: dict[str, Any], expected: bool) -> None:
    assert is_asked(rate, **options) is expected


@pytest.mark.parametrize("body", [b'{"stream":false,"a":1}', b'{"stream":false,"a":1} \n'])
def test_the_last_of_two_fields_counts(body: bytes) -> None:
    asked = json.loads(request_progress(body, stream=False))
    assert (asked["stream"], asked["return_progress"], asked["a"]) == (True, True, 1)
    assert asked["stream_options"] == {"include_usage": True}
    streamed = json.loads(request_progress(body, stream=True))
    assert (streamed["stream"], streamed["return_progress"]) == (False, True)


def test_progress_before_the_first_token_is_dropped() -> None:
    progress = ProgressFilter()
    assert progress.filter_events(PROGRESS) == b""
    assert progress.filter_events(PROGRESS + TEXT + PROGRESS) == TEXT + PROGRESS
    assert progress.is_finished
    assert progress.flush() == b""


def test_events_that_open_a_response_come_once_with_the_first_token() -> None:
    created = b'event: response.created\ndata: {"type":"response.created"}\n\n'
    running = b'event: response.in_progress\ndata: {"a":1,"prompt_progress":{"total":9}}\n\n'
    progress = ProgressFilter()
    assert progress.filter_events(created + running + running) == b""
    opening = created + b'event: response.in_progress\ndata: {"a":1}\n\n'
    assert progress.filter_events(TEXT) == opening + TEXT


def test_a_stream_that_ends_before_its_first_token_keeps_what_it_has() -> None:
    created = b"event: response.created\ndata: {}\n\n"
    progress = ProgressFilter()
    progress.filter_events(created + PROGRESS)
    assert progress.flush() == created
