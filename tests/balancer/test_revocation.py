"""Open streams and sockets end with their key, their session and their user, in the dialect of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.asyncio.client
from msgspec import structs
from websockets.exceptions import ConnectionClosed

from llb.gateway import dispatcher
from llb.gateway.stream.keepalive import SseKeepalive
from llb.wire import ModelStatus
from tests.conftest import BalancerFactory
from tests.harness import DEADLINE_S, RunningBalancer, write_catalog
from tests.hub import HubStandIn

TURN = {"role": "user", "content": "Count."}
BODY: dict[str, Any] = {"model": "chat", "stream": True, "messages": [TURN], "max_tokens": 8}
PASSWORD = "a good long password"
# Route, and its event of an error.
STREAMS = {
    "/v1/chat/completions": 'data: {"error":',
    "/v1/messages": "event: error",
    "/api/chat": '{"error":',
}


@pytest.fixture
async def llb(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[RunningBalancer]:
    """A balancer whose only slot is taken: streams begin with comments and wait."""
    monkeypatch.setattr(
        dispatcher, "SseKeepalive", lambda sink, **_options: SseKeepalive(sink, interval_s=0.01)
    )
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "c.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    running = await make_llb(catalog=catalog, parallel=1).start()
    await running.wait_until_online()
    await running.pull_model("chat")
    slot = await running.app.gateway.admission.reserve_slot("chat", key_id="another")
    yield running
    slot.release()


async def sign_in(llb: RunningBalancer, name: str) -> tuple[str, str]:
    """Add a user with a key; returns the cookie and the key."""
    made = await llb.http.post("/api/users", json={"username": name, "password": PASSWORD})
    assert made.status_code == 201, made.text
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=60) as client:
        answer = await client.post("/api/auth/login", json={"username": name, "password": PASSWORD})
        cookie = f"llb_session={answer.cookies['llb_session']}"
        key = await client.post("/api/keys", json={"name": "app"}, headers={"Cookie": cookie})
        return cookie, str(key.json()["key"])


@asynccontextmanager
async def open_socket(
    llb: RunningBalancer, **headers: str
) -> AsyncIterator[websockets.asyncio.client.ClientConnection]:
    async with websockets.asyncio.client.connect(
        f"ws://127.0.0.1:{llb.port}/ws/models", additional_headers=headers, proxy=None
    ) as socket:
        assert json.loads(await socket.recv())["type"] == "Hello"
        yield socket


async def closing_of(socket: websockets.asyncio.client.ClientConnection) -> tuple[int, str]:
    """Read to the end; returns code and reason of the close."""
    async with asyncio.timeout(DEADLINE_S):
        # Ends without an exception for code 1000 only.
        with suppress(ConnectionClosed):
            async for _ in socket:
                pass
    return socket.close_code or 0, socket.close_reason or ""


async def read_stream(llb: RunningBalancer, path: str, key: str, begun: asyncio.Event) -> str:
    """The whole text of a stream; sets `begun` at its first byte."""
    text = ""
    async with (
        httpx.AsyncClient(base_url=llb.url, timeout=DEADLINE_S, trust_env=False) as client,
        client.stream("POST", path, json=BODY, headers={"Authorization": f"Bearer {key}"}) as response,
    ):
        assert response.status_code == 200
        async for chunk in response.aiter_text():
            begun.set()
            text += chunk
    return text


@asynccontextmanager
async def begin_request(
    llb: RunningBalancer, path: str, header: str, document: dict[str, Any]
) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Send a head, and wait until it is accepted; yields a function that sends the body."""
    body = json.dumps(document).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", llb.port)
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{llb.port}",
        header,
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
        "Connection: close",
    )

    async def finish() -> str:
        writer.write(body)
        return (await reader.read()).decode()

    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            yield finish
    finally:
        writer.close()


async def test_all_that_a_removed_user_has_open_ends(llb: RunningBalancer) -> None:
    cookie, key = await sign_in(llb, "bob")
    other_cookie, other_key = await sign_in(llb, "ann")
    async with AsyncExitStack() as opened:
        sockets = [
            await opened.enter_async_context(open_socket(llb, **headers))
            for headers in ({"Cookie": cookie}, {"Authorization": f"Bearer {key}"})
        ]
        others = [
            await opened.enter_async_context(open_socket(llb, **headers))
            for headers in ({"Cookie": other_cookie}, {"Authorization": f"Bearer {other_key}"})
        ]
        begun = [asyncio.Event() for _ in STREAMS]
        streams = [
            asyncio.create_task(read_stream(llb, path, key, event))
            for path, event in zip(STREAMS, begun, strict=True)
        ]
        async with asyncio.timeout(DEADLINE_S):
            for event in begun:
                await event.wait()
        bob = next(
            user for user in (await llb.http.get("/api/users")).json()["users"] if user["username"] == "bob"
        )
        assert (await llb.http.delete(f"/api/users/{bob['id']}")).status_code == 204
        for socket in sockets:
            code, reason = await closing_of(socket)
            assert code == 1008
            assert "revoked" in reason
        for (path, marker), stream in zip(STREAMS.items(), streams, strict=True):
            last = [line for line in (await stream).splitlines() if line.strip()]
            assert any(line.lstrip().startswith(marker) for line in last), (path, last[-3:])
            assert "revoked" in last[-1]
        for socket in others:
            await socket.ping()
            assert socket.close_code is None
    await llb.app.gateway.history.flush()
    page = (await llb.http.get("/api/requests")).json()["requests"]
    assert [(row["status"], row["error_code"]) for row in page] == [(200, "invalid_api_key")] * 3


