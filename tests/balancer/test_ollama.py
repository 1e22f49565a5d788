"""Ollama's official client against the real engine: with a key at the main port, without one at Ollama's."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import pytest_asyncio

from llb.api.inference.ollama import UNSUPPORTED_ROUTES
from llb.gateway import dispatcher
from llb.gateway.stream import keepalive
from tests.conftest import ENDLESS_CONTEXT, BalancerFactory, balancer_factory
from tests.ggufs import TOOL_CHAT_TEMPLATE, write_chat_model, write_embedding_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = [{"role": "user", "content": "Say hello."}]
OPTIONS = {"num_predict": 8, "temperature": 0, "num_ctx": 4096}


def add_models(hub: HubStandIn, folder: Path, chatty: Path) -> Path:
    """Give `hub` the models of these tests; returns their catalogue."""
    embedding = write_embedding_model(folder / "embedding.gguf")
    tools = write_chat_model(folder / "tools.gguf", context=4096, template=TOOL_CHAT_TEMPLATE)
    hub.add_repo("test/tools", {"tools.gguf": tools})
    hub.add_repo("test/chatty", {"chatty.gguf": chatty})
    hub.add_repo("test/embed", {"embed.gguf": embedding})
    return write_catalog(
        folder / "talking.json",
        {"id": "chatty", "size_bytes": chatty.stat().st_size, "quantization": "Q4_1",
         "parameter_count": "135M"},
        {"id": "tools", "size_bytes": tools.stat().st_size},
        {"id": "absent", "size_bytes": 1000},
        {"id": "embed", "size_bytes": embedding.stat().st_size, "capabilities": ["Embedding"]},
    )  # fmt: skip


async def start_talking(make: BalancerFactory, catalog: Path) -> RunningBalancer:
    """Balancer with `chatty` Ready, models that are not pulled, and Ollama's port open.

    `chatty` generates random text until it is stopped.
    """
    llb = await make(catalog=catalog, context=ENDLESS_CONTEXT, ollama_port=0).start()
    await llb.wait_until_online()
    await llb.pull_model("chatty")
    return llb


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talking(
    tmp_path_factory: pytest.TempPathFactory, endless_gguf: Path
) -> AsyncIterator[RunningBalancer]:
    """The balancer of all tests that do not depend on earlier answers."""
    folder = tmp_path_factory.mktemp("talking")
    with HubStandIn() as hub:
        catalog = add_models(hub, folder, endless_gguf)
        async with balancer_factory(folder / "home", hub, catalog) as make:
            yield await start_talking(make, catalog)


@pytest_asyncio.fixture(loop_scope="module")
async def keyed(talking: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    """Official client at the main port, with an API key."""
    async with client(talking.url, await talking.create_key("inference")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def keyless(talking: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    """Official client at Ollama's port, without a key."""
    async with client(f"http://localhost:{talking.ollama_port}") as found:
        yield found


