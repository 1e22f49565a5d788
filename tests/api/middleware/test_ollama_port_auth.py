"""Ollama port: requests that it serves without a key, and requests that it denies."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from llb.api.middleware.route_policy import route_policy_table
from llb.app import create_ollama_app
from llb.wire import Scope
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer

Header = tuple[str, str]
BODY = {"model": "tiny", "prompt": "x"}


async def call(
    llb: RunningBalancer,
    method: str,
    path: str,
    *headers: Header,
    host: str = "localhost:11434",
    body: object = None,
) -> tuple[int, Any]:
    """Send a request to the Ollama port with exactly these headers; return status and body."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    reader, writer = await asyncio.open_connection("127.0.0.1", llb.ollama_port)
    try:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
        response = await reader.read()
        return status, json.loads(response) if response.startswith(b"{") else response.decode()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def open_llb(make_llb: BalancerFactory) -> RunningBalancer:
    """A balancer with permissive settings for its main port."""
    return await make_llb(
        ollama_port=0,
        allowed_hosts=("attic.example",),
        allowed_origins=("*",),
        trusted_proxies=("127.0.0.1",),
    ).start()


async def test_local_programs_are_answered(open_llb: RunningBalancer) -> None:
    assert await call(open_llb, "GET", "/") == (200, "Ollama is running")
    assert (await call(open_llb, "HEAD", "/"))[0] == 200
    for host in ("localhost", "127.0.0.1:11434", "[::1]:11434", "ollama.localhost"):
        assert await call(open_llb, "GET", "/api/tags", host=host) == (200, {"models": []})
    # Some programs must send a key. None counts, not even a valid one.
    key = await open_llb.create_key("admin")
    for token in ("ollama", "sk-nothing", key, open_llb.app.local_token):
        bearer = ("Authorization", f"Bearer {token}")
        assert (await call(open_llb, "GET", "/api/tags", bearer))[0] == 200
        both = (bearer, ("X-API-Key", "another"))
        assert (await call(open_llb, "GET", "/api/tags", *both))[0] == 200
        assert (await call(open_llb, "DELETE", "/api/delete", bearer, body={"model": "tiny"}))[0] == 501
    assert (await call(open_llb, "GET", "/api/tags", ("Origin", "http://localhost:11434")))[0] == 200


