"""Errors of each dialect before and inside its streams, and requests that need no slot."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

TURN = {"role": "user", "content": "Count."}
LONG: dict[str, Any] = {"model": "chat", "stream": True}
# A request of each dialect with a long answer.
CHAT = ("/v1/chat/completions", {**LONG, "messages": [TURN], "max_tokens": 400, "ignore_eos": True})
RESPONSES = ("/v1/responses", {**LONG, "input": "Count.", "max_output_tokens": 400, "ignore_eos": True})
MESSAGES = ("/v1/messages", {**LONG, "messages": [TURN], "max_tokens": 400})


@pytest.fixture
async def chatting(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """Balancer with one slot for a tiny model, and no queue."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "chat.json",
        {"id": "chat", "size_bytes": chat_gguf.stat().st_size},
        {"id": "other", "size_bytes": 300_000},
        {"id": "ranks", "size_bytes": 300_000, "capabilities": ["Reranking"]},
    )
    llb = await make_llb(catalog=catalog, parallel=1, max_queue=0).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"]
    return answer.status_code, body["error"]["type"], body["error"]["code"]


async def ask(llb: RunningBalancer, **change: Any) -> httpx.Response:
    body = {"model": "chat", "messages": [TURN], "max_tokens": 2, **change}
    return await llb.http.post("/v1/messages", json=body)


async def test_a_full_queue(chatting: RunningBalancer) -> None:
    """Counting tokens needs no slot."""
    assert (await ask(chatting)).status_code == 200
    slot = await chatting.app.gateway.admission.reserve_slot("chat", key_id="another")
    try:
        refused = await ask(chatting)
        assert error_of(refused) == (529, "overloaded_error", "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        for counting in ("/v1/messages/count_tokens", "/v1/responses/input_tokens"):
            counted = await chatting.http.post(
                counting, json={"model": "CHAT:latest", "messages": [TURN], "input": "Count."}
            )
            assert counted.json()["input_tokens"] > 0
    finally:
        slot.release()
    await chatting.app.gateway.history.flush()
    [entry] = (await chatting.http.get("/api/requests?status=error")).json()["requests"]
    assert (entry["status"], entry["error_code"]) == (529, "queue_full")


async def test_a_model_that_is_not_ready(chatting: RunningBalancer, hub: HubStandIn) -> None:
    assert error_of(await ask(chatting, model="nothing")) == (404, "not_found_error", "model_not_found")
    assert error_of(await ask(chatting, model="other")) == (404, "not_found_error", "model_not_registered")
    assert error_of(await ask(chatting, model="ranks")) == (400, "invalid_request_error", "invalid_request")
    hub.faults.stall(after=100_000)
    await chatting.register_model("other")
    await chatting.wait_for_status("other", "Downloading")
    answer = await ask(chatting, model="other")
    assert error_of(answer) == (503, "api_error", "model_downloading")
    assert "retry-after" in answer.headers
    await chatting.app.gateway.history.flush()
    [entry] = (await chatting.http.get("/api/requests?limit=1")).json()["requests"]
    assert (entry["status"], entry["error_code"]) == (503, "model_downloading")


@pytest.mark.parametrize(("path", "body"), [CHAT, RESPONSES, MESSAGES])
async def test_a_failed_stream_ends_with_an_error_event_of_its_dialect(
    chatting: RunningBalancer, path: str, body: dict[str, Any]
) -> None:
    assert (await ask(chatting)).status_code == 200
    [pid] = [
        engine.process.pid
        for engine in chatting.app.local_node.engine_pool._all_engines()
        if engine.process.pid
    ]
    async with chatting.http.stream("POST", path, json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        os.kill(pid, signal.SIGKILL)
        rest = [line async for line in lines if line]
    event = json.loads(rest[-1].removeprefix("data: "))
    assert event["error"]["code"] == "engine_failed"
    match path:
        case "/v1/messages":
            assert rest[-2] == "event: error"
            assert (event["type"], event["error"]["type"]) == ("error", "api_error")
            assert event["request_id"] == answer.headers["request-id"]
        case "/v1/responses":
            assert rest[-2] == "event: error"
            assert (event["type"], event["code"]) == ("error", "engine_failed")
    await chatting.app.gateway.history.flush()
    [entry] = (await chatting.http.get("/api/requests?limit=1")).json()["requests"]
    assert (entry["endpoint"], entry["status"], entry["error_code"]) == (path, 200, "engine_failed")
