"""Real programs as endpoints: another llb, in all its dialects, and llama-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llb.policy.endpoints import circuit_breaker
from llb.wire import EndpointStatus
from tests.conftest import balancer_factory
from tests.gateway.real_engine import real_engine
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = [{"role": "user", "content": "Say hello."}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def back(tmp_path_factory: pytest.TempPathFactory, chat_gguf: Path) -> AsyncIterator[RunningBalancer]:
    """A balancer with the model `chat`."""
    folder = tmp_path_factory.mktemp("back")
    catalog = write_catalog(folder / "catalog.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    with HubStandIn() as hub:
        hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(context=2048, name="cellar").start()
            await llb.wait_until_online()
            await llb.pull_model("chat")
            yield llb


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(
    tmp_path_factory: pytest.TempPathFactory, back: RunningBalancer
) -> AsyncIterator[RunningBalancer]:
    """A balancer without models, with `back` as its endpoint."""
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "chat", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make().start()
            key = await back.create_key("inference", "models:read")
            added = await llb.http.post(
                "/api/endpoints", json={"base_url": back.url, "name": "cellar", "key": key}
            )
            assert added.status_code == 201, added.text
            assert added.json()["kind"] == "llb"
            yield llb


async def ask(llb: RunningBalancer, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = await llb.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llb-node"] in ("cellar", "engine")
    return answer


async def test_all_dialects_of_another_llb(front: RunningBalancer) -> None:
    body: dict[str, Any] = {"model": "cellar/chat", "messages": QUESTION, "max_tokens": 4}
    chat = await ask(front, "/v1/chat/completions", body)
    assert chat.json()["model"] == "cellar/chat"
    assert chat.json()["usage"]["completion_tokens"] == 4
    streamed = await ask(front, "/v1/chat/completions", {**body, "stream": True})
    assert streamed.text.rstrip().endswith("data: [DONE]")
    message = await ask(front, "/v1/messages", body)
    assert (message.json()["type"], message.json()["model"]) == ("message", "cellar/chat")
    events = await ask(front, "/v1/messages", {**body, "stream": True})
    assert events.text.startswith("event: message_start")
    assert "event: message_stop" in events.text
    responses = await ask(
        front, "/v1/responses", {"model": "cellar/chat", "input": "Hi", "max_output_tokens": 4}
    )
    assert responses.json()["object"] == "response"
    completion = await ask(
        front, "/v1/completions", {"model": "cellar/chat", "prompt": "Hi", "max_tokens": 2}
    )
    assert completion.json()["object"] == "text_completion"
    ollama = {"model": "cellar/chat", "messages": QUESTION, "options": {"num_predict": 4}}
    lines = (await ask(front, "/api/chat", ollama)).text.strip().splitlines()
    assert '"done":true' in lines[-1]
    assert (await ask(front, "/api/chat", {**ollama, "stream": False})).json()["done"] is True
    tags = (await front.http.get("/api/tags")).json()["models"]
    assert [tag["name"] for tag in tags] == ["cellar/chat"]
    # It is in the catalogue here, but was never pulled.
    assert (await ask(front, "/v1/chat/completions", {**body, "model": "chat"})).json()[
        "model"
    ] == "cellar/chat"
    counted = await front.http.post("/v1/messages/count_tokens", json=body)
    assert counted.json()["input_tokens"] > 0


async def test_a_mapped_model_is_one_of_the_catalogue(front: RunningBalancer) -> None:
    [endpoint] = (await front.http.get("/api/endpoints")).json()["endpoints"]
    assert [model["suggestion"] for model in endpoint["models"]] == ["chat"]
    path = f"/api/endpoints/{endpoint['id']}"
    changed = await front.http.patch(path, json={"mapped": {"chat": "chat"}})
    assert [model["served_as"] for model in changed.json()["models"]] == ["chat"]
    listed = (await front.http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in listed] == [("chat", "llb")]
    body = {"model": "chat", "messages": QUESTION, "max_tokens": 2}
    assert (await ask(front, "/v1/chat/completions", body)).json()["model"] == "chat"
    await front.http.patch(path, json={"mapped": {"chat": None}})
    assert [model["id"] for model in (await front.http.get("/v1/models")).json()["data"]] == ["cellar/chat"]


async def test_llama_server(front: RunningBalancer, tmp_path: Path, chat_gguf: Path) -> None:
    with real_engine(chat_gguf, tmp_path / "engine.log", slots=2, context=4096) as engine:
        target = engine.target
        added = await front.http.post(
            "/api/endpoints",
            json={
                "base_url": f"http://{target.host}:{target.port}",
                "name": "engine",
                "key": target.api_key,
            },
        )
        assert added.status_code == 201, added.text
        endpoint = added.json()
        assert (endpoint["kind"], endpoint["status"]) == ("llama.cpp", "healthy")
        [model] = endpoint["models"]
        body = {"model": model["served_as"], "messages": QUESTION, "max_tokens": 3}
        assert (await ask(front, "/v1/chat/completions", body)).json()["usage"]["completion_tokens"] == 3
        streamed = await ask(front, "/v1/messages", {**body, "stream": True})
        assert "event: message_stop" in streamed.text
        assert (await front.http.delete(f"/api/endpoints/{endpoint['id']}")).status_code == 204


async def test_two_that_are_endpoints_of_one_another(front: RunningBalancer, back: RunningBalancer) -> None:
    """A request that no node can answer does not go round."""
    key = await front.create_key("inference", "models:read")
    added = await back.http.post("/api/endpoints", json={"base_url": front.url, "name": "attic", "key": key})
    assert added.status_code == 201, added.text
    assert added.json()["models"] == []
    there = f"/api/endpoints/{added.json()['id']}"
    [endpoint] = (await front.http.get("/api/endpoints")).json()["endpoints"]
    # Each says that the other has `loop`.
    for llb, path in ((back, there), (front, f"/api/endpoints/{endpoint['id']}")):
        changed = await llb.http.patch(path, json={"aliases": {"loop": "loop"}})
        assert changed.status_code == 200, changed.text
    body = {"model": "loop", "messages": QUESTION, "max_tokens": 1}
    answer = await asyncio.wait_for(front.http.post("/v1/chat/completions", json=body), 20)
    assert answer.status_code in (502, 503), answer.text
    assert len((await back.http.get("/api/requests", params={"model": "attic/loop"})).json()["requests"]) <= 1
    await front.http.patch(f"/api/endpoints/{endpoint['id']}", json={"aliases": {}})
    await back.http.delete(there)


async def test_an_endpoint_that_goes_and_returns(
    front: RunningBalancer, back: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "OPEN_S", 1.0)
    monkeypatch.setattr(circuit_breaker, "FIRST_RETRY_S", 0.5)
    [endpoint] = (await front.http.get("/api/endpoints")).json()["endpoints"]
    body = {"model": "cellar/chat", "messages": QUESTION, "max_tokens": 1}
    port = back.port
    await back.stop()
    gone = await front.http.post("/v1/chat/completions", json=body)
    assert (gone.status_code, gone.json()["error"]["code"]) in (
        (502, "endpoint_failed"),
        (503, "endpoint_unavailable"),
    )
    await front.http.post(f"/api/endpoints/{endpoint['id']}/check")
    gone = await front.http.post("/v1/chat/completions", json=body)
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "endpoint_unavailable")
    assert (await front.http.get("/v1/models")).json()["data"] == []
    await back.start(port)
    await back.wait_until_online()
    registry, known = front.app.gateway.endpoints, front.app.gateway.endpoint_service.require("cellar")
    await front.wait_until(lambda: registry.status_of(known) is EndpointStatus.HEALTHY)
    await front.wait_until(lambda: known.models != {})
    await ask(front, "/v1/chat/completions", body)
