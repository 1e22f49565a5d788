"""Cross-origin requests: forgery, cookies, and the CORS headers of allowed origins."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.errors import SetupError
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


EXTENSION = "chrome-extension://abcdefghijklmnopabcdefghijklmnop"


@pytest.mark.parametrize(
    ("allowed", "passes", "refused"),
    [
        (EXTENSION, [EXTENSION], ["chrome-extension://other", "moz-extension://x", "https://app.example"]),
        (
            "moz-extension://*",
            ["moz-extension://0a1b-2c"],
            [EXTENSION, "moz-extension:", "xmoz-extension://a"],
        ),
        (
            "app://obsidian.md",
            ["app://obsidian.md", "app://Obsidian.md"],
            ["app://obsidian.md.evil", "app://"],
        ),
        ("app://.", ["app://."], ["app://x"]),
        ("tauri://localhost", ["tauri://localhost"], ["http://tauri.localhost", "tauri://localhost:1"]),
        (
            "http://tauri.localhost",
            ["http://tauri.localhost", "http://tauri.localhost:80"],
            ["tauri://localhost"],
        ),
        ("vscode-webview://*", ["vscode-webview://1a2b3c"], ["vscode-file://vscode-app"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["null", "file://"]),
        ("file://", ["file://"], ["null", "file:", "file:///etc"]),
    ],
)
async def test_extensions_and_desktop_programs(
    tmp_path: Path, allowed: str, passes: list[str], refused: list[str]
) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD, allowed_origins=(allowed,)) as server:
        key, session = await server.create_key(Scope.INFERENCE), await server.log_in()
        cross_site = ("Sec-Fetch-Site", "cross-site")
        for origin in passes:
            response = await server.call("POST", "/infer", key, ("Origin", origin), cross_site, json_body={})
            assert response.status == 200, origin
            assert response.header("access-control-allow-origin") == origin
            cookie = await server.call("POST", "/any", session, ("Origin", origin), json_body={})
            assert cookie.status == 403
        for origin in refused:
            response = await server.call("POST", "/infer", key, ("Origin", origin), cross_site, json_body={})
            assert response.status == 403, origin
            assert response.header("access-control-allow-origin") is None


@pytest.mark.parametrize(
    "wrong",
    [
        "null",
        "https://*",
        "http://*",
        "app",
        "app:/x",
        "https://a.example/path",
        "chrome-extension://a/b",
        "*://x",
    ],
)
async def test_what_is_no_origin_stops_the_start(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(SetupError, match="--allowed-origin: "):
        async with run_api_server(tmp_path, allowed_origins=(wrong,)):
            pass


async def test_an_allowed_origin_gets_every_header_that_it_asks_for(tmp_path: Path) -> None:
    method = ("Access-Control-Request-Method", "POST")
    async with run_api_server(tmp_path, allowed_origins=(APP,)) as server:
        for asked in (
            "x-my-own",
            "authorization,x-stainless-new , x_y",
            "X-Title, HTTP-Referer",
            "user-agent",
        ):
            answer = await server.call(
                "OPTIONS", "/infer", ("Origin", APP), method, ("Access-Control-Request-Headers", asked)
            )
            assert answer.header("access-control-allow-headers") == asked
            assert "Access-Control-Request-Headers" in str(answer.header("vary"))
            assert answer.header("access-control-allow-private-network") is None
        for asked in ("", "a b", "x-a;", "x-a, , x-b", "*, (x)", "x:y"):
            answer = await server.call(
                "OPTIONS", "/infer", ("Origin", APP), method, ("Access-Control-Request-Headers", asked)
            )
            assert str(answer.header("access-control-allow-headers")).startswith("authorization, ")
        private = ("Access-Control-Request-Private-Network", "true")
        answer = await server.call("OPTIONS", "/infer", ("Origin", APP), method, private)
        assert answer.header("access-control-allow-private-network") == "true"
        other = await server.call("OPTIONS", "/infer", ("Origin", "https://evil.example"), method, private)
        assert (other.status, other.header("access-control-allow-private-network")) == (403, None)


async def test_a_refused_origin_is_shown_beside_the_servers(server: ApiServer) -> None:
    async def message_of(*headers: tuple[str, str], host: str = "localhost:8080") -> str:
        response = await server.call("POST", "/any", *headers, json_body={}, host=host)
        assert (response.status, response.code) == (403, "origin_not_allowed")
        return str(response.json["error"]["message"])

    message = await message_of(("Origin", "https://llm.example"))
    assert "is https://llm.example, that of this server http://localhost:8080;" in message
    assert "--trusted-proxy" in message
    assert "server http://[::1]:8080;" in await message_of(("Origin", "null"), host="[::1]:8080")
    assert "is of no valid form," in await message_of(("Origin", "é" * 300))
    assert "names another site" in await message_of(("Sec-Fetch-Site", "cross-site"))


async def test_without_allowed_origins_no_page_gets_cors(server: ApiServer) -> None:
    response = await server.call("GET", "/open", ("Origin", APP))
    assert response.header("access-control-allow-origin") is None
    assert response.header("vary") is None
