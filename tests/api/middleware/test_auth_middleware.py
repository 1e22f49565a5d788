"""Who may call: every rule, at a real socket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from llb.api.middleware.route_policy import RoutePolicyError, public, route_policy_of, route_policy_table
from llb.errors import SetupError
from llb.security.tokens import hash_token
from llb.store.tables import keys
from llb.wire import Scope
from tests.api.http_server import NODE_CREDENTIAL, PASSWORD, ApiServer, run_api_server

WEBSOCKET = (
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


async def _websocket(server: ApiServer, *headers: tuple[str, str], host: str = "localhost") -> int:
    """The status of an opening handshake; 101 is success."""
    lines = [
        f"Host: {host}",
        "Connection: Upgrade",
        *(f"{name}: {value}" for name, value in (*WEBSOCKET, *headers)),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(("GET /ws HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


# --- host --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:8080",
        "192.168.1.5",
        "[fe80::1]",
    ],
)
async def test_known_names_and_addresses_may_be_called(server: ApiServer, host: str) -> None:
    assert (await server.call("GET", "/open", host=host)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "127.1"]
)
async def test_other_names_are_refused_on_every_route(server: ApiServer, host: str) -> None:
    key = await server.create_key(Scope.ADMIN)
    for path in ("/open", "/any", "/api/auth/me", "/nothing"):
        response = await server.call("GET", path, key, host=host)
        assert (response.status, response.code) == (421, "unknown_host")
    assert await _websocket(server, key, host=host) == 421
    assert server.handled_requests == []


@pytest.mark.parametrize("host", ["", "a b", "[::1", "[zz]", "host:99999999", "http://localhost"])
async def test_a_malformed_host_is_a_bad_request(server: ApiServer, host: str) -> None:
    assert (await server.call("GET", "/open", host=host)).status == 400


async def test_no_host_or_two_are_a_bad_request(server: ApiServer) -> None:
    assert (await server.call("GET", "/open", host=None)).status == 400
    assert (await server.call("GET", "/open", ("Host", "localhost"))).status == 400


async def test_an_allowed_host_may_be_called(tmp_path: Path) -> None:
    async with run_api_server(
        tmp_path, allowed_hosts=("LLM.example",), advertise="http://other.example:80"
    ) as server:
        assert (await server.call("GET", "/open", host="llm.example:8080")).status == 200
        assert (await server.call("GET", "/open", host="other.example")).status == 200
        assert (await server.call("GET", "/open", host="x.llm.example")).status == 421


@pytest.mark.parametrize(
    "wrong",
    [{"allowed_hosts": ("a b",)}, {"allowed_origins": ("llm.example",)}, {"trusted_proxies": ("proxy",)}],
)
async def test_a_setting_that_cannot_be_stops_the_start(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        async with run_api_server(tmp_path, **wrong):
            pass


# --- origin ------------------------------------------------------------------------------------------

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
        assert await _websocket(server, *credential, *headers) == 403
    assert server.handled_requests == []


async def test_the_page_of_this_server_may_act(server: ApiServer) -> None:
    session = await server.log_in()
    own = ("Origin", f"http://localhost:{server.port}")
    host = f"localhost:{server.port}"
    response = await server.call("POST", "/any", session, own, ("Sec-Fetch-Site", "same-origin"), host=host)
    assert (response.status, response.json) == (200, {"kind": "session"})
    assert (await server.call("POST", "/any", session, ("Origin", "http://localhost:80"))).status == 200
    assert await _websocket(server, session, own, host=host) == 101


async def test_a_cookie_does_not_count_for_another_origins_read(server: ApiServer) -> None:
    session = await server.log_in()
    assert (await server.call("GET", "/any", session)).status == 200
    assert (await server.call("GET", "/any", session, ("Sec-Fetch-Site", "none"))).status == 200
    for header in (("Origin", "http://evil.example"), ("Sec-Fetch-Site", "same-site")):
        assert (await server.call("GET", "/any", session, header)).status == 401


# --- CORS --------------------------------------------------------------------------------------------

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


# --- bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_a_body_that_a_form_could_send_is_refused(server: ApiServer, given: str | None) -> None:
    headers = [] if given is None else [("Content-Type", given)]
    response = await server.call("POST", "/infer", await server.create_key(Scope.ADMIN), *headers, body=b"{}")
    assert (response.status, response.code) == (415, "unsupported_media_type")
    assert server.handled_requests == []


async def test_json_passes_and_so_does_no_body_at_all(server: ApiServer) -> None:
    key = await server.create_key(Scope.ADMIN)
    typed = ("Content-Type", "Application/JSON; charset=utf-8")
    assert (await server.call("POST", "/infer", key, typed, body=b"{}")).status == 200
    assert (await server.call("POST", "/infer", key)).status == 200
    chunked = (("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain"))
    assert (await server.call("POST", "/infer", key, *chunked, raw=b"2\r\n{}\r\n0\r\n\r\n")).status == 415


async def test_a_route_may_take_another_kind_of_body(server: ApiServer) -> None:
    key = await server.create_key(Scope.ADMIN)
    form = ("Content-Type", "multipart/form-data; boundary=x")
    assert (await server.call("POST", "/upload", key, form, body=b"--x--")).status == 200
    assert (await server.call("POST", "/upload", key, json_body={})).status == 415


# --- credentials -------------------------------------------------------------------------------------


async def test_no_credential_is_a_401_that_says_how(server: ApiServer) -> None:
    response = await server.call("GET", "/any")
    assert (response.status, response.code) == (401, "invalid_api_key")
    assert response.header("www-authenticate") == "Bearer"
    assert response.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer sk-wrong")],
        [("Authorization", "Bearer ")],
        [("Authorization", "bearer sk-wrong")],
        [("X-API-Key", "sk-wrong")],
        [("X-API-Key", "")],
        [("Authorization", "Bearer llb-local-wrong")],
        [("Authorization", "Bearer ÿé")],
    ],
)
async def test_a_bad_bearer_beside_a_good_cookie_is_a_401(
    server: ApiServer, headers: list[tuple[str, str]]
) -> None:
    session = await server.log_in()
    response = await server.call("GET", "/any", session, *headers)
    assert (response.status, response.code) == (401, "invalid_api_key")


async def test_two_different_credentials_are_none(server: ApiServer) -> None:
    one, two = await server.create_key(Scope.ADMIN), await server.create_key(Scope.ADMIN)
    assert (await server.call("GET", "/any", one, two)).status == 401
    assert (
        await server.call("GET", "/any", one, ("X-API-Key", two[1].removeprefix("Bearer ")))
    ).status == 401
    assert (await server.call("GET", "/any", one, one)).status == 200


async def test_a_key_works_in_both_headers_and_a_key_beside_a_cookie_decides(server: ApiServer) -> None:
    key = await server.create_key(Scope.INFERENCE)
    assert (await server.call("GET", "/any", ("X-API-Key", key[1].removeprefix("Bearer ")))).json == {
        "kind": "key"
    }
    session = await server.log_in()
    assert (await server.call("GET", "/write", session)).status == 200
    refused = await server.call("GET", "/write", session, key)
    assert (refused.status, refused.code) == (403, "insufficient_permissions")


async def test_scopes_decide_what_a_key_may(server: ApiServer) -> None:
    inference, writer, admin = (
        await server.create_key(Scope.INFERENCE),
        await server.create_key(Scope.MODELS_WRITE),
        await server.create_key(Scope.ADMIN),
    )
    allowed = {
        (path, name)
        for path in ("/infer", "/write", "/metrics")
        for name, key in (("inference", inference), ("writer", writer), ("admin", admin))
        if (await server.call("GET", path, key)).status == 200
    }
    assert allowed == {
        ("/infer", "inference"),
        ("/write", "writer"),
        ("/infer", "admin"),
        ("/write", "admin"),
        ("/metrics", "admin"),
    }


async def test_an_expired_and_a_revoked_key_are_refused_at_once(server: ApiServer) -> None:
    expired = await server.create_key(Scope.ADMIN, expires_at=time.time() - 1)
    assert (await server.call("GET", "/any", expired)).status == 401
    key = await server.create_key(Scope.ADMIN)
    assert (await server.call("GET", "/any", key)).status == 200
    stored = await keys.get_by_hash(server.db, hash_token(key[1].removeprefix("Bearer ")))
    assert stored is not None
    assert (await server.call("DELETE", f"/api/keys/{stored.id}", key)).status == 204
    assert (await server.call("GET", "/any", key)).status == 401


# --- nodes -------------------------------------------------------------------------------------------


async def test_a_nodes_credential_opens_the_routes_of_nodes_and_no_other(server: ApiServer) -> None:
    node = ("Authorization", f"Bearer {NODE_CREDENTIAL}")
    for method in ("GET", "POST"):
        assert (await server.call(method, "/node", node)).json == {"kind": "node"}
        for path in ("/any", "/infer", "/write"):
            assert (await server.call(method, path, node)).status == 401
    assert (await server.call("GET", "/metrics", node)).status == 401
    assert await _websocket(server, node) == 401
    # It opens nothing more to a host than it does from afar.
    assert (await server.call("GET", "/node", node, host="192.168.1.5")).status == 200


async def test_nobody_elses_credential_opens_the_routes_of_nodes(server: ApiServer) -> None:
    local = ("Authorization", f"Bearer {server.local_token}")
    wrong = ("Authorization", "Bearer llbn-of-nobody")
    for header in (
        await server.create_key(Scope.ADMIN),
        await server.log_in(),
        local,
        wrong,
        ("X-Other", "none"),
    ):
        assert (await server.call("GET", "/node", header)).status == 401, header


async def test_no_page_speaks_for_a_node(server: ApiServer) -> None:
    node = ("Authorization", f"Bearer {NODE_CREDENTIAL}")
    for header in (
        ("Origin", "http://localhost"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Site", "none"),
    ):
        refused = await server.call("GET", "/node", node, header)
        assert (refused.status, refused.code) == (403, "origin_not_allowed")


# --- local -------------------------------------------------------------------------------------------

NOT_LOCAL = [
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Anything", "x"),
    ("Forwarded", "for=127.0.0.1"),
    ("Via", "1.1 proxy"),
    ("X-Real-IP", "127.0.0.1"),
    ("x-llb-hop", "1"),
]


async def test_the_command_line_of_this_host_is_its_administrator(server: ApiServer) -> None:
    local = ("Authorization", f"Bearer {server.local_token}")
    assert (await server.call("POST", "/write", local)).json == {"kind": "local"}
    for header in NOT_LOCAL:
        assert (await server.call("GET", "/any", local, header)).status == 401, header
    assert (await server.call("GET", "/any", local, host="192.168.1.5")).status == 401


async def test_a_local_program_needs_no_credential_where_the_route_says_so(server: ApiServer) -> None:
    response = await server.call("GET", "/metrics")
    assert (response.status, response.json) == (200, {"kind": None})
    assert await _websocket(server) == 101
    for header in (
        *NOT_LOCAL,
        ("Origin", "http://localhost"),
        ("Sec-Fetch-Site", "none"),
        ("X-API-Key", "sk-no"),
    ):
        assert (await server.call("GET", "/metrics", header)).status == 401, header
    assert (await server.call("GET", "/metrics", host="192.168.1.5")).status == 401
    assert (await server.call("GET", "/any")).status == 401


async def test_a_server_that_listens_beyond_loopback_wants_a_credential_from_all_listeners(
    tmp_path: Path,
) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD, host="::") as server:
        assert await _websocket(server) == 401
        assert await _websocket(server, await server.create_key(Scope.MODELS_READ)) == 101
        assert (await server.call("GET", "/metrics")).status == 200


async def test_forwarding_headers_count_only_from_a_trusted_proxy(tmp_path: Path, server: ApiServer) -> None:
    forwarded = (
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "llm.example"),
    )
    await server.call("GET", "/open", *forwarded)
    peer = server.handled_requests[-1].ctx.client
    assert (peer.address, peer.scheme, peer.origin[1], peer.is_local) == (
        "127.0.0.1",
        "http",
        "localhost",
        False,
    )

    proxied = run_api_server(
        tmp_path / "proxied",
        admin_password=PASSWORD,
        trusted_proxies=("127.0.0.1", "10.0.0.0/8"),
        allowed_hosts=("llm.example",),
    )
    async with proxied as behind:
        await behind.call("GET", "/open", *forwarded)
        peer = behind.handled_requests[-1].ctx.client
        assert peer.address == "198.51.100.7"  # what is left of it, the client may have written
        assert peer.origin == ("https", "llm.example", 443)
        assert not peer.is_local
        login = await behind.call(
            "POST",
            "/api/auth/login",
            *forwarded,
            ("Origin", "https://llm.example"),
            json_body={"username": "admin", "password": PASSWORD},
        )
        assert login.status == 200
        assert "Secure" in str(login.header("set-cookie"))
        evil = await behind.call("GET", "/open", ("X-Forwarded-Host", "evil.example"))
        assert evil.status == 421
        # A proxy that adds no header must not make its clients look local.
        assert (await behind.call("GET", "/metrics")).status == 401
        # The token itself proves more than an address.
        local = ("Authorization", f"Bearer {behind.local_token}")
        assert (await behind.call("GET", "/any", local)).status == 200


# --- every answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"), [("/open", 200), ("/any", 401), ("/nothing", 404), ("/crash", 500)]
)
async def test_every_answer_carries_an_id_and_the_security_headers(
    server: ApiServer, path: str, status: int
) -> None:
    response = await server.call("GET", path, ("X-Request-ID", "my-id.1"))
    assert response.status == status
    assert response.header_values("x-request-id") == ["my-id.1"]
    rules = str(response.header("content-security-policy")).split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(rules)
    assert {"require-trusted-types-for 'script'", "trusted-types llb dompurify"} <= set(rules)
    assert not [rule for rule in rules if "unsafe" in rule or "*" in rule or "http" in rule]
    assert "camera=()" in str(response.header("permissions-policy"))
    assert response.header("x-content-type-options") == "nosniff"
    assert response.header("referrer-policy") == "no-referrer"
    assert response.header("cache-control") == "no-store"
    assert response.header("content-type") == "application/json"


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", ""])
async def test_an_id_that_is_none_is_replaced(server: ApiServer, given: str) -> None:
    [own] = (await server.call("GET", "/open", ("X-Request-ID", given))).header_values("x-request-id")
    assert own
    assert own != given


async def test_the_wrong_method_is_a_405_and_nothing_leaks(server: ApiServer) -> None:
    assert (await server.call("DELETE", "/open")).status == 405
    crash = await server.call("GET", "/crash")
    assert b"ZeroDivision" not in crash.body


async def test_our_own_headers_from_outside_never_arrive(server: ApiServer) -> None:
    await server.call("GET", "/open", ("x-llb-node", "spoofed"), ("X-LLB-Hop", "1"), ("x-other", "kept"))
    headers = server.handled_requests[-1].headers
    assert not [name for name in headers if name.lower().startswith("x-llb-")]
    assert headers["x-other"] == "kept"


# --- the rules stand at the routes -------------------------------------------------------------------


async def test_every_route_of_the_app_has_exactly_one_rule(server: ApiServer) -> None:
    app = next(iter(Sanic._app_registry.values()))
    table = {(method, path): access for method, path, access in route_policy_table(app)}
    assert table["POST", "/api/auth/login"].public
    assert table["GET", "/api/users"].scope is Scope.ADMIN
    assert not table["GET", "/api/keys"].public
    assert table["GET", "/ws"].unless_exposed


def test_a_route_without_a_rule_and_one_with_two_are_mistakes() -> None:
    async def handler(_: Request) -> HTTPResponse:
        return HTTPResponse()

    app: Sanic[Any, Any] = Sanic("forgetful", configure_logging=False)
    try:
        app.add_route(handler, "/forgotten")
        app.finalize()
        with pytest.raises(RoutePolicyError, match="/forgotten"):
            route_policy_of(app.router.routes[0])
    finally:
        Sanic.unregister_app(app)
    with pytest.raises(RoutePolicyError, match="two route policies"):
        public(public(handler))