@pytest.fixture
def fresh_hub() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        yield hub


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(fresh_hub: HubStandIn, tmp_path: Path, endless_gguf: Path) -> AsyncIterator[RunningBalancer]:
    """A balancer of a single test, which has answered nothing."""
    catalog = add_models(fresh_hub, tmp_path, endless_gguf)
    async with balancer_factory(tmp_path / "home", fresh_hub, catalog) as make:
        yield await start_talking(make, catalog)


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_keyed(fresh: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    async with client(fresh.url, await fresh.create_key("inference")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_keyless(fresh: RunningBalancer) -> AsyncIterator[ollama.AsyncClient]:
    async with client(f"http://localhost:{fresh.ollama_port}") as found:
        yield found


def client(url: str, key: str | None = None) -> ollama.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return ollama.AsyncClient(url, headers=headers, trust_env=False)


async def last_request(llb: RunningBalancer) -> dict[str, Any]:
    return dict((await llb.http.get("/api/requests?limit=1")).json()["requests"][0])


async def test_a_chat_with_and_without_a_stream(talking: RunningBalancer, keyed: ollama.AsyncClient) -> None:
    complete = await keyed.chat("chatty:latest", QUESTION, options=OPTIONS)
    assert complete.message.role == "assistant"
    assert complete.message.content
    assert (complete.model, complete.done, complete.done_reason) == ("chatty:latest", True, "length")
    assert complete.eval_count == 8
    assert (complete.load_duration or 0) > 0
    pieces = [piece async for piece in await keyed.chat("Chatty", QUESTION, options=OPTIONS, stream=True)]
    assert "".join(piece.message.content or "" for piece in pieces) == complete.message.content
    assert len(pieces) > 3
    assert [piece.done for piece in pieces[-2:]] == [False, True]
    last = pieces[-1]
    assert (last.eval_count, last.prompt_eval_count) == (complete.eval_count, complete.prompt_eval_count)
    assert (last.total_duration or 0) >= (last.eval_duration or 0) > 0
    entry = await last_request(talking)
    assert (entry["endpoint"], entry["stream"], entry["status"]) == ("/api/chat", True, 200)
    assert (entry["model"], entry["completion_tokens"]) == ("chatty", 8)
    assert entry["key_name"] == "test"
    assert 'gen_ai_operation_name="chat"' in (await talking.http.get("/metrics")).text


async def test_a_prompt_with_and_without_raw(talking: RunningBalancer, keyed: ollama.AsyncClient) -> None:
    complete = await keyed.generate("chatty", "Say hello.", options=OPTIONS)
    assert complete.response
    chatted = await keyed.chat("chatty", QUESTION, options=OPTIONS)
    assert complete.response == chatted.message.content
    assert complete.prompt_eval_count == chatted.prompt_eval_count
    raw = await keyed.generate("chatty", "Say hello.", raw=True, options=OPTIONS)
    completion = {"model": "chatty", "prompt": "Say hello.", "max_tokens": 8, "temperature": 0}
    plain = (await talking.http.post("/v1/completions", json=completion)).json()
    assert (raw.response, raw.prompt_eval_count) == (
        plain["choices"][0]["text"],
        plain["usage"]["prompt_tokens"],
    )
    assert (raw.prompt_eval_count or 0) < (complete.prompt_eval_count or 0)
    pieces = [
        piece async for piece in await keyed.generate("chatty", "Say hello.", options=OPTIONS, stream=True)
    ]
    assert "".join(piece.response or "" for piece in pieces) == complete.response


async def test_structured_output(keyed: ollama.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {"people": {"enum": ["few", "many"]}},
        "required": ["people"],
        "additionalProperties": False,
    }
    options = {"num_predict": 400, "temperature": 0}
    answer = await keyed.generate("chatty", "How many?", format=schema, options=options)
    assert json.loads(answer.response or "")["people"] in ("few", "many")
    # For a bare prompt, the grammar allows white space without an end between the words of an object.
    answer = await keyed.generate(
        "chatty", "How many?", raw=True, format={"enum": ["few", "many"]}, options=options
    )
    assert json.loads(answer.response or "") in ("few", "many")


def weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: its name
    """
    return f"It rains in {city}."


async def test_tool_calls_and_their_results_reach_the_engine(
    talking: RunningBalancer, keyed: ollama.AsyncClient
) -> None:
    """Only requests: models that call tools are larger than these. See also tests/gateway/dialects."""
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
        options=OPTIONS,
    )
    alone = await keyed.chat(
        "tools", [{"role": "user", "content": "What is the weather in Oslo?"}], options=OPTIONS
    )
    assert (answer.prompt_eval_count or 0) > (alone.prompt_eval_count or 0) + len(weather("Oslo"))


async def test_embeddings(talking: RunningBalancer, keyed: ollama.AsyncClient) -> None:
    await talking.pull_model("embed")
    found = await keyed.embed("embed", ["one", "two"])
    assert len(found.embeddings) == 2
    assert (found.prompt_eval_count or 0) > 0
    [alone] = (await keyed.embed("embed", "one")).embeddings
    assert alone == pytest.approx(found.embeddings[0], abs=1e-4)
    assert (await keyed.embeddings("embed", "one")).embedding == pytest.approx(alone, abs=1e-4)
    loaded = await keyed.generate("embed", keep_alive="5m")
    assert loaded.done_reason == "load"
    assert len((await keyed.embed("embed", "one", dimensions=8)).embeddings[0]) == 8
    with pytest.raises(ollama.ResponseError) as refused:
        await keyed.embed("embed", "one", dimensions=8000)
    assert refused.value.status_code == 400


async def test_ready_and_loaded_models(fresh: RunningBalancer, fresh_keyless: ollama.AsyncClient) -> None:
    [listed] = (await fresh_keyless.list()).models
    assert listed.model == "chatty:latest"
    assert listed.size == fresh.app.cluster.view.catalog.models[0].size_bytes
    assert listed.details is not None
    assert (listed.details.parameter_size, listed.details.quantization_level) == ("135M", "Q4_1")
    shown = await fresh_keyless.show("chatty:latest")
    assert (shown.modelinfo or {})["llama.context_length"] == ENDLESS_CONTEXT
    # Its chat template has no tools.
    assert shown.capabilities == ["completion"]
    await fresh.pull_model("tools")
    assert (await fresh_keyless.show("tools")).capabilities == ["completion", "tools"]
    assert (await fresh_keyless.ps()).models == []
    assert (await fresh_keyless.generate("chatty")).done_reason == "load"
    await wait_until(lambda: any(node.engines for node in fresh.app.cluster.view.online_nodes()))
    [running] = (await fresh_keyless.ps()).models
    assert (running.model, running.context_length) == ("chatty:latest", ENDLESS_CONTEXT)
    assert (running.size or 0) > listed.size
    entry = await last_request(fresh)
    assert (entry["key_id"], entry["key_name"], entry["user"]) == ("ollama-port", "ollama-port", None)
    totals = (await fresh.http.get("/api/usage?by=key")).json()["usage"]
    assert [(total["key"], total["name"]) for total in totals] == [("ollama-port", "ollama-port")]


async def test_unloading_needs_more_than_the_inference_scope(
    fresh: RunningBalancer, fresh_keyed: ollama.AsyncClient
) -> None:
    assert (await fresh_keyed.chat("chatty")).done_reason == "load"
    assert fresh.app.local_node.engine_pool.engine_reports()
    with pytest.raises(ollama.ResponseError) as refused:
        await fresh_keyed.generate("chatty", keep_alive=0)
    assert (refused.value.status_code, refused.value.error) == (
        403,
        "Unloading a model needs the scope 'models:write'",
    )
    async with client(fresh.url, await fresh.create_key("inference", "models:write")) as owner:
        assert (await owner.generate("chatty", keep_alive="0")).done_reason == "unload"
    assert fresh.app.local_node.engine_pool.memory_used_bytes == 0


ERRORS: list[tuple[str, dict[str, Any], int, str]] = [
    ("/api/chat", {"model": "nothing", "messages": QUESTION}, 404, "Model 'nothing' does not exist"),
    ("/api/generate", {"model": "absent", "prompt": "x"}, 404, "pull it first"),
    ("/api/show", {"model": "nothing"}, 404, "does not exist"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/chat", {"messages": QUESTION}, 400, "model"),
    ("/api/chat", {"model": "chatty", "messages": [{"content": 7}]}, 400, "messages"),
    ("/api/chat", {"model": "chatty", "messages": QUESTION, "keep_alive": "soon"}, 400, "keep_alive"),
    ("/api/generate", {"model": "chatty", "prompt": "x", "template": "y"}, 400, "template"),
    ("/api/generate", {"model": "chatty", "prompt": "x", "images": ["aaaa"]}, 400, "image"),
    ("/api/chat", {"model": "chatty", "messages": [{"role": "user", "content": "word " * 14_000}]},
     400, str(ENDLESS_CONTEXT)),
    ("/api/generate", {"model": "chatty", "prompt": "x", "format": {"type": "string", "pattern": "a{5000}"}},
     400, "pattern"),
    ("/api/embed", {"model": "chatty", "input": "x"}, 400, "embeddings"),
]  # fmt: skip


async def test_errors_are_one_sentence(talking: RunningBalancer) -> None:
    for path, body, status, text in ERRORS:
        answer = await talking.http.post(path, json=body)
        assert answer.status_code == status, (path, body, answer.text)
        assert answer.json().keys() == {"error"}
        assert text in answer.json()["error"]


async def test_unsupported_routes(talking: RunningBalancer) -> None:
    for path, method in UNSUPPORTED_ROUTES:
        answer = await talking.http.request(
            method, path.replace("<digest:str>", "sha256:00"), json={"model": "x"}
        )
        assert answer.status_code == 501
        assert method == "HEAD" or "Model Hub" in answer.json()["error"]
    async with httpx.AsyncClient(base_url=talking.url, trust_env=False, timeout=60) as nobody:
        for path, method in (("/api/tags", "GET"), ("/api/pull", "POST"), ("/api/push", "POST")):
            answer = await nobody.request(method, path)
            assert answer.status_code == 401
            assert isinstance(answer.json()["error"], str)
        assert isinstance((await nobody.get("/api/models")).json()["error"], dict)


async def test_a_model_of_the_catalogue_can_be_pulled(
    fresh: RunningBalancer, fresh_keyed: ollama.AsyncClient
) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        await fresh_keyed.pull("embed")
    assert refused.value.status_code == 403
    async with client(fresh.url, await fresh.create_key("models:write")) as owner:
        statuses = [line async for line in await owner.pull("embed", stream=True)]
        assert statuses[-1].status == "success"
        assert (await owner.pull("embed:latest")).status == "success"
        with pytest.raises(ollama.ResponseError) as refused:
            await owner.pull("llama3.2")
        assert refused.value.status_code == 404
    entries = (await fresh.http.get("/api/audit")).json()["entries"]
    # chatty, and embed once.
    assert [entry["action"] for entry in entries].count("model.register") == 2


async def test_a_failed_or_cancelled_pull_ends_with_an_error(
    fresh: RunningBalancer, fresh_hub: HubStandIn
) -> None:
    fresh_hub.faults.stall(after=1000)
    async with client(fresh.url, await fresh.create_key("models:write")) as owner:
        stream = aiter(await owner.pull("tools", stream=True))
        while (await anext(stream)).completed is None:
            pass
        assert (await fresh.http.delete("/api/models/tools")).status_code == 204
        with pytest.raises(ollama.ResponseError, match="cancelled"):
            async for _ in stream:
                pass
        with pytest.raises(ollama.ResponseError, match="could not be pulled") as failed:
            await owner.pull("absent")
        assert failed.value.status_code == 503


async def test_any_media_type(talking: RunningBalancer) -> None:
    body = json.dumps({"model": "chatty", "prompt": "Hi", "stream": False, "options": OPTIONS})
    kinds = ("application/x-www-form-urlencoded", "text/plain", "application/x-ndjson", "json", "a, b")
    for kind in ({}, *({"Content-Type": kind} for kind in kinds)):
        answer = await talking.http.post("/api/generate", content=body, headers=kind)
        assert answer.status_code == 200, answer.text
        assert answer.json()["done"]


async def test_an_engine_crash_ends_the_stream_with_an_error(
    fresh: RunningBalancer, fresh_keyless: ollama.AsyncClient
) -> None:
    stream = await fresh_keyless.chat(
        "chatty", QUESTION, options={"num_predict": ENDLESS_CONTEXT - 100}, stream=True
    )
    await anext(aiter(stream))
    [pid] = [
        engine.process.pid for engine in fresh.app.local_node.engine_pool._all_engines() if engine.process.pid
    ]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ollama.ResponseError, match="engine"):
        async for _ in stream:
            pass
    assert (await last_request(fresh))["error_code"] == "engine_failed"


async def test_a_disconnected_client_frees_its_slot(
    talking: RunningBalancer, keyless: ollama.AsyncClient
) -> None:
    stream = await keyless.chat(
        "chatty", QUESTION, options={"num_predict": ENDLESS_CONTEXT - 100}, stream=True
    )
    await anext(aiter(stream))
    assert busy_slots(talking) == 1
    # It is a generator, although its type does not say so.
    await stream.aclose()  # type: ignore[attr-defined]
    await wait_until(lambda: not busy_slots(talking))


async def test_keepalives_do_not_break_a_stream(
    fresh: RunningBalancer, fresh_keyless: ollama.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = keepalive.SseKeepalive
    monkeypatch.setattr(dispatcher, "SseKeepalive", lambda sink, **_options: original(sink, interval_s=0.01))
    # The model is not loaded, so the stream starts with a wait.
    body = {"model": "chatty", "messages": QUESTION, "options": OPTIONS}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as plain:
        answer = await plain.post(f"http://127.0.0.1:{fresh.ollama_port}/api/chat", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.startswith("  ")
    assert json.loads(answer.text.splitlines()[-1])["done"]


async def test_openais_dialect_at_ollamas_port(talking: RunningBalancer) -> None:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{talking.ollama_port}", trust_env=False, timeout=60
    ) as plain:
        assert (await plain.get("/")).text == "Ollama is running"
        assert (await plain.head("/")).status_code == 200
        answer = await plain.post(
            "/v1/chat/completions",
            json={"model": "chatty:latest", "messages": QUESTION, "max_tokens": 2},
            headers={"Authorization": "Bearer ollama"},
        )
        assert answer.json()["model"] == "chatty"
        refused = await plain.post("/v1/chat/completions", json={"model": "nothing", "messages": QUESTION})
        assert refused.json()["error"]["code"] == "model_not_found"


def busy_slots(llb: RunningBalancer) -> int:
    return sum(node.busy for model in llb.app.gateway.admission.snapshot() for node in model.nodes)


@pytest.mark.asyncio(loop_scope="function")
async def test_transcripts_are_recorded_with_history_text(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "c.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, ollama_port=0, history_text=True).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    async with client(f"http://127.0.0.1:{llb.ollama_port}") as plain:
        complete = await plain.chat("chat", QUESTION, options=OPTIONS)
        pieces = [piece async for piece in await plain.chat("chat", QUESTION, options=OPTIONS, stream=True)]
    streamed = "".join(piece.message.content or "" for piece in pieces)
    entry = (await llb.http.get("/api/requests?limit=2")).json()["requests"]
    texts = [(await llb.http.get(f"/api/requests/{item['id']}")).json()["text"] for item in entry]
    assert [text["prompt"] for text in texts] == ["user: Say hello."] * 2
    assert [text["answer"] for text in texts] == [streamed, complete.message.content]
