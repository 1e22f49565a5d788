"""Ollama's official client against the real engine: with a key at the usual port, without one at Ollama's own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from llb.api.inference.ollama import UNSUPPORTED_ROUTES
from llb.gateway import dispatcher
from llb.gateway.stream import keepalive
from tests.conftest import BalancerFactory
from tests.ggufs import TOOL_CHAT_TEMPLATE, write_chat_model, write_embedding_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

QUESTION = [{"role": "user", "content": "Say hello."}]
FEW = {"num_predict": 8, "temperature": 0, "num_ctx": 4096}


@pytest.fixture
async def talking(
    make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path, tmp_path: Path
) -> RunningBalancer:
    """An appliance with SmolLM2 Ready, two models that are not pulled, and Ollama's port open."""
    embedding = write_embedding_model(tmp_path / "embedding.gguf")
    tools = write_chat_model(tmp_path / "tools.gguf", context=4096, template=TOOL_CHAT_TEMPLATE)
    hub.add_repo("test/tools", {"tools.gguf": tools})
    hub.add_repo("test/smollm2", {"smollm2.gguf": smollm2})
    hub.add_repo("test/embed", {"embed.gguf": embedding})
    catalog = write_catalog(
        tmp_path / "talking.json",
        {"id": "smollm2", "size_bytes": smollm2.stat().st_size, "quantization": "Q4_1",
         "parameter_count": "135M", "required_memory_bytes": 300_000_000},
        {"id": "tools", "size_bytes": tools.stat().st_size},
        {"id": "absent", "size_bytes": 1000},
        {"id": "embed", "size_bytes": embedding.stat().st_size, "capabilities": ["Embedding"]},
    )  # fmt: skip
    llb = await make_llb(catalog=catalog, context=2048, ollama_port=0).start()
    await llb.wait_until_online()
    await llb.pull_model("smollm2")
    return llb