async def test_a_key_that_a_command_revokes_ends_what_waits_in_a_queue(llb: RunningBalancer) -> None:
    _, key = await sign_in(llb, "bob")
    async with httpx.AsyncClient(base_url=llb.url, timeout=DEADLINE_S, trust_env=False) as client:
        headers = {"Authorization": f"Bearer {key}"}
        body = {**BODY, "stream": False}
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=body, headers=headers))
        await llb.wait_until(lambda: llb.app.gateway.admission.snapshot()[0].queued == 1)
        async with llb.app.db.write() as tx:
            # No watcher in this process is notified.
            await tx.execute("DELETE FROM api_keys")
        answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_pull_in_the_dialect_of_ollama_ends(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"name": "puller", "scopes": ["models:write", "inference"]}
    made = (await llb.http.post("/api/keys", json=body)).json()
    # It never becomes Ready.
    event = llb.app.cluster.view.build_status_event("chat")
    stuck = structs.replace(event, status=ModelStatus.DOWNLOADING)
    monkeypatch.setattr(llb.app.cluster.view, "build_status_event", lambda _id: stuck)
    lines: list[dict[str, Any]] = []
    async with (
        httpx.AsyncClient(base_url=llb.url, timeout=DEADLINE_S, trust_env=False) as client,
        client.stream(
            "POST", "/api/pull", json={"model": "chat"}, headers={"Authorization": f"Bearer {made['key']}"}
        ) as response,
    ):
        async for line in response.aiter_lines():
            lines.append(json.loads(line))
            if len(lines) == 1:
                assert (await llb.http.delete(f"/api/keys/{made['id']}")).status_code == 204
    assert "revoked" in lines[-1]["error"]


async def test_a_body_that_comes_after_the_revocation_does_nothing(llb: RunningBalancer) -> None:
    cookie, key = await sign_in(llb, "bob")
    made = (await llb.http.post("/api/keys", json={"name": "admin", "scopes": ["admin"]})).json()
    user = {"username": "eve", "password": PASSWORD, "role": "admin"}
    bob = next(
        each for each in (await llb.http.get("/api/users")).json()["users"] if each["username"] == "bob"
    )
    # The heads are accepted before, the bodies come after the revocation.
    async with AsyncExitStack() as opened:
        begun = [
            await opened.enter_async_context(begin_request(llb, path, header, body))
            for path, header, body in (
                ("/api/users", f"Authorization: Bearer {made['key']}", user),
                ("/api/keys", f"Authorization: Bearer {made['key']}", {"name": "child"}),
                ("/api/keys", f"Cookie: {cookie}", {"name": "bob's"}),
                ("/v1/chat/completions", f"Authorization: Bearer {key}", BODY),
            )
        ]
        assert (await llb.http.delete(f"/api/keys/{made['id']}")).status_code == 204
        assert (await llb.http.delete(f"/api/users/{bob['id']}")).status_code == 204
        for finish in begun:
            assert (await finish()).startswith("HTTP/1.1 401 ")
    users = (await llb.http.get("/api/users")).json()["users"]
    assert [each["username"] for each in users] == ["admin"]


async def test_a_body_that_comes_after_a_demotion_does_nothing(llb: RunningBalancer) -> None:
    body = {"username": "ann", "password": PASSWORD, "role": "admin"}
    ann = (await llb.http.post("/api/users", json=body)).json()
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=60) as client:
        await client.post("/api/auth/login", json={"username": "ann", "password": PASSWORD})
        cookie = f"llb_session={client.cookies['llb_session']}"
    user = {"username": "eve", "password": PASSWORD, "role": "admin"}
    async with begin_request(llb, "/api/users", f"Cookie: {cookie}", user) as finish:
        assert (await llb.http.patch(f"/api/users/{ann['id']}", json={"role": "user"})).status_code == 200
        assert (await finish()).startswith("HTTP/1.1 403 ")
