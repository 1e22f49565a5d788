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
async def talking_balancer(
    folder: Path, smollm2: Path, *, context: int = 2048
) -> AsyncIterator[RunningBalancer]:
    """Balancer with SmolLM2 and a small embedding model, both Ready."""
    embedding = write_embedding_model(folder / "embedding.gguf")
    catalog = write_catalog(
        folder / "talking.json",
        {"id": "smollm2", "size_bytes": smollm2.stat().st_size, "quantization": "Q4_1",
         "required_memory_bytes": 300_000_000},
        {"id": "embed", "size_bytes": embedding.stat().st_size, "capabilities": ["Embedding"]},
        {"id": "absent", "size_bytes": 1000},
    )  # fmt: skip
    with HubStandIn() as hub:
        hub.add_repo("test/smollm2", {"smollm2.gguf": smollm2})
        hub.add_repo("test/embed", {"embed.gguf": embedding})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(context=context).start()
            await llb.wait_until_online()
            await llb.pull_model("smollm2")
            await llb.pull_model("embed")
            yield llb


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talking(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> AsyncIterator[RunningBalancer]:
    async with talking_balancer(tmp_path_factory.mktemp("talking"), smollm2) as llb:
        yield llb


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path, smollm2: Path) -> AsyncIterator[RunningBalancer]:
    """As `talking`, for one test: nothing was loaded or asked."""
    async with talking_balancer(tmp_path, smollm2) as llb:
        yield llb


@pytest_asyncio.fixture(loop_scope="module")
async def small(tmp_path: Path, endless_gguf: Path) -> AsyncIterator[RunningBalancer]:
    """As `fresh`, with a model that is loaded at once and writes until it is stopped, in SmolLM2's name: for
    what does not depend on the model.
    """
    async with talking_balancer(tmp_path, endless_gguf, context=ENDLESS_CONTEXT) as llb:
        yield llb


async def chat(llb: RunningBalancer, **body: Any) -> httpx.Response:
    return await llb.http.post(
        "/v1/chat/completions", json={"model": "smollm2", "messages": QUESTION, **body}
    )


async def test_headers_of_any_bytes_pass_through(talking: RunningBalancer) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 1}
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
    answer = await chat(talking, messages=[{"role": "user", "content": "word " * 4000}])
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["context_length"] == 2048
    assert error["prompt_tokens"] > 4000
    assert str(error["prompt_tokens"]) in error["message"]


async def test_a_chat_model_does_not_embed(talking: RunningBalancer) -> None:
    answer = await talking.http.post("/v1/embeddings", json={"model": "smollm2", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_concurrent_first_requests_cause_one_load(small: RunningBalancer) -> None:
    answers = await asyncio.gather(*(chat(small, max_tokens=2) for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    [engine] = small.app.local_node.engine_pool.engine_reports()
    assert engine.model_id == "smollm2"
    node = (await small.http.get("/api/nodes")).json()["nodes"][0]
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
            "model": "smollm2",
            "messages": QUESTION,
            "stream": True,
            "max_tokens": 1500,
            "ignore_eos": True,
        },
    ) as answer:
        await anext(answer.aiter_bytes())
        assert busy_slots(talking) == 1
    await wait_until(lambda: not busy_slots(talking))
    upstream = talking.app.cluster.http_client
    await wait_until(lambda: upstream.open_connections == upstream.idle_connections)


async def test_a_killed_engine_fails_one_request_and_restarts(small: RunningBalancer) -> None:
    await chat(small, max_tokens=1)
    [pid] = [
        engine.process.pid for engine in small.app.local_node.engine_pool._all_engines() if engine.process.pid
    ]
    stream = small.http.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "smollm2",
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
        while (answer := await chat(small, max_tokens=1)).status_code != 200:
            assert answer.json()["error"]["code"] == "engine_failed"
            await asyncio.sleep(0.05)


async def test_deleting_a_model_lets_a_running_answer_finish(fresh: RunningBalancer) -> None:
    async with fresh.http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "smollm2", "messages": QUESTION, "stream": True, "max_tokens": 20, "ignore_eos": True},
    ) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        assert (await fresh.http.delete("/api/models/smollm2")).status_code == 204
        assert (await chat(fresh)).status_code == 404
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    await fresh.wait_until(lambda: "smollm2" not in fresh.app.cluster.view.registrations)
    assert fresh.app.local_node.engine_pool.engine_reports() == ()
    assert not (fresh.home / "models" / "smollm2").exists()


async def test_unloading_frees_the_memory_of_a_pinned_model(small: RunningBalancer) -> None:
    await chat(small, max_tokens=1)
    assert (await small.http.patch("/api/models/smollm2", json={"pinned": True})).status_code == 200
    assert (await small.http.get("/api/models/smollm2")).json()["pinned"]
    await small.wait_until(lambda: small.app.local_node.engine_pool.engine_reports()[0].pinned)
    assert (await small.http.post("/api/models/smollm2/unload")).status_code == 204
    assert small.app.local_node.engine_pool.memory_used_bytes == 0
    assert (await chat(small, max_tokens=1)).status_code == 200
    answer = await small.http.post("/api/models/absent/unload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_registered")


async def test_traffic_of_a_node_is_counted(small: RunningBalancer) -> None:
    node = small.app.agent.node_id
    totals = []
    for _ in range(2):
        await chat(small, max_tokens=5)
        totals.append(small.app.cluster.view.traffic.node_totals(node))
    assert [total.answered for total in totals] == [1, 2]
    assert 0 < totals[0].tokens < totals[1].tokens


async def test_the_performance_of_an_engine_is_measured(fresh: RunningBalancer) -> None:
    node_id, performance = fresh.app.agent.node_id, fresh.app.gateway.dispatcher.performance

    def load_s() -> float:
        return performance.estimate_load_s(node_id, "smollm2", size_bytes=None, progress=None)

    throughput, unknown_s = performance.throughput_of(node_id, "smollm2"), load_s()
    assert throughput == Throughput()
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 8}
    assert (await fresh.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert throughput.grade is not None
    assert 0 < load_s() < unknown_s
    uncached_tokens = performance.estimate_request("smollm2", 1000, None, None).prompt_tokens
    # With the prompt cached, fewer tokens are processed.
    for _ in range(5):
        assert (await fresh.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert performance.estimate_request("smollm2", 1000, None, None).prompt_tokens < uncached_tokens