@pytest.fixture
async def keyed(talking: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    """The official client at the usual port, with an ordinary key."""
    async with client(talking.url, await talking.create_key("inference")) as found:
        yield found


@pytest.fixture
async def keyless(talking: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    """The official client at Ollama's port, as a program that knows nothing of llb has it."""
    async with client(f"http://localhost:{talking.ollama_port}") as found:
        yield found


def client(url: str, key: str | None = None) -> ollama.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return ollama.AsyncClient(url, headers=headers, trust_env=False)


async def last_request(llb: RunningBalancer) -> dict[str, Any]:
    return dict((await llb.http.get("/api/requests?limit=1")).json()["requests"][0])


async def test_a_chat_streamed_and_whole(talking: RunningBalancer, keyed: ollama.AsyncClient) -> None:
    whole = await keyed.chat("smollm2:latest", QUESTION, options=FEW)
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert (whole.model, whole.done, whole.done_reason) == ("smollm2:latest", True, "length")
    assert whole.eval_count == 8
    assert (whole.load_duration or 0) > 0
    pieces = [piece async for piece in await keyed.chat("SmolLM2", QUESTION, options=FEW, stream=True)]
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert len(pieces) > 3
    assert [piece.done for piece in pieces[-2:]] == [False, True]
    last = pieces[-1]
    assert (last.eval_count, last.prompt_eval_count) == (whole.eval_count, whole.prompt_eval_count)
    assert (last.total_duration or 0) >= (last.eval_duration or 0) > 0
    noted = await last_request(talking)
    assert (noted["endpoint"], noted["stream"], noted["status"]) == ("/api/chat", True, 200)
    assert (noted["model"], noted["completion_tokens"]) == ("smollm2", 8)
    assert noted["key_name"] == "test"
    assert 'gen_ai_operation_name="chat"' in (await talking.http.get("/metrics")).text


async def test_a_prompt_raw_and_not(keyed: ollama.AsyncClient) -> None:
    spoken = await keyed.generate("smollm2", "Say hello.", options=FEW)
    assert spoken.response
    chatted = await keyed.chat("smollm2", QUESTION, options=FEW)
    assert spoken.response == chatted.message.content
    raw = await keyed.generate("smollm2", "One, two, three,", raw=True, options=FEW)
    assert (raw.response or "").startswith(" four")
    pieces = [
        piece async for piece in await keyed.generate("smollm2", "Say hello.", options=FEW, stream=True)
    ]
    assert "".join(piece.response or "" for piece in pieces) == spoken.response


async def test_a_schema_is_kept(keyed: ollama.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"people": {"enum": ["few", "many"]}},
        "required": ["people"],
        "additionalProperties": False,
    }
    for raw in (False, True):
        answer = await keyed.generate(
            "smollm2", "How many?", raw=raw, format=schema, options={"num_predict": 60}
        )
        assert json.loads(answer.response or "")["people"] in ("few", "many")


def weather(city: str) -> str:
    """What the weather is like in a city.

    Args:
        city: its name
    """
    return f"It rains in {city}."


async def test_calls_of_functions_and_their_results_are_understood(
    talking: RunningBalancer, keyed: ollama.AsyncClient
) -> None:
    """What the engine is asked; a model that calls by itself is larger than these (see tests/gateway/test_ollama.py)."""
    await talking.pull_model("tools")
    call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    answer = await keyed.chat(
        "tools",
        [
            {"role": "user", "content": "What is the weather in Oslo?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_name": "weather", "content": weather("Oslo")},
        ],
        tools=[weather],
        options=FEW,
    )
    alone = await keyed.chat(
        "tools", [{"role": "user", "content": "What is the weather in Oslo?"}], options=FEW
    )
    assert (answer.prompt_eval_count or 0) > (alone.prompt_eval_count or 0) + len(weather("Oslo"))


async def test_vectors(talking: RunningBalancer, keyed: ollama.AsyncClient) -> None:
    await talking.pull_model("embed")
    found = await keyed.embed("embed", ["one", "two"])
    assert len(found.embeddings) == 2
    assert (found.prompt_eval_count or 0) > 0
    [alone] = (await keyed.embed("embed", "one")).embeddings
    assert alone == pytest.approx(found.embeddings[0], abs=1e-4)
    assert (await keyed.embeddings("embed", "one")).embedding == pytest.approx(alone, abs=1e-4)
    loaded = await keyed.generate("embed", keep_alive="5m")
    assert loaded.done_reason == "load"
    with pytest.raises(ollama.ResponseError) as refused:
        await keyed.embed("embed", "one", dimensions=8)
    assert refused.value.status_code == 400


async def test_what_is_there_and_what_is_loaded(
    talking: RunningBalancer, keyless: ollama.AsyncClient
) -> None:
    [listed] = (await keyless.list()).models
    assert listed.model == "smollm2:latest"
    assert listed.size == talking.app.catalog.models[0].size_bytes
    assert listed.details is not None
    assert (listed.details.parameter_size, listed.details.quantization_level) == ("135M", "Q4_1")
    shown = await keyless.show("smollm2:latest")
    assert (shown.modelinfo or {})["llama.context_length"] == 8192
    assert shown.capabilities == ["completion", "tools"]
    assert (await keyless.ps()).models == []
    assert (await keyless.generate("smollm2")).done_reason == "load"
    await wait_until(lambda: any(node.engines for node in talking.app.view.online_nodes()))
    [running] = (await keyless.ps()).models
    assert (running.model, running.context_length) == ("smollm2:latest", 2048)
    assert (running.size or 0) > 10**8
    noted = await last_request(talking)
    assert (noted["key_id"], noted["key_name"], noted["user"]) == ("ollama-port", "ollama-port", None)
    totals = (await talking.http.get("/api/usage?by=key")).json()["usage"]
    assert [(total["key"], total["name"]) for total in totals] == [("ollama-port", "ollama-port")]


async def test_unloading_asks_for_more_than_inference(
    talking: RunningBalancer, keyed: ollama.AsyncClient
) -> None:
    assert (await keyed.chat("smollm2")).done_reason == "load"
    assert talking.app.engine_pool.engine_reports()
    with pytest.raises(ollama.ResponseError) as refused:
        await keyed.generate("smollm2", keep_alive=0)
    assert (refused.value.status_code, refused.value.error) == (
        403,
        "Unloading a model needs the scope 'models:write'",
    )
    async with client(talking.url, await talking.create_key("inference", "models:write")) as owner:
        assert (await owner.generate("smollm2", keep_alive="0")).done_reason == "unload"
    assert talking.app.engine_pool.memory_used_bytes == 0


REFUSALS: list[tuple[str, dict[str, Any], int, str]] = [
    ("/api/chat", {"model": "nothing", "messages": QUESTION}, 404, "Model 'nothing' does not exist"),
    ("/api/generate", {"model": "tools", "prompt": "x"}, 404, "pull it first"),
    ("/api/show", {"model": "nothing"}, 404, "does not exist"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/chat", {"messages": QUESTION}, 400, "model"),
    ("/api/chat", {"model": "smollm2", "messages": [{"content": 7}]}, 400, "messages"),
    ("/api/chat", {"model": "smollm2", "messages": QUESTION, "keep_alive": "soon"}, 400, "keep_alive"),
    ("/api/generate", {"model": "smollm2", "prompt": "x", "template": "y"}, 400, "template"),
    ("/api/generate", {"model": "smollm2", "prompt": "x", "images": ["aaaa"]}, 400, "image"),
    ("/api/chat", {"model": "smollm2", "messages": [{"role": "user", "content": "word " * 4000}]}, 400, "2048"),
    ("/api/generate", {"model": "smollm2", "prompt": "x", "format": {"type": "string", "pattern": "a{5000}"}}, 400, "pattern"),
    ("/api/embed", {"model": "smollm2", "input": "x"}, 400, "embeddings"),
]  # fmt: skip


async def test_refusals_are_a_sentence(talking: RunningBalancer) -> None:
    for path, body, status, said in REFUSALS:
        answer = await talking.http.post(path, json=body)
        assert answer.status_code == status, (path, body, answer.text)
        assert answer.json().keys() == {"error"}
        assert said in answer.json()["error"]


async def test_what_ollama_keeps_and_llb_does_not(talking: RunningBalancer) -> None:
    for path, method in UNSUPPORTED_ROUTES:
        answer = await talking.http.request(
            method, path.replace("<digest:str>", "sha256:00"), json={"model": "x"}
        )
        assert answer.status_code == 501
        assert method == "HEAD" or "Model Hub" in answer.json()["error"]
    async with httpx.AsyncClient(base_url=talking.url, trust_env=False) as nobody:
        for path, method in (("/api/tags", "GET"), ("/api/pull", "POST"), ("/api/push", "POST")):
            answer = await nobody.request(method, path)
            assert answer.status_code == 401
            assert isinstance(answer.json()["error"], str)
        assert isinstance((await nobody.get("/api/models")).json()["error"], dict)


async def test_a_model_of_the_catalogue_can_be_pulled(
    talking: RunningBalancer, keyed: ollama.AsyncClient
) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        await keyed.pull("embed")
    assert refused.value.status_code == 403
    async with client(talking.url, await talking.create_key("models:write")) as owner:
        told = [line async for line in await owner.pull("embed", stream=True)]
        assert told[-1].status == "success"
        assert (await owner.pull("embed:latest")).status == "success"
        with pytest.raises(ollama.ResponseError) as refused:
            await owner.pull("llama3.2")
        assert refused.value.status_code == 404
    acts = (await talking.http.get("/api/audit")).json()["entries"]
    assert [act["action"] for act in acts].count("model.register") == 2  # smollm2, and embed once


async def test_a_pull_that_fails_or_is_cancelled_says_so(talking: RunningBalancer, hub: HubStandIn) -> None:
    hub.faults.stall(after=1000)
    async with client(talking.url, await talking.create_key("models:write")) as owner:
        stream = aiter(await owner.pull("tools", stream=True))
        while (await anext(stream)).completed is None:
            pass
        assert (await talking.http.delete("/api/models/tools")).status_code == 204
        with pytest.raises(ollama.ResponseError, match="cancelled"):
            async for _ in stream:
                pass
        with pytest.raises(ollama.ResponseError, match="could not be pulled") as failed:
            await owner.pull("absent")
        assert failed.value.status_code == 503


async def test_a_body_may_be_called_what_curl_calls_it(talking: RunningBalancer) -> None:
    body = json.dumps({"model": "smollm2", "prompt": "Hi", "stream": False, "options": FEW})
    for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = await talking.http.post("/api/generate", content=body, headers=kind)
        assert answer.status_code == 200, answer.text
        assert answer.json()["done"]


async def test_an_engine_that_dies_ends_the_stream_with_an_error(
    talking: RunningBalancer, keyless: ollama.AsyncClient
) -> None:
    stream = await keyless.chat("smollm2", QUESTION, options={"num_predict": 1500}, stream=True)
    await anext(aiter(stream))
    [pid] = [engine.process.pid for engine in talking.app.engine_pool._all_engines() if engine.process.pid]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ollama.ResponseError, match="engine"):
        async for _ in stream:
            pass
    assert (await last_request(talking))["error_code"] == "engine_failed"


async def test_a_client_that_leaves_frees_its_slot(
    talking: RunningBalancer, keyless: ollama.AsyncClient
) -> None:
    stream = await keyless.chat("smollm2", QUESTION, options={"num_predict": 1500}, stream=True)
    await anext(aiter(stream))
    assert busy_slots(talking) == 1
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    await wait_until(lambda: not busy_slots(talking))


async def test_while_a_stream_waits_it_is_kept_alive_and_stays_readable(
    talking: RunningBalancer, keyless: ollama.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blank before a line is no line, and a proxy sees that something comes."""
    usual = keepalive.SseKeepalive
    monkeypatch.setattr(dispatcher, "SseKeepalive", lambda sink: usual(sink, interval_s=0.01))
    body = {"model": "smollm2", "messages": QUESTION, "options": FEW}  # it has to be loaded first
    async with httpx.AsyncClient(trust_env=False) as plain:
        answer = await plain.post(f"http://127.0.0.1:{talking.ollama_port}/api/chat", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.startswith("  ")
    assert json.loads(answer.text.splitlines()[-1])["done"]


async def test_openai_speaks_at_ollamas_port_too(talking: RunningBalancer) -> None:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{talking.ollama_port}", trust_env=False
    ) as plain:
        assert (await plain.get("/")).text == "Ollama is running"
        assert (await plain.head("/")).status_code == 200
        answer = await plain.post(
            "/v1/chat/completions",
            json={"model": "smollm2:latest", "messages": QUESTION, "max_tokens": 2},
            headers={"Authorization": "Bearer ollama"},
        )
        assert answer.json()["model"] == "smollm2"
        refused = await plain.post("/v1/chat/completions", json={"model": "nothing", "messages": QUESTION})
        assert refused.json()["error"]["code"] == "model_not_found"


def busy_slots(llb: RunningBalancer) -> int:
    return sum(node.busy for model in llb.app.admission.snapshot() for node in model.nodes)


async def test_texts_are_kept_if_they_are_to_be(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "c.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, ollama_port=0, history_text=True).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    async with client(f"http://127.0.0.1:{llb.ollama_port}") as plain:
        spoken = await plain.chat("chat", QUESTION, options=FEW)
        pieces = [piece async for piece in await plain.chat("chat", QUESTION, options=FEW, stream=True)]
    streamed = "".join(piece.message.content or "" for piece in pieces)
    noted = (await llb.http.get("/api/requests?limit=2")).json()["requests"]
    texts = [(await llb.http.get(f"/api/requests/{item['id']}")).json()["text"] for item in noted]
    assert [text["prompt"] for text in texts] == ["user: Say hello."] * 2
    assert [text["answer"] for text in texts] == [streamed, spoken.message.content]
