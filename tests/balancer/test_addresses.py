"""Addresses as clients and load balancers call them: base URLs, HEAD, HTTP/1.0, Host, and the Ollama port."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.api.connection.raw import DEADLINE_S, connect, exchange
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn
from tests.reverse_proxies import run_nginx

TURNS = [{"role": "user", "content": "Count."}]
CHAT: dict[str, Any] = {"model": "chat", "messages": TURNS, "max_tokens": 2}


class Answer:
    """A response as bytes, up to the end of the connection."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    port: int,
    method: str,
    path: str,
    *,
    body: object = None,
    version: str = "1.1",
    host: str | None = "localhost",
    **headers: str,
) -> Answer:
    """Send a request with these headers only."""
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [] if version == "1.0" else ["Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    content = b"" if body is None else json.dumps(body).encode()
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return Answer(await exchange(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + content))


@pytest.fixture
async def chatting(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    entry = {"id": "chat", "size_bytes": chat_gguf.stat().st_size}
    catalog = write_catalog(tmp_path / "chat.json", entry)
    llb = await make_llb(catalog=catalog, ollama_port=0).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


async def test_base_urls_streams_and_the_ollama_port(chatting: RunningBalancer) -> None:
    llb = chatting
    assert llb.ollama_port is not None
    key = {"Authorization": f"Bearer {await llb.create_key('inference')}"}
    for path in ("/v1/v1/chat/completions", "/chat/completions", "//v1/chat/completions/", "/v1/messages/"):
        answer = await ask(llb.port, "POST", path, body=CHAT, **key)
        assert answer.status == 200, (path, answer.body)
        assert answer.json["model"] == "chat"
    for path in ("/v1/api/chat", "/api/api/chat", "/api/chat/"):
        answer = await ask(llb.port, "POST", path, body={**CHAT, "stream": False}, **key)
        assert answer.json["message"]["role"] == "assistant"
    # The same address without a key is the page.
    assert (await ask(llb.port, "GET", "/models", **key)).json["data"][0]["id"] == "chat"
    assert (await ask(llb.port, "GET", "/models/chat", **key)).json["id"] == "chat"
    assert b"<!doctype html>" in (await ask(llb.port, "GET", "/models")).body
    # An alias has the policy of its route.
    assert (await ask(llb.port, "POST", "/chat/completions", body=CHAT)).status == 401

    streamed = {**CHAT, "stream": True}
    for path, end in (
        ("/v1/chat/completions", b"data: [DONE]\n\n"),
        ("/v1/messages", b'data: {"type":"message_stop"}\n\n'),
        ("/api/chat", b"}\n"),
    ):
        old = await ask(llb.port, "POST", path, body=streamed, version="1.0", **key)
        assert old.status == 200
        assert "transfer-encoding" not in old.headers
        assert old.headers["connection"] == "close"
        assert old.body[:1] in (b"d", b"e", b"{"), old.body[:40]
        assert old.body.endswith(end), old.body[-80:]
        new = await ask(llb.port, "POST", path, body=streamed, **key)
        assert new.headers["transfer-encoding"] == "chunked"

    message = await ask(llb.ollama_port, "POST", "/v1/messages", body=CHAT, x_api_key="made-up")
    assert (message.status, message.json["type"]) == (200, "message")
    # Clients of Anthropic that were given the base URL with /v1.
    message = await ask(llb.ollama_port, "POST", "/v1/v1/messages", body=CHAT, Authorization="Bearer none")
    assert (message.status, message.json["type"]) == (200, "message")
    unknown = await ask(llb.ollama_port, "POST", "/v1/messages", body={**CHAT, "model": "nothing"})
    assert (unknown.status, unknown.json["error"]["type"]) == (404, "not_found_error")
    assert (await ask(llb.ollama_port, "GET", "/models")).json["data"][0]["id"] == "chat"


async def test_probes_without_host_and_in_http_1_0(llb: RunningBalancer) -> None:
    for path, (version, host) in (
        (path, form)
        for path in ("/health", "/readyz")
        for form in (
            ("1.0", None),
            ("1.0", "localhost"),
            ("1.1", None),
            ("1.1", ""),
            ("1.1", "10.0.0.7:8080"),
        )
    ):
        for method in ("GET", "HEAD"):
            answer = await ask(llb.port, method, path, version=version, host=host)
            assert answer.status == 200, (method, path, version, host)
            assert bool(answer.body) is (method == "GET")
    # Nothing else is served without a name, and no other name is known.
    for path in ("/", "/api/auth/setup", "/v1/models", "/metrics"):
        assert (await ask(llb.port, "GET", path, version="1.0", host=None)).status == 400
    assert (await ask(llb.port, "GET", "/health", host="evil.example")).status == 421


async def test_head_is_get_without_its_body(llb: RunningBalancer) -> None:
    bearer = {"Authorization": f"Bearer {llb.app.local_token}"}
    paths = {
        f"/{route.path}"
        for route in llb.sanic_app.router.routes
        if "GET" in route.methods and "<" not in route.path and not route.path.startswith("ws/")
    }
    assert {"/", "/health", "/v1/models", "/api/models", "/api/openapi.json", "/metrics"} <= paths
    for path in sorted(paths):
        got, head = await ask(llb.port, "GET", path, **bearer), await ask(llb.port, "HEAD", path, **bearer)
        assert (head.status, head.body) == (got.status, b""), path
        assert head.headers.keys() == got.headers.keys(), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert (await ask(llb.port, "HEAD", "/v1//models/", **bearer)).status == 200
    assert (await ask(llb.port, "HEAD", "/v1/chat/completions", **bearer)).status == 405


async def test_an_address_without_a_route_names_the_base_urls(llb: RunningBalancer) -> None:
    for path in ("/v1", "/v1/chat/completion", "/openai/deployments/x", "/api", "//api/keys", "/nothing"):
        answer = await ask(llb.port, "POST", path, body={}, host=f"localhost:{llb.port}")
        assert answer.status == 404, path
        message = answer.json["error"]["message"]
        assert f"http://localhost:{llb.port}/v1 " in message
    anthropic = await ask(llb.port, "POST", "/v1/complete", body={}, anthropic_version="2023-06-01")
    assert (anthropic.json["type"], anthropic.json["error"]["type"]) == ("error", "not_found_error")
    assert "base URL" in anthropic.json["error"]["message"]
    assert (await ask(llb.port, "GET", "/v1/chat/completions", host="localhost")).status == 405


async def test_a_proxy_that_buffers_passes_a_stream_on_as_it_comes(
    make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path
) -> None:
    llb = await make_llb(trusted_proxies=("127.0.0.1",)).start()
    await llb.wait_until_online()
    hub.faults.stall(after=100_000)
    key = await llb.create_key("models:write")
    body = b'{"model": "tiny"}'
    head = (
        f"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    user = "root" if os.geteuid() == 0 else ""
    with run_nginx(tmp_path / "nginx", user, llb.port) as ports:
        # In HTTP/1.0 to llb, and in HTTP/1.1.
        for config in ("plain", "usual"):
            async with connect(ports[config][0]) as connection:
                await connection.send(head.encode() + body)
                assert b" 200 " in await connection.read_head()
                async with asyncio.timeout(DEADLINE_S):
                    assert b'"status"' in await connection.reader.readuntil(b"}")
