"""Errors of the Anthropic dialect."""

from __future__ import annotations

import json

import pytest

from llb import errors
from llb.api.inference.anthropic import (
    anthropic_error_body,
    anthropic_http_status_of,
    complete_events,
    is_anthropic_path,
    rewrite_error_event,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("x", param="model"), 400, "invalid_request_error"),
        (errors.InvalidApiKey("x"), 401, "authentication_error"),
        (errors.PermissionDenied("x"), 403, "permission_error"),
        (errors.ModelNotFound("x"), 404, "not_found_error"),
        (errors.PayloadTooLarge("x"), 413, "request_too_large"),
        (errors.UnsupportedMediaType("x"), 415, "invalid_request_error"),
        (errors.RateLimited("x", retry_after_s=1), 429, "rate_limit_error"),
        (errors.InternalError("x"), 500, "api_error"),
        (errors.EngineFailed("x"), 502, "api_error"),
        (errors.ModelDownloading("x", 0.5), 503, "api_error"),
        (errors.EngineTimeout("x"), 504, "timeout_error"),
        (errors.QueueFull("x"), 529, "overloaded_error"),
    ],
)
def test_kinds_of_messages_errors(error: errors.LlbError, status: int, kind: str) -> None:
    assert anthropic_http_status_of(error) == status
    body = anthropic_error_body(error, "id")
    assert (body["type"], body["request_id"]) == ("error", "id")
    assert (body["error"]["type"], body["error"]["code"]) == (kind, error.code)
    assert body["error"]["message"] == error.message


def test_which_paths_speak_it() -> None:
    spoken = ("/v1/messages", "/v1/messages/", "/v1/messages/count_tokens", "/v1/messages/batches")
    assert all(map(is_anthropic_path, spoken))
    assert not any(
        map(is_anthropic_path, ("/v1/messagesx", "/v1/models", "/api/v1/messages", "/hop/v1/messages"))
    )


def test_the_engines_error_event_becomes_one_of_the_dialect() -> None:
    delta = b'event: content_block_delta\ndata: {"delta":{"text":"event: error\\n"}}\n\n'
    own = b'event: error\ndata: {"code":500,"message":"Compute error at /a/b/c","type":"server_error"}\n\n'
    assert rewrite_error_event(delta, request_id="id") == delta
    for before in (b"", delta):
        said = rewrite_error_event(before + own, request_id="id")
        assert said.startswith(before + b"event: error\ndata: ")
        assert said.endswith(b"\n\n")
        shown = json.loads(said.removeprefix(before).partition(b"data: ")[2])
        assert (shown["type"], shown["error"]["type"], shown["request_id"]) == ("error", "api_error", "id")
        assert "/a/b" not in shown["error"]["message"]
        assert rewrite_error_event(said, request_id="id") == said


def test_the_start_of_a_tool_call_has_an_input() -> None:
    block = b'{"type":"tool_use","id":"t","name":"f"}'
    start = b'data: {"type":"content_block_start","index":0,"content_block":%b}\n\n' % block
    delta = b'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}\n\n'
    text = b'data: {"delta":{"text":"\\"content_block\\":{\\"type\\":\\"tool_use\\"}"}}\n\n'
    completed = complete_events(text + start + delta + start, request_id="id")
    events = [json.loads(line.removeprefix(b"data: ")) for line in completed.split(b"\n\n") if line]
    assert [event.get("content_block") for event in events] == [
        None,
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        None,
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    ]
    assert complete_events(completed, request_id="id") == completed
    assert completed.startswith(text)
