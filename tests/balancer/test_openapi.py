"""The API reference against a running llb: valid and invalid calls of every operation.

`tests.harness` also checks every other response of the suite.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from llb.api.inference.openai import RERANK_ALIASES
from llb.api.reference.schemas.anthropic import MESSAGES_OPERATIONS
from llb.api.reference.schemas.openai import INFERENCE_OPERATIONS
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.ggufs import write_chat_model, write_embedding_model
from tests.harness import PASSWORD, RunningBalancer, write_catalog
from tests.hub import HubStandIn
from tests.reference import ApiReference, reference_of

JSON = {"Content-Type": "application/json"}
VALUES = (
    "1",
    "0",
    "-1",
    "x",
    "1e3",
    "1000",
    "1001",
    str(2**63),
    "2027-01-31T12:00:00Z",
    "model",
    "hour",
    "ok",
)


@pytest.fixture
async def document(llb: RunningBalancer) -> dict[str, Any]:
    return dict((await llb.http.get("/api/openapi.json")).json())


@pytest.fixture
async def talking(make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path) -> RunningBalancer:
    """Balancer with a chat model and an embedding model, and two models that are not pulled."""
    chat, embed = write_chat_model(tmp_path / "chat.gguf"), write_embedding_model(tmp_path / "embed.gguf")
    hub.add_repo("test/chat", {"chat.gguf": chat})
    hub.add_repo("test/embed", {"embed.gguf": embed})
    catalog = write_catalog(
        tmp_path / "talking.json",
        {"id": "chat", "size_bytes": chat.stat().st_size},
        {"id": "embed", "size_bytes": embed.stat().st_size, "capabilities": ["Embedding"]},
        {"id": "other", "size_bytes": TINY_BYTES},
        {"id": "giant", "size_bytes": TINY_BYTES, "required_memory_bytes": 16_000_000_000_000},
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    await asyncio.gather(llb.pull_model("chat"), llb.pull_model("embed"))
    return llb


async def test_it_is_valid_and_public(llb: RunningBalancer) -> None:
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=60) as anonymous:
        answer = await anonymous.get("/api/openapi.json", headers={"Accept-Encoding": "identity"})
        assert answer.status_code == 200
        validate(answer.json())
        unchanged = await anonymous.get(
            "/api/openapi.json",
            headers={"Accept-Encoding": "identity", "If-None-Match": answer.headers["etag"]},
        )
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        async with anonymous.stream(
            "GET", "/api/openapi.json", headers={"Accept-Encoding": "gzip"}
        ) as packed:
            raw = b"".join([piece async for piece in packed.aiter_raw()])
        assert gzip.decompress(raw) == answer.content
        assert len(raw) < len(answer.content) / 4


async def test_it_reveals_nothing_about_the_host(llb: RunningBalancer) -> None:
    text = (await llb.http.get("/api/openapi.json")).text
    for secret in (str(llb.home), llb.app.local_token, llb.app.agent.node_id):
        assert secret not in text


async def test_invalid_and_insufficient_credentials(llb: RunningBalancer, document: dict[str, Any]) -> None:
    """`RunningBalancer.http` checks each response against the reference."""
    key = await llb.create_key("inference")
    for method, path, operation in operations(document):
        scopes = {scope for way in operation["security"] for names in way.values() for scope in names}
        if not operation["security"] or {} in operation["security"] or "101" in operation["responses"]:
            continue
        url = path.replace("{", "").replace("}", "") if "record_id" not in path else path.format(record_id=1)
        for headers, expected in (
            ({"Authorization": "Bearer nobody"}, 401),
            ({"Authorization": f"Bearer {key}"}, 403 if scopes - {"inference"} else None),
        ):
            answer = await llb.http.request(
                method, url, headers=headers, json={} if method != "GET" else None
            )
            if expected is not None:
                assert answer.status_code == expected, (method, path, answer.text)


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'{"model": 1}', b"\xff", b'{"a":' * 5000])
async def test_invalid_bodies(llb: RunningBalancer, document: dict[str, Any], content: bytes) -> None:
    for method, path, operation in operations(document):
        if "requestBody" in operation:
            answer = await llb.http.request(method, path, content=content, headers=JSON)
            assert 400 <= answer.status_code < 500, (method, path, answer.text)


async def test_parameters_at_and_beyond_their_limits(llb: RunningBalancer, document: dict[str, Any]) -> None:
    reference = reference_of(llb.sanic_app)
    checked = 0
    for method, path, operation in operations(document):
        for argument in operation["parameters"]:
            # Keys have no conversations.
            if argument["in"] != "query" or "{" in path or path == "/api/conversations":
                continue
            for value in VALUES:
                answer = await llb.http.request(method, path, params={argument["name"]: value})
                schema = argument["schema"]
                parsed = (
                    int(value) if schema.get("type") == "integer" and value.lstrip("-").isdigit() else value
                )
                fits = not reference.validation_errors(schema, parsed)
                if schema.get("format") == "date-time":
                    fits = value.startswith("2027")
                expected = 200 if fits else 400
                assert answer.status_code == expected, (path, argument["name"], value, answer.text)
                checked += 1
    assert checked > 100


async def test_each_operation(talking: RunningBalancer) -> None:
    """Call every operation. Each response is checked, and no operation may be left out."""
    llb = talking
    document = (await llb.http.get("/api/openapi.json")).json()
    called_routes: set[tuple[str, str]] = set()
    http = llb.http

    async def ask(method: str, path: str, expected: int, *, client: Any = http, **options: Any) -> Any:
        answer = await client.request(method, path, **options)
        assert answer.status_code == expected, (method, path, answer.text)
        called_routes.add((method, path.partition("?")[0]))
        return (
            answer.json()
            if answer.content and answer.headers["content-type"].startswith("application")
            else None
        )

    for path in (
        "/health",
        "/readyz",
        "/metrics",
        "/api/system",
        "/api/openapi.json",
        "/api/audit",
        "/api/auth/me",
    ):
        await ask("GET", path, 200)
    await ask("GET", "/api/tls/certificate", 404)
    await ask("GET", "/api/auth/setup", 200)
    await ask("POST", "/api/auth/setup", 401, json={"token": "none", "new_password": PASSWORD})
    login = {"username": "admin", "password": PASSWORD}
    async with httpx.AsyncClient(
        base_url=llb.url, trust_env=False, timeout=60, event_hooks={"response": [llb.check_conformance]}
    ) as browser:
        assert (await browser.post("/api/auth/login", json=login)).status_code == 200
        await _ask_for_conversations(lambda *call, **options: ask(*call, client=browser, **options))
        changed = {"current_password": PASSWORD, "new_password": "another horse battery"}
        assert (await browser.post("/api/auth/password", json=changed)).status_code == 200
        assert (await browser.get("/api/auth/me")).json()["kind"] == "session"
        assert (await browser.post("/api/auth/logout")).status_code == 204
        assert (await browser.post("/api/auth/login", json=login)).status_code == 401
    user = await ask("POST", "/api/users", 201, json={"username": "ann", "password": PASSWORD})
    await ask("POST", "/api/users", 409, json={"username": "ann", "password": PASSWORD})
    await ask("GET", "/api/users", 200)
    await ask("PATCH", f"/api/users/{user['id']}", 200, json={"role": "admin"})
    await ask("DELETE", f"/api/users/{user['id']}", 204)
    await ask("DELETE", f"/api/users/{user['id']}", 404)
    key = await ask("POST", "/api/keys", 201, json={"name": "laptop", "expires_at": "2999-01-01"})
    await ask("GET", "/api/keys", 200)
    await ask("PATCH", f"/api/keys/{key['id']}", 200, json={"limits": {"requests_per_minute": 60}})
    await ask("DELETE", f"/api/keys/{key['id']}", 204)
    await ask("DELETE", f"/api/keys/{key['id']}", 404)
    [node] = (await ask("GET", "/api/nodes", 200))["nodes"]
    await ask("GET", f"/api/nodes/{node['id']}", 200)
    await ask("GET", "/api/nodes/nobody", 404)
    await ask("GET", f"/api/nodes/{node['id']}/logs", 200)
    await ask("GET", "/api/nodes/nobody/logs", 404)
    await ask("PATCH", f"/api/nodes/{node['id']}", 200, json={"tags": ["quiet"], "draining": False})
    await ask("DELETE", f"/api/nodes/{node['id']}", 409)
    await ask("POST", "/api/nodes/join-tokens", 201, json={})
    await ask("GET", "/api/models", 200)
    await ask("GET", "/api/models/chat", 200)
    await ask("GET", "/api/models/chat/memory", 200)
    await ask("GET", "/api/models/chat/files", 200)
    await ask("GET", "/api/models/chat/fit", 200)
    await ask("GET", "/api/models/nothing/memory", 404)
    await ask("POST", "/api/models/register", 409, json={"model_id": "chat"})
    await ask("POST", "/api/models/register", 400, json={"model_id": "giant"})
    await ask("POST", "/api/models/register", 202, json={"model_id": "other"})
    await ask("PATCH", "/api/models/chat", 200, json={"pinned": False})
    await ask("POST", "/api/models/chat/load", 200, json={"options": {"slots": 1}})
    await ask("POST", "/api/models/chat/unload", 204)
    await ask("GET", "/api/downloads", 200)
    await ask("GET", "/api/charts?by=model&span=recent", 200)
    await ask("PATCH", "/api/downloads", 200, json={"order": ["other"], "rate_limit": None})
    await ask("PATCH", "/api/settings", 200, json={"values": {"max_queue": "9"}})
    await ask("PATCH", "/api/settings", 400, json={"values": {"port": "9"}})
    await ask("GET", "/v1/models", 200)
    await ask("GET", "/v1/models/chat", 200)
    await ask("GET", "/v1/models/te/st", 404)
    for path in sorted({*INFERENCE_OPERATIONS, *MESSAGES_OPERATIONS, *RERANK_ALIASES}):
        await ask("POST", path, 404, json={"model": "nothing", "messages": [], "prompt": "", "input": ""})
    budget = {"scope": "provider", "id": "openai", "period": "month", "limit_usd": 50}
    await ask("PUT", "/api/budgets", 200, json={"budgets": [budget]})
    await ask("PUT", "/api/budgets", 400, json={"budgets": [{**budget, "id": "nobody"}]})
    await ask("GET", "/api/budgets", 200)
    await ask("GET", "/api/endpoints", 200)
    await ask("GET", "/api/routes", 200)
    await ask("GET", "/api/models/nothing/routes", 404)
    await ask("PUT", "/api/models/chat/routes", 404, json={"routes": [{"target": "nothing"}]})
    await ask("POST", "/api/endpoints", 400, json={"base_url": "http://127.0.0.1:1"})
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/check")):
        await ask(method, f"/api/endpoints/nothing{path}", 404, json={})
    for path in ("/api/version", "/api/tags", "/api/ps"):
        await ask("GET", path, 200)
    await ask("POST", "/api/show", 200, json={"model": "chat"})
    for path in ("/api/show", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/pull"):
        question = {"prompt": "Hi", "input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
        await ask("POST", path, 404, json={"model": "nothing", **question})
    await ask("POST", "/api/pull", 200, json={"model": "chat", "stream": False})
    await ask("GET", "/api/requests", 200)
    [first, *_] = (await ask("GET", "/api/requests", 200))["requests"]
    await ask("GET", f"/api/requests/{first['id']}", 200)
    await ask("GET", "/api/requests/1", 404)
    await ask("GET", "/api/usage", 200)
    await ask("DELETE", "/api/requests", 204)
    await ask("DELETE", "/api/models/chat", 204)
    await ask("DELETE", "/api/models/chat", 404)
    reference = reference_of(llb.sanic_app)
    called = {
        operation["operationId"]
        for method, path in called_routes
        if (operation := reference.find_operation(method, path))
    }
    called_in_other_ways = {"accounts.log_in", "accounts.log_out", "accounts.change_password", "live.models"}
    assert called | called_in_other_ways == {each["operationId"] for _, _, each in operations(document)}


async def _ask_for_conversations(ask: Callable[..., Awaitable[Any]]) -> None:
    """Call the operations of conversations and presets, which belong to a person who is signed in."""
    conversation, question, answer, preset = (letter * 16 for letter in "abcd")
    imported = {"id": conversation, "title": "Hello"}
    await ask("POST", "/api/conversations/import", 200, json={"conversations": [imported]})
    await ask("GET", "/api/conversations", 200)
    await ask("GET", f"/api/conversations/{conversation}", 200)
    await ask("PATCH", f"/api/conversations/{conversation}", 204, json={"pinned": True})
    message = {"id": question, "role": "user", "text": "Hi"}
    await ask("PUT", f"/api/conversations/{conversation}/messages/{question}", 204, json=message)
    await ask("DELETE", f"/api/conversations/{conversation}/messages/{question}", 204)
    request = {"model": "nothing", "messages": [{"role": "user", "content": "Hi"}]}
    answers = f"/api/conversations/{conversation}/answers"
    await ask("POST", answers, 200, json={"answer_id": answer, "request": request})
    for method in ("GET", "DELETE"):
        await ask(method, f"{answers}/{answer}", 404)
    await ask("DELETE", f"/api/conversations/{conversation}", 204)
    body = {"id": preset, "name": "Brief"}
    await ask("PUT", f"/api/presets/{preset}", 204, json=body)
    await ask("GET", "/api/presets", 200)
    await ask("DELETE", f"/api/presets/{preset}", 204)


async def test_responses_of_engines(talking: RunningBalancer) -> None:
    """Both as a stream and as a document."""
    llb = talking
    reference = reference_of(llb.sanic_app)
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {
            "model": "chat",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 4,
        },
        "/v1/completions": {"model": "chat", "prompt": "Hi", "max_tokens": 4},
        "/v1/embeddings": {"model": "embed", "input": ["Hi"]},
    }
    chat = bodies["/v1/chat/completions"]
    bodies |= {
        "/v1/responses": {"model": "chat", "input": "Hi", "max_output_tokens": 4},
        "/v1/responses/input_tokens": {"model": "chat", "input": "Hi"},
        "/v1/messages": chat,
        "/v1/messages/count_tokens": chat,
    }
    for path, body in bodies.items():
        answer = await llb.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        reference.check_response(answer.request, answer)
        operation = reference.find_operation("POST", path)
        assert operation is not None
        event = operation["responses"]["200"]["content"].get("text/event-stream", {}).get("x-llb-event")
        if event is None:
            continue
        streamed = await llb.http.post(path, json={**body, "stream": True})
        reference.check_response(streamed.request, streamed)
        lines = [
            line.removeprefix("data: ") for line in streamed.text.split("\n") if line.startswith("data: ")
        ]
        assert len(lines) > 2
        if path in ("/v1/chat/completions", "/v1/completions"):
            assert lines.pop() == "[DONE]"
        for line in lines:
            assert reference.validation_errors(event, json.loads(line)) == [], line


async def test_responses_in_ollamas_dialect(talking: RunningBalancer) -> None:
    reference = reference_of(talking.sanic_app)
    bodies: dict[str, dict[str, Any]] = {
        "/api/chat": {
            "model": "chat",
            "messages": [{"role": "user", "content": "Hi"}],
            "options": {"num_predict": 4},
        },
        "/api/generate": {"model": "chat", "prompt": "Hi", "options": {"num_predict": 4}},
        "/api/embed": {"model": "embed", "input": ["Hi"]},
        "/api/embeddings": {"model": "embed", "prompt": "Hi"},
        "/api/pull": {"model": "chat"},
    }
    for path, body in bodies.items():
        answer = await talking.http.post(path, json={**body, "stream": False})
        assert answer.status_code == 200, answer.text
        reference.check_response(answer.request, answer)
        operation = reference.find_operation("POST", path)
        assert operation is not None
        lines = operation["responses"]["200"]["content"].get("application/x-ndjson")
        if lines is not None:
            streamed = await talking.http.post(path, json=body)
            reference.check_response(streamed.request, streamed)
            for line in streamed.text.splitlines():
                assert reference.validation_errors(lines["x-llb-event"], json.loads(line)) == [], line
    assert (await talking.http.get("/api/ps")).json()["models"]


async def test_messages_of_the_event_stream(llb: RunningBalancer) -> None:
    reference = reference_of(llb.sanic_app)
    live = reference.find_operation("GET", "/ws/models")
    assert live is not None
    seen: set[str] = set()
    async with llb.open_event_stream() as reader:
        await llb.pull_model("tiny")
        while {"Hello", "ModelStatusChanged", "NodeStatusChanged", "MetricsUpdated"} - seen:
            message = json.loads(await reader.recv())
            assert reference.validation_errors(live["x-llb-messages"], message) == []
            seen.add(message["type"])


def test_wrong_responses_are_detected(llb_reference: ApiReference) -> None:
    request = httpx.Request("GET", "http://localhost/api/auth/me")
    for answer in (
        httpx.Response(200, json={"kind": "key"}),
        httpx.Response(204),
        httpx.Response(
            401, json={"error": {"message": "", "type": "invalid_request_error", "code": "not_found"}}
        ),
        httpx.Response(200, text="hello"),
    ):
        with pytest.raises(AssertionError):
            llb_reference.check_response(request, answer)


@pytest.fixture
async def llb_reference(llb: RunningBalancer) -> ApiReference:
    return reference_of(llb.sanic_app)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path and operation of all operations."""
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
