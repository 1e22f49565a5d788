"""The gateway with the real engine; `tests/clients` covers the official clients."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llb.policy.routing import Throughput
from tests.conftest import ENDLESS_CONTEXT, balancer_factory
from tests.ggufs import write_embedding_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

QUESTION = [{"role": "user", "content": "Say hello."}]


# One balancer answers what changes nothing.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def talking_balancer(folder: Path, chatty: Path) -> AsyncIterator[RunningBalancer]:
    """Balancer with a model that writes until it is stopped, and one for embeddings, both small and Ready."""
    embedding = write_embedding_model(folder / "embedding.gguf")
    catalog = write_catalog(
        folder / "talking.json",
        {"id": "chatty", "size_bytes": chatty.stat().st_size},
        {"id": "embed", "size_bytes": embedding.stat().st_size, "capabilities": ["Embedding"]},
        {"id": "absent", "size_bytes": 1000},
    )
    with HubStandIn() as hub:
        hub.add_repo("test/chatty", {"chatty.gguf": chatty})
        hub.add_repo("test/embed", {"embed.gguf": embedding})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(context=ENDLESS_CONTEXT).start()
            await llb.wait_until_online()
            await llb.pull_model("chatty")
            await llb.pull_model("embed")
            yield llb


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talking(
    tmp_path_factory: pytest.TempPathFactory, endless_gguf: Path
) -> AsyncIterator[RunningBalancer]:
    async with talking_balancer(tmp_path_factory.mktemp("talking"), endless_gguf) as llb:
        yield llb


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path, endless_gguf: Path) -> AsyncIterator[RunningBalancer]:
    """As `talking`, for one test: nothing was loaded or asked."""
    async with talking_balancer(tmp_path, endless_gguf) as llb:
        yield llb


async def chat(llb: RunningBalancer, **body: Any) -> httpx.Response:
    return await llb.http.post("/v1/chat/completions", json={"model": "chatty", "messages": QUESTION, **body})


async def test_headers_of_any_bytes_pass_through(talking: RunningBalancer) -> None:
    body = {"model": "chatty", "messages": QUESTION, "max_tokens": 1}
    answer = await talking.http.post(
        "/v1/chat/completions", json=body, headers={b"Accept": "漢字".encode(), b"Traceparent": b"\xff"}
    )
    assert answer.status_code == 200, answer.text


async def test_response_headers(talking: RunningBalancer) -> None:
    answer = await chat(talking, max_tokens=1)
    assert answer.headers["x-llb-node"] == "attic"
    assert answer.headers["x-llb-queue-ms"] == "0"
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "nothing"}, 404, "model_not_found", None),
        ({"model": "absent"}, 404, "model_not_registered", None),
        ({"model": 7}, 400, "invalid_request", "model"),
        ({"messages": "x"}, 400, "invalid_request", None),
        ({"id_slot": 1}, 400, "invalid_request", "id_slot"),
        ({"cache_prompt": False}, 400, "invalid_request", "cache_prompt"),
        ({"n_probs": 21}, 400, "invalid_request", "n_probs"),
        ({"n_predict": -3}, 400, "invalid_request", "n_predict"),
        ({"n": 17}, 400, "invalid_request", "n"),
        ({"max_completion_tokens": -3}, 400, "invalid_request", "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url":
          {"url": "http://127.0.0.1/x"}}]}]}, 400, "invalid_request", "image_url"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
          {"type": "string", "pattern": "^((a{0,999}){0,999}){0,999}$"}}}},
         400, "invalid_request", "pattern"),
        ({"keep_alive": "soon"}, 400, "invalid_request", "keep_alive"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url":
          {"url": "http://127.0.0.1/x.png"}}]}]}, 400, "invalid_request", "image_url"),
    ],
)  # fmt: skip
async def test_error_codes(
    talking: RunningBalancer, change: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = await chat(talking, **change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    if param is not None:
        assert error["param"] == param


async def test_a_prompt_that_is_too_long_names_both_numbers(talking: RunningBalancer) -> None:
    answer = await chat(talking, messages=[{"role": "user", "content": "word " * 14_000}])
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["context_length"] == ENDLESS_CONTEXT
    assert error["prompt_tokens"] > 70_000
    assert str(error["prompt_tokens"]) in error["message"]


async def test_a_chat_model_does_not_embed(talking: RunningBalancer) -> None:
    answer = await talking.http.post("/v1/embeddings", json={"model": "chatty", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_concurrent_first_requests_cause_one_load(fresh: RunningBalancer) -> None:
    answers = await asyncio.gather(*(chat(fresh, max_tokens=2) for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    [engine] = fresh.app.local_node.engine_pool.engine_reports()
    assert engine.model_id == "chatty"
    node = (await fresh.http.get("/api/nodes")).json()["nodes"][0]
    assert node["slots"] == 4


def busy_slots(llb: RunningBalancer) -> int:
    return sum(node.busy for model in llb.app.gateway.admission.snapshot() for node in model.nodes)


async def test_a_disconnected_client_frees_its_slot(talking: RunningBalancer) -> None:
    # Load the model.
    await chat(talking, max_tokens=1)
    async with talking.http.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "chatty",
            "messages": QUESTION,
            "stream": True,
            "max_tokens": ENDLESS_CONTEXT - 100,
            "ignore_eos": True,
        },
    ) as answer:
        await anext(answer.aiter_bytes())
        assert busy_slots(talking) == 1
    await wait_until(lambda: not busy_slots(talking))
    upstream = talking.app.cluster.http_client
    await wait_until(lambda: upstream.open_connections == upstream.idle_connections)


def engine_pid(llb: RunningBalancer) -> int:
    """Process id of the only engine."""
    [pid] = [
        engine.process.pid for engine in llb.app.local_node.engine_pool._all_engines() if engine.process.pid
    ]
    return pid


async def test_a_killed_engine_fails_one_request_and_restarts(fresh: RunningBalancer) -> None:
    await chat(fresh, max_tokens=1)
    pid = engine_pid(fresh)
    stream = fresh.http.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "chatty",
            "messages": QUESTION,
            "stream": True,
            "max_tokens": 100_000,
            "ignore_eos": True,
        },
    )
    async with stream as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        os.kill(pid, signal.SIGKILL)
        rest = [line async for line in lines if line]
    last = json.loads(rest[-1].removeprefix("data: "))
    assert last["error"]["code"] == "engine_failed"
    # During the backoff requests fail.
    async with asyncio.timeout(20):
        while (answer := await chat(fresh, max_tokens=1)).status_code != 200:
            assert answer.json()["error"]["code"] == "engine_failed"
            await asyncio.sleep(0.05)


async def test_deleting_a_model_lets_a_running_answer_finish(fresh: RunningBalancer) -> None:
    async with fresh.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "chatty", "messages": QUESTION, "stream": True, "max_tokens": 300, "ignore_eos": True},
    ) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        # The answer does not end before the model is deleted.
        pid = engine_pid(fresh)
        os.kill(pid, signal.SIGSTOP)
        assert (await fresh.http.delete("/api/models/chatty")).status_code == 204
        assert (await chat(fresh)).status_code == 404
        os.kill(pid, signal.SIGCONT)
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    await fresh.wait_until(lambda: "chatty" not in fresh.app.cluster.view.registrations)
    assert fresh.app.local_node.engine_pool.engine_reports() == ()
    assert not (fresh.home / "models" / "chatty").exists()


async def test_unloading_frees_the_memory_of_a_pinned_model(fresh: RunningBalancer) -> None:
    await chat(fresh, max_tokens=1)
    assert (await fresh.http.patch("/api/models/chatty", json={"pinned": True})).status_code == 200
    assert (await fresh.http.get("/api/models/chatty")).json()["pinned"]
    await fresh.wait_until(lambda: fresh.app.local_node.engine_pool.engine_reports()[0].pinned)
    assert (await fresh.http.post("/api/models/chatty/unload")).status_code == 204
    assert fresh.app.local_node.engine_pool.memory_used_bytes == 0
    assert (await chat(fresh, max_tokens=1)).status_code == 200
    answer = await fresh.http.post("/api/models/absent/unload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_registered")


async def test_traffic_of_a_node_is_counted(fresh: RunningBalancer) -> None:
    node = fresh.app.agent.node_id
    totals = []
    for _ in range(2):
        await chat(fresh, max_tokens=5)
        totals.append(fresh.app.cluster.view.traffic.node_totals(node))
    assert [total.answered for total in totals] == [1, 2]
    assert 0 < totals[0].tokens < totals[1].tokens


async def test_the_performance_of_an_engine_is_measured(fresh: RunningBalancer) -> None:
    node_id, performance = fresh.app.agent.node_id, fresh.app.gateway.dispatcher.performance

    def load_s() -> float:
        return performance.estimate_load_s(node_id, "chatty", size_bytes=None, progress=None)

    throughput, unknown_s = performance.throughput_of(node_id, "chatty"), load_s()
    assert throughput == Throughput()
    body = {"model": "chatty", "messages": QUESTION, "max_tokens": 8}
    assert (await fresh.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert throughput.grade is not None
    assert 0 < load_s() < unknown_s
    uncached_tokens = performance.estimate_request("chatty", 1000, None, None).prompt_tokens
    # With the prompt cached, fewer tokens are processed.
    for _ in range(5):
        assert (await fresh.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert performance.estimate_request("chatty", 1000, None, None).prompt_tokens < uncached_tokens
