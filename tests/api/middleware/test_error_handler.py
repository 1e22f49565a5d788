"""The shapes of errors, and what of the engine's own words is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.inference.anthropic import (
    anthropic_error_body,
    anthropic_http_status_of,
    is_anthropic_path,
    rewrite_error_event,
)
from llb.api.inference.openai import responses_error_event
from llb.api.middleware.route_policy import requires_scope
from llb.wire import Scope
from tests.api.http_server import run_api_server


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


def test_an_error_in_a_stream_of_responses() -> None:
    event = responses_error_event(errors.EngineFailed("It broke"))
    assert event.startswith(b"event: error\ndata: ")
    shown = json.loads(event.partition(b"data: ")[2])
    assert (shown["type"], shown["code"], shown["message"]) == ("error", "engine_failed", "It broke")
    assert shown["error"]["message"] == "It broke"


async def test_what_the_guard_refuses_has_the_shape_of_its_path(tmp_path: Path) -> None:
    blueprint = Blueprint("messages")

    @blueprint.post("/v1/messages")
    @requires_scope(Scope.INFERENCE)
    async def messages(_: Request) -> HTTPResponse:
        raise ZeroDivisionError

    async with run_api_server(tmp_path, blueprint) as server:
        key = await server.create_key(Scope.INFERENCE)
        for headers, status, kind in (
            ((), 401, "authentication_error"),
            ((("X-API-Key", "sk-wrong"),), 401, "authentication_error"),
            ((("Origin", "https://evil.example"),), 403, "permission_error"),
            ((key,), 500, "api_error"),
        ):
            response = await server.call("POST", "/v1/messages", *headers, json_body={})
            body = response.json
            assert (response.status, body["type"], body["error"]["type"]) == (status, "error", kind)
            assert body["request_id"] == response.header("request-id") == response.header("x-request-id")
        far = await server.call("POST", "/v1/messages", key, json_body={}, host="evil.example")
        assert (far.status, far.json["type"]) == (421, "error")
        text = await server.call("POST", "/v1/messages", key, ("Content-Type", "text/plain"), body=b"{}")
        assert (text.status, text.json["type"]) == (415, "error")
