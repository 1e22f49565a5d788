"""Request log entries of requests to the real engine, however they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.closing_clients import CLIENTS, CLOSES, run_closing_clients, wrong_records
from tests.conftest import ENDLESS_CONTEXT, BalancerFactory
from tests.ggufs import write_embedding_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

QUESTION = [{"role": "user", "content": "Say hello."}]
ENDLESS = {"stream": True, "max_tokens": 100_000, "ignore_eos": True}


@pytest.fixture
def make_chatting(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    endless_gguf: Path,
    tmp_path: Path,
) -> BalancerFactory:
    """Factory of balancers for `start_chatting`."""
    embedding = write_embedding_model(tmp_path / "embedding.gguf")
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    hub.add_repo("test/endless", {"endless.gguf": endless_gguf})
    hub.add_repo("test/embed", {"embed.gguf": embedding})
    catalog = write_catalog(
        tmp_path / "chatting.json",
        {"id": "chat", "size_bytes": chat_gguf.stat().st_size},
        {"id": "endless", "size_bytes": endless_gguf.stat().st_size},
        {"id": "embed", "size_bytes": embedding.stat().st_size, "capabilities": ["Embedding"]},
    )
    return lambda **settings: make_llb(catalog=catalog, context=ENDLESS_CONTEXT, **settings)


async def start_chatting(llb: RunningBalancer, *models: str) -> RunningBalancer:
    await llb.start()
    await llb.wait_until_online()
    for model in models or ("chat",):
        await llb.pull_model(model)
    return llb


async def ask(llb: RunningBalancer, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    plain = {"messages": QUESTION} if path == "/v1/chat/completions" else {}
    return await llb.http.post(path, json={"model": "chat", **plain, **body})


async def logged_requests(llb: RunningBalancer, count: int) -> list[dict[str, Any]]:
    """Return the complete request log, oldest first, once it has `count` entries."""
    async with asyncio.timeout(30):
        while True:
            listed = (await llb.http.get("/api/requests")).json()["requests"]
            if len(listed) >= count:
                assert len(listed) == count
                return [*reversed(listed)]
            await asyncio.sleep(0.02)


async def test_every_kind_of_answer_is_counted(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(), "chat", "embed")
    complete = (await ask(llb, max_tokens=5, ignore_eos=True)).json()["usage"]
    async with llb.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "CHAT", "messages": QUESTION, "stream": True, "max_tokens": 5, "ignore_eos": True},
    ) as streamed:
        # The client did not request usage.
        assert '"usage":{' not in (await streamed.aread()).decode()
    await ask(llb, "/v1/completions", prompt="One, two,", max_tokens=3, ignore_eos=True)
    vectors = (await ask(llb, "/v1/embeddings", model="embed", input=["one", "two"])).json()["usage"]

    chat, stream, completion, embedding = await logged_requests(llb, 4)
    assert [request["endpoint"] for request in (chat, stream, completion, embedding)] == [
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
    ]
    assert [request["stream"] for request in (chat, stream, completion, embedding)] == [
        False,
        True,
        False,
        False,
    ]
    assert [request["model"] for request in (chat, stream, completion, embedding)] == ["chat"] * 3 + ["embed"]
    for request in (chat, stream, completion, embedding):
        assert (request["status"], request["error_code"]) == (200, None)
        assert request["node_name"] == "attic"
        assert request["node_id"] == llb.app.agent.node_id
        assert not request["has_text"]
    for request in (chat, stream):
        assert request["prompt_tokens"] == complete["prompt_tokens"]
        assert request["completion_tokens"] == 5
        assert 0 < request["ttft_ms"] <= request["duration_ms"]
    assert stream["cached_tokens"] > 0
    assert completion["completion_tokens"] == 3
    assert embedding["prompt_tokens"] == vectors["prompt_tokens"]
    assert (embedding["completion_tokens"], embedding["ttft_ms"]) == (None, None)

    [of_chat, of_embed] = (await llb.http.get("/api/usage?by=model&bucket=day")).json()["usage"]
    assert (of_chat["key"], of_chat["requests"], of_chat["completion_tokens"]) == ("chat", 3, 13)
    assert (of_embed["key"], of_embed["requests"], of_embed["errors"]) == ("embed", 1, 0)


async def test_entries_name_the_key_of_a_request(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting())
    key = await llb.create_key("inference")
    answer = await llb.http.post(
        "/v1/chat/completions",
        json={"model": "chat", "messages": QUESTION, "max_tokens": 1},
        headers={"Authorization": f"Bearer {key}", "X-Request-ID": "mine"},
    )
    assert answer.status_code == 200
    await ask(llb, max_tokens=1)
    by_key, by_host = await logged_requests(llb, 2)
    assert (by_key["key_name"], by_key["user"], by_key["request_id"]) == ("test", None, "mine")
    assert (by_host["key_id"], by_host["user_id"]) == (None, None)
    [revoked] = [item for item in (await llb.http.get("/api/keys")).json()["keys"] if item["name"] == "test"]
    await llb.http.delete(f"/api/keys/{revoked['id']}")
    assert (await logged_requests(llb, 2))[0]["key_name"] == "test"


async def test_rejected_requests_are_recorded(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting())
    await ask(llb, model="gpt-9")
    await ask(llb, "/v1/embeddings", model="embed", input="one")
    await ask(llb, n=17)
    await llb.http.post("/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
    await ask(llb, messages=[{"role": "user", "content": "word " * 4000}])
    requests = await logged_requests(llb, 5)
    assert [(request["model"], request["status"], request["error_code"]) for request in requests] == [
        ("gpt-9", 404, "model_not_found"),
        ("embed", 404, "model_not_registered"),
        ("chat", 400, "invalid_request"),
        (None, 400, "invalid_json"),
        ("chat", 400, "context_length_exceeded"),
    ]
    assert [request["node_name"] for request in requests] == [None] * 4 + ["attic"]
    refused = await llb.http.get("/v1/models", headers={"Authorization": "Bearer sk-nobody"})
    assert refused.status_code == 401
    assert len((await llb.http.get("/api/requests?status=error")).json()["requests"]) == 5
    usage = (await llb.http.get("/api/usage")).json()["usage"]
    assert {total["key"]: total["errors"] for total in usage} == {None: 2, "chat": 2, "embed": 1}


async def test_requests_without_a_slot_are_recorded(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(parallel=1, max_queue=1, queue_timeout_s=1.0), "endless")
    # On a busy machine the load takes longer than the queue timeout.
    await llb.app.agent.load_model("endless")
    await ask(llb, model="endless", max_tokens=1)
    body = {"model": "endless", "messages": QUESTION, **ENDLESS}
    async with llb.http.stream("POST", "/v1/chat/completions", json=body) as first:
        chunks = first.aiter_bytes()
        await anext(chunks)
        waiting = asyncio.create_task(ask(llb, model="endless", max_tokens=1))
        await wait_until(lambda: llb.app.gateway.admission.snapshot()[0].queued)
        assert (await ask(llb, model="endless")).json()["error"]["code"] == "queue_full"
        assert (await waiting).json()["error"]["code"] == "queue_timeout"
    _, running, timed_out, full = await logged_requests(llb, 4)
    assert (full["status"], full["error_code"]) == (503, "queue_full")
    # It was rejected at once.
    assert full["queue_ms"] < timed_out["queue_ms"]
    assert (timed_out["status"], timed_out["error_code"]) == (503, "queue_timeout")
    assert 900 <= timed_out["queue_ms"] <= timed_out["duration_ms"]
    assert timed_out["node_id"] is timed_out["ttft_ms"] is None
    assert running["error_code"] == "client_closed"


async def test_disconnected_clients_are_recorded(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(parallel=1), "endless")
    await ask(llb, model="endless", max_tokens=1)
    body = {"model": "endless", "messages": QUESTION, **ENDLESS}
    async with llb.http.stream("POST", "/v1/chat/completions", json=body) as reader:
        chunks = reader.aiter_bytes()
        await anext(chunks)
        waiting = asyncio.create_task(ask(llb, model="endless"))
        await wait_until(lambda: llb.app.gateway.admission.snapshot()[0].queued)
        waiting.cancel()
        await asyncio.wait({waiting})
        await wait_until(lambda: not llb.app.gateway.admission.snapshot()[0].queued)
    _, in_stream, in_queue = await logged_requests(llb, 3)
    assert (in_stream["status"], in_stream["error_code"]) == (200, "client_closed")
    assert 0 < in_stream["ttft_ms"] <= in_stream["duration_ms"]
    # The engine reports usage at the end of a stream only.
    assert in_stream["completion_tokens"] is None
    assert (in_queue["status"], in_queue["error_code"], in_queue["node_id"]) == (499, "client_closed", None)
    assert in_queue["queue_ms"] > 0


async def test_an_engine_crash_during_a_stream_is_recorded(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(), "endless")
    await ask(llb, model="endless", max_tokens=1)
    [pid] = [
        engine.process.pid for engine in llb.app.local_node.engine_pool._all_engines() if engine.process.pid
    ]
    body = {"model": "endless", "messages": QUESTION, **ENDLESS}
    async with llb.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        os.kill(pid, signal.SIGKILL)
        assert "engine_failed" in [line async for line in lines if line][-1]
    _, broken = await logged_requests(llb, 2)
    assert (broken["status"], broken["error_code"], broken["node_name"]) == (200, "engine_failed", "attic")


async def test_history_survives_a_restart_with_the_requests_that_ran_at_the_stop(
    make_chatting: BalancerFactory,
) -> None:
    llb = await start_chatting(make_chatting(), "endless")
    await ask(llb, model="endless", max_tokens=1)
    body = {"model": "endless", "messages": QUESTION, **ENDLESS}
    async with (
        httpx.AsyncClient(base_url=llb.url, headers=llb.http.headers, timeout=30, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        chunks = answer.aiter_bytes()
        await anext(chunks)
        await llb.stop()
    again = await make_chatting().start()
    first, cut = await logged_requests(again, 2)
    assert (first["status"], first["error_code"]) == (200, None)
    assert cut["error_code"] is not None
    assert (await again.http.delete("/api/requests")).status_code == 204
    await logged_requests(again, 0)
    [total] = (await again.http.get("/api/usage?by=node&bucket=day")).json()["usage"]
    assert (total["name"], total["requests"]) == ("attic", 2)


async def test_text_is_recorded_with_history_text_only(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(history_text=True))
    complete = (await ask(llb, max_tokens=8)).json()["choices"][0]["message"]["content"]
    streamed_text = ""
    async with llb.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "chat", "messages": QUESTION, "stream": True, "max_tokens": 8},
    ) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    streamed_text += choice["delta"].get("content") or ""
    await ask(llb, model="gpt-9")
    texts = []
    for request in await logged_requests(llb, 3):
        assert request["has_text"]
        detail = (await llb.http.get(f"/api/requests/{request['id']}")).json()
        texts.append((detail["text"]["prompt"], detail["text"]["answer"]))
    assert texts == [
        ("user: Say hello.", complete),
        ("user: Say hello.", streamed_text),
        ("user: Say hello.", None),
    ]


async def test_without_history_days_only_totals_are_recorded(make_chatting: BalancerFactory) -> None:
    llb = await start_chatting(make_chatting(history_days=0, history_text=True))
    await ask(llb, max_tokens=1)
    await llb.app.gateway.history.flush()
    page = (await llb.http.get("/api/requests")).json()
    assert page == {"requests": [], "next_cursor": None, "history_days": 0, "history_text": False}
    [total] = (await llb.http.get("/api/usage?by=key")).json()["usage"]
    assert (total["key"], total["user"], total["requests"]) == (None, None, 1)


async def test_clients_that_leave_right_after_the_end_have_their_answer(
    make_chatting: BalancerFactory,
) -> None:
    """In every dialect, in order or with a reset. `python -m bench.closed_streams` does it 1,000 times."""
    llb = await start_chatting(make_chatting())
    key = await llb.create_key("inference")
    streams = 2 * len(CLIENTS) * len(CLOSES)
    await run_closing_clients(llb.url, key, "chat", streams)
    assert not wrong_records(await logged_requests(llb, streams))