PAGE_HEADERS: list[list[Header]] = [
    [("Origin", "http://evil.example")],
    [("Origin", "https://localhost:11434")],
    [("Origin", "http://localhost:8080")],
    [("Origin", "null")],
    [("Origin", "file://")],
    [("Origin", "http://localhost:11434"), ("Origin", "http://evil.example")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Origin", "http://evil.example"), ("Authorization", "Bearer ollama")],
    [("Origin", "http://evil.example"), ("X-API-Key", "ollama")],
]


REQUESTS: list[tuple[str, str, object]] = [
    ("GET", "/", None),
    ("GET", "/api/tags", None),
    ("POST", "/api/generate", BODY),
    ("POST", "/v1/completions", BODY),
]


async def test_no_page_gets_through(open_llb: RunningBalancer) -> None:
    for headers, (method, path, body) in itertools.product(PAGE_HEADERS, REQUESTS):
        status, response = await call(open_llb, method, path, *headers, body=body)
        assert status == 403, (headers, method, path, response)
        assert "page" in json.dumps(response)
    for headers in PAGE_HEADERS:
        preflight = [*headers, ("Access-Control-Request-Method", "POST")]
        assert (await call(open_llb, "OPTIONS", "/api/generate", *preflight))[0] in (403, 405)


async def test_named_extensions_and_desktop_programs_get_through(make_llb: BalancerFactory) -> None:
    origins = (
        "https://app.example",
        "http://localhost:3000",
        "*",
        "app://obsidian.md",
        "moz-extension://*",
        "file://",
    )
    llb = await make_llb(ollama_port=0, allowed_origins=origins).start()
    cross = ("Sec-Fetch-Site", "cross-site")
    for origin in ("app://obsidian.md", "moz-extension://0a-1b"):
        asks = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-own")]
        assert (await call(llb, "OPTIONS", "/api/chat", ("Origin", origin), *asks))[0] == 204
        assert (await call(llb, "GET", "/api/tags", ("Origin", origin), cross))[0] == 200
        status, response = await call(llb, "POST", "/api/generate", ("Origin", origin), cross, body=BODY)
        assert (status, "pulled" in response["error"]) == (404, True)
        # Still only where a program of this host calls.
        for host, header in (("evil.example", cross), ("localhost", ("Via", "1.1 proxy"))):
            assert (await call(llb, "GET", "/api/tags", ("Origin", origin), header, host=host))[0] in (
                403,
                421,
            )
    for origin in ("https://app.example", "http://localhost:3000", "app://other", "null", "file://"):
        assert (await call(llb, "POST", "/api/generate", ("Origin", origin), body=BODY))[0] == 403
        preflight = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
        assert (await call(llb, "OPTIONS", "/api/chat", *preflight))[0] == 403


OUTSIDE_REQUESTS: list[tuple[list[Header], str, int]] = [
    ([], "evil.example", 421),
    ([], "localhost.evil.example", 421),
    ([], "", 400),
    # This host, by a name that other hosts use too: a proxy may have let anybody in.
    ([], "attic.example", 403),
    ([], "192.168.1.5:11434", 403),
    ([("X-Forwarded-For", "127.0.0.1")], "localhost", 403),
    ([("X-Forwarded-Host", "localhost")], "localhost", 403),
    ([("Forwarded", "for=127.0.0.1")], "localhost", 403),
    ([("Via", "1.1 proxy")], "localhost", 403),
    ([("X-Real-IP", "127.0.0.1")], "localhost", 403),
    ([("X-LLB-Hop", "1")], "localhost", 403),
]


async def test_nobody_from_elsewhere_gets_through(open_llb: RunningBalancer) -> None:
    for headers, host, status in OUTSIDE_REQUESTS:
        found, response = await call(open_llb, "POST", "/api/generate", *headers, host=host, body=BODY)
        assert found == status, (headers, host, response)
        assert isinstance(response["error"], str)
        found, response = await call(open_llb, "POST", "/v1/completions", *headers, host=host, body=BODY)
        assert found == status, (headers, host, response)
        assert response["error"]["message"]


async def test_named_networks_are_let_in_and_no_others(make_llb: BalancerFactory) -> None:
    """The client has a loopback address but calls as another host would: only its network admits it."""
    outside = "192.168.1.5:11434"
    llb = await make_llb(ollama_port=0, ollama_allow=("127.0.0.0/8", "fd00::/8")).start()
    assert (await call(llb, "GET", "/api/tags", host=outside))[0] == 200
    assert (await call(llb, "GET", "/api/tags", host="evil.example"))[0] == 421
    for header in (*PAGE_HEADERS[0], ("X-Forwarded-For", "127.0.0.1"), ("Via", "1.1 proxy")):
        assert (await call(llb, "GET", "/api/tags", header, host=outside))[0] == 403
    await llb.stop()
    llb = await make_llb(ollama_port=0, ollama_allow=("10.0.0.0/8",)).start()
    assert (await call(llb, "GET", "/api/tags", host=outside))[0] == 403
    assert (await call(llb, "GET", "/api/tags"))[0] == 200


async def test_nothing_but_the_dialects_is_there(open_llb: RunningBalancer) -> None:
    for path in (
        "/api/models",
        "/api/keys",
        "/api/nodes",
        "/metrics",
        "/hop/proof",
        "/api/auth/me",
        "/login",
    ):
        assert (await call(open_llb, "GET", path))[0] == 404
    app = create_ollama_app(open_llb.app)
    table = [policy for *_, policy in route_policy_table(app)]
    app.unregister_app(app)
    assert table
    assert {policy.scope for policy in table} == {Scope.INFERENCE, Scope.MODELS_WRITE}
    assert not [policy for policy in table if policy.public or policy.node_only or policy.requires_file_token]


async def test_it_gives_the_right_to_infer_and_no_other(open_llb: RunningBalancer) -> None:
    status, response = await call(open_llb, "POST", "/api/generate", body={"model": "tiny", "keep_alive": 0})
    assert (status, response) == (403, {"error": "Unloading a model needs the scope 'models:write'"})
    status, response = await call(open_llb, "POST", "/api/pull", body={"model": "tiny"})
    assert status == 403
    assert "'models:write'" in response["error"]
    status, response = await call(open_llb, "POST", "/api/generate", body=BODY)
    assert (status, response) == (404, {"error": "Model 'tiny' has not been pulled; pull it first"})
    recorded = (await open_llb.http.get("/api/requests")).json()["requests"]
    assert [item["key_name"] for item in recorded] == ["ollama-port"] * 2


async def test_the_usual_port_is_as_it_was(open_llb: RunningBalancer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", open_llb.port)
    writer.write(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert int((await reader.readline()).split()[1]) == 401
    writer.close()
    await writer.wait_closed()
