"""Error responses in the format of the path."""

from __future__ import annotations

from pathlib import Path

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb.api.middleware.route_policy import (
    requires_scope,
)
from llb.wire import Scope
from tests.api.http_server import ApiServer, run_api_server


async def test_refused_credentials_are_answered_in_the_format_of_the_path(tmp_path: Path) -> None:
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


async def test_the_wrong_method_is_a_405_and_nothing_leaks(server: ApiServer) -> None:
    assert (await server.call("DELETE", "/open")).status == 405
    crash = await server.call("GET", "/crash")
    assert b"ZeroDivision" not in crash.body
