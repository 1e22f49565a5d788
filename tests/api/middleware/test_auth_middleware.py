"""Authentication and authorisation of requests, over a real socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llb.errors import SetupError
from llb.security.tokens import hash_token
from llb.store.tables import keys
from llb.wire import Scope
from tests.api.http_server import NODE_CREDENTIAL, PASSWORD, ApiServer, run_api_server


@pytest.mark.parametrize(
    "wrong",
    [{"allowed_hosts": ("a b",)}, {"allowed_origins": ("llm.example",)}, {"trusted_proxies": ("proxy",)}],
)
async def test_a_setting_that_cannot_be_stops_the_start(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        async with run_api_server(tmp_path, **wrong):
            pass


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


async def test_of_a_key_and_a_placeholder_the_key_counts(server: ApiServer) -> None:
    key, other = await server.create_key(Scope.INFERENCE), await server.create_key(Scope.ADMIN)
    token = key[1].removeprefix("Bearer ")
    local, session = ("Authorization", f"Bearer {server.local_token}"), await server.log_in()
    for placeholder in ("none", "sk-unknown", "", "llb-local-x", NODE_CREDENTIAL, "Ü"):
        for headers in (
            (key, ("X-API-Key", placeholder)),
            (("Authorization", f"Bearer {placeholder}"), ("X-API-Key", token)),
            (("Authorization", "Basic dTpw"), ("X-API-Key", token)),
        ):
            assert (await server.call("GET", "/infer", *headers)).json == {"kind": "key"}, headers
            # Not with more rights than the key has, whatever the cookie has.
            assert (await server.call("GET", "/write", session, *headers)).status == 403
        refused = await server.call("GET", "/any", session, ("X-API-Key", placeholder), ("X-API-Key", "x"))
        assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert (await server.call("GET", "/any", local, ("X-API-Key", "none"))).json == {"kind": "local"}
    # Two headers of one kind are what proxies and servers read differently.
    for repeated in (
        (key, ("Authorization", "Bearer none")),
        (("Authorization", "Bearer none"), key),
        (("X-API-Key", token), ("X-API-Key", "none")),
        (key, ("X-API-Key", "a"), ("X-API-Key", "b")),
    ):
        assert (await server.call("GET", "/any", *repeated)).status == 401
    assert (await server.call("GET", "/any", key, ("Authorization", "Basic dTpw"))).status == 200
    # Whose rights are meant would be a guess.
    both = (other, ("X-API-Key", token))
    assert (await server.call("GET", "/any", *both)).status == 401
    node = ("Authorization", f"Bearer {NODE_CREDENTIAL}")
    assert (await server.call("GET", "/node", node, ("X-API-Key", "none"))).status == 401


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


async def test_a_nodes_credential_opens_the_routes_of_nodes_and_no_other(server: ApiServer) -> None:
    node = ("Authorization", f"Bearer {NODE_CREDENTIAL}")
    for method in ("GET", "POST"):
        assert (await server.call(method, "/node", node)).json == {"kind": "node"}
        for path in ("/any", "/infer", "/write"):
            assert (await server.call(method, path, node)).status == 401
    assert (await server.call("GET", "/metrics", node)).status == 401
    assert await server.websocket_status(node) == 401
    # It is valid from another host too.
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
    assert await server.websocket_status() == 101
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
        assert await server.websocket_status() == 401
        assert await server.websocket_status(await server.create_key(Scope.MODELS_READ)) == 101
        assert (await server.call("GET", "/metrics")).status == 200


async def test_our_own_headers_from_outside_never_arrive(server: ApiServer) -> None:
    await server.call("GET", "/open", ("x-llb-node", "spoofed"), ("X-LLB-Hop", "1"), ("x-other", "kept"))
    headers = server.handled_requests[-1].headers
    assert not [name for name in headers if name.lower().startswith("x-llb-")]
    assert headers["x-other"] == "kept"
