"""Cross-origin requests: forgery, cookies, and the CORS headers of allowed origins."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.wire import Scope
from tests.api.http_server import PASSWORD, ApiServer, run_api_server

CROSS_ORIGIN = [
    [("Origin", "http://evil.example")],
    [("Origin", "http://localhost:1")],
    [("Origin", "https://localhost")],
    [("Origin", "null")],
    [("Origin", "file://")],
    [("Origin", "http://localhost"), ("Origin", "http://evil.example")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "none")],
    [("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-site")],
]


@pytest.mark.parametrize("headers", CROSS_ORIGIN)
async def test_a_page_of_another_origin_changes_nothing(
    server: ApiServer, headers: list[tuple[str, str]]
) -> None:
    session = await server.log_in()
    key = await server.create_key(Scope.ADMIN)
    for credential in ([session], [key], []):
        for path in ("/any", "/open", "/api/auth/login", "/nothing"):
            response = await server.call("POST", path, *credential, *headers, json_body={})
            assert (response.status, response.code) == (403, "origin_not_allowed"), path
    assert server.handled_requests == []


@pytest.mark.parametrize("headers", [item for item in CROSS_ORIGIN if item != [("Sec-Fetch-Site", "none")]])
async def test_a_page_of_another_origin_opens_no_websocket(
    server: ApiServer, headers: list[tuple[str, str]]
) -> None:
    for credential in ([await server.log_in()], [await server.create_key(Scope.ADMIN)], []):
        assert await server.websocket_status(*credential, *headers) == 403
    assert server.handled_requests == []


async def test_the_page_of_this_server_may_act(server: ApiServer) -> None:
    session = await server.log_in()
    own = ("Origin", f"http://localhost:{server.port}")
    host = f"localhost:{server.port}"
    response = await server.call("POST", "/any", session, own, ("Sec-Fetch-Site", "same-origin"), host=host)
    assert (response.status, response.json) == (200, {"kind": "session"})
    assert (await server.call("POST", "/any", session, ("Origin", "http://localhost:80"))).status == 200
    assert await server.websocket_status(session, own, host=host) == 101


async def test_a_cookie_does_not_count_for_another_origins_read(server: ApiServer) -> None:
    session = await server.log_in()
    assert (await server.call("GET", "/any", session)).status == 200
    assert (await server.call("GET", "/any", session, ("Sec-Fetch-Site", "none"))).status == 200
    for header in (("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-site")):
        assert (await server.call("GET", "/any", session, header)).status == 401


APP = "https://app.example"


async def test_an_allowed_origin_may_use_a_key_and_never_a_cookie(tmp_path: Path) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD, allowed_origins=(APP,)) as server:
        key, session = await server.create_key(Scope.INFERENCE), await server.log_in()
        origin = ("Origin", APP)
        response = await server.call(
            "POST", "/infer", key, origin, ("Sec-Fetch-Site", "cross-site"), json_body={}
        )
        assert response.status == 200
        assert response.header("access-control-allow-origin") == APP
        assert response.header("access-control-allow-credentials") is None
        assert "Origin" in str(response.header("vary"))

        for path in ("/any", "/api/auth/login"):
            assert (await server.call("POST", path, session, origin, json_body={})).status == 403
        assert (await server.call("GET", "/any", session, origin)).status == 401
        assert (await server.call("POST", "/infer", key, ("Origin", "https://evil.example"))).status == 403


async def test_preflight(tmp_path: Path) -> None:
    asks = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization"))
    async with run_api_server(tmp_path, allowed_origins=(APP,)) as server:
        response = await server.call("OPTIONS", "/infer", ("Origin", APP), *asks)
        assert response.status == 204
        assert response.header("access-control-allow-origin") == APP
        assert "authorization" in str(response.header("access-control-allow-headers"))
        assert "POST" in str(response.header("access-control-allow-methods"))
        assert response.header("access-control-allow-credentials") is None
        refused = await server.call("OPTIONS", "/infer", ("Origin", "https://evil.example"), *asks)
        assert refused.status == 403
        assert refused.header("access-control-allow-origin") is None
        assert (
            await server.call("OPTIONS", "/infer", ("Origin", APP), *asks, host="evil.example")
        ).status == 421


async def test_without_allowed_origins_no_page_gets_cors(server: ApiServer) -> None:
    response = await server.call("GET", "/open", ("Origin", APP))
    assert response.header("access-control-allow-origin") is None
    assert response.header("vary") is None
