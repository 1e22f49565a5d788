"""The official clients against one llb in front of every kind of target, and what their requests cost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
import pytest_asyncio

from tests.balancer.endpoints.matrix import BEGIN, DOCUMENT, EMBEDDING_KINDS, END, render_matrix
from tests.conftest import balancer_factory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn
from tests.providers import KINDS, ProviderStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-provider-0123456789abcdef"
CLOUDS = ("openai", "anthropic", "google")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(48)).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, ProviderStandIn]]:
    made = {kind: ProviderStandIn(kind, key=KEY).start() for kind in KINDS}
    yield made
    for stand_in in made.values():
        stand_in.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llb(
    tmp_path_factory: pytest.TempPathFactory, stand_ins: dict[str, ProviderStandIn]
) -> AsyncIterator[RunningBalancer]:
    """A balancer with an endpoint of each kind, called as its kind."""
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            running = await make().start()
            for kind, stand_in in stand_ins.items():
                body = {"base_url": stand_in.base_url, "key": KEY, "kind": kind, "name": kind}
                added = await running.http.post("/api/endpoints", json=body)
                assert added.status_code == 201, (kind, added.text)
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(llb: RunningBalancer) -> str:
    return await llb.create_key("inference", "cloud")


def model_of(kind: str, stand_in: ProviderStandIn, number: int = 0) -> str:
    separator = ":" if kind in CLOUDS else "/"
    return f"{kind}{separator}{stand_in.provider.models[number].id}"


def chat_tools() -> Any:
    return [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


# --- OpenAI's client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_openai_with_tools(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn], *, stream: bool
) -> None:
    model = model_of(kind, stand_ins[kind])
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{llb.url}/v1", max_retries=0) as sdk:

        async def ask(messages: Any) -> Any:
            if not stream:
                return (
                    await sdk.chat.completions.create(model=model, messages=messages, tools=chat_tools())
                ).choices[0]
            async with sdk.chat.completions.stream(
                model=model, messages=messages, tools=chat_tools()
            ) as events:
                return (await events.get_final_completion()).choices[0]

        question = {"role": "user", "content": "weather in two cities"}
        called = await ask([question])
        assert called.finish_reason == "tool_calls"
        calls = called.message.tool_calls
        assert [json.loads(call.function.arguments) for call in calls] == [
            {"city": "city 0"},
            {"city": "city 1"},
        ]
        turn = called.message.model_dump(exclude_none=True)
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": f"sunny {number}"}
            for number, call in enumerate(calls)
        ]
        last = await ask([question, turn, *results])
        assert last.message.content == "Results: sunny 0; sunny 1"
        assert last.finish_reason == "stop"


@pytest.mark.parametrize("kind", KINDS)
async def test_openai_with_images_and_structured_output(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    model = model_of(kind, stand_ins[kind])
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{llb.url}/v1", max_retries=0) as sdk:
        image: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        content: Any = [{"type": "text", "text": "look"}, image]
        seen = await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
        assert "1 image(s): image/png" in (seen.choices[0].message.content or "")
        assert seen.model == model
        form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}
        formed = await sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "x"}], response_format=form
        )
        assert json.loads(formed.choices[0].message.content or "") == {"city": "city"}


@pytest.mark.parametrize("kind", EMBEDDING_KINDS)
async def test_openai_embeddings(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins[kind]
    number = len(stand_in.provider.models) - 1
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{llb.url}/v1", max_retries=0) as sdk:
        made = await sdk.embeddings.create(model=model_of(kind, stand_in, number), input=["a", "b"])
    assert len(made.data) == 2


# --- Anthropic's client --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_anthropic_with_tools(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn], *, stream: bool
) -> None:
    model = model_of(kind, stand_ins[kind])
    tools: Any = [{"name": "weather", "input_schema": SCHEMA}]
    async with anthropic.AsyncAnthropic(api_key=key, base_url=llb.url, max_retries=0) as sdk:

        async def ask(messages: Any) -> anthropic.types.Message:
            if not stream:
                return await sdk.messages.create(model=model, max_tokens=500, messages=messages, tools=tools)
            async with sdk.messages.stream(
                model=model, max_tokens=500, messages=messages, tools=tools
            ) as events:
                return await events.get_final_message()

        question = {"role": "user", "content": "weather in two cities"}
        called = await ask([question])
        assert (called.stop_reason, called.model) == ("tool_use", model)
        uses = [block for block in called.content if block.type == "tool_use"]
        assert [use.input for use in uses] == [{"city": "city 0"}, {"city": "city 1"}]
        turn = {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in called.content]}
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": f"sunny {number}"}
            for number, use in enumerate(uses)
        ]
        last = await ask([question, turn, {"role": "user", "content": results}])
        assert last.stop_reason == "end_turn"
        assert last.content[-1].type == "text"
        assert last.content[-1].text == "Results: sunny 0; sunny 1"
        assert last.usage.output_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_anthropic_with_images_and_structured_output(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    model = model_of(kind, stand_ins[kind])
    async with anthropic.AsyncAnthropic(api_key=key, base_url=llb.url, max_retries=0) as sdk:
        source: Any = {"type": "base64", "media_type": "image/png", "data": PNG}
        content: Any = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
        seen = await sdk.messages.create(
            model=model, max_tokens=100, messages=[{"role": "user", "content": content}]
        )
        assert "1 image(s): image/png" in seen.content[-1].text  # type: ignore[union-attr]
        output: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        formed = await sdk.messages.create(
            model=model, max_tokens=100, messages=[{"role": "user", "content": "x"}], output_config=output
        )
        assert json.loads(formed.content[-1].text) == {"city": "city"}  # type: ignore[union-attr]


# --- Ollama's client -----------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def client(llb: RunningBalancer, key: str) -> AsyncIterator[ollama.AsyncClient]:
    made = ollama.AsyncClient(llb.url, headers={"Authorization": f"Bearer {key}"})
    yield made
    await made._client.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_ollama_with_tools(
    kind: str, client: ollama.AsyncClient, stand_ins: dict[str, ProviderStandIn], *, stream: bool
) -> None:
    model = model_of(kind, stand_ins[kind])

    async def ask(messages: Any) -> tuple[str, list[Any]]:
        if not stream:
            answer = (await client.chat(model, messages, tools=chat_tools())).message
            return answer.content or "", list(answer.tool_calls or ())
        text = ""
        calls: list[Any] = []
        async for part in await client.chat(model, messages, tools=chat_tools(), stream=True):
            text += part.message.content or ""
            calls += part.message.tool_calls or ()
        return text, calls

    question = {"role": "user", "content": "weather in two cities"}
    text, calls = await ask([question])
    assert [call.function.arguments for call in calls] == [{"city": "city 0"}, {"city": "city 1"}]
    turn = {"role": "assistant", "content": text, "tool_calls": [call.model_dump() for call in calls]}
    results = [{"role": "tool", "tool_name": "weather", "content": f"sunny {number}"} for number in range(2)]
    assert (await ask([question, turn, *results]))[0] == "Results: sunny 0; sunny 1"


@pytest.mark.parametrize("kind", KINDS)
async def test_ollama_with_images_and_structured_output(
    kind: str, client: ollama.AsyncClient, stand_ins: dict[str, ProviderStandIn]
) -> None:
    model = model_of(kind, stand_ins[kind])
    seen = await client.chat(model, [{"role": "user", "content": "look", "images": [PNG]}])
    assert "1 image(s): image/png" in (seen.message.content or "")
    formed = await client.chat(model, [{"role": "user", "content": "x"}], format=SCHEMA)
    assert json.loads(formed.message.content or "") == {"city": "city"}


@pytest.mark.parametrize("kind", EMBEDDING_KINDS)
async def test_ollama_embeddings(
    kind: str, client: ollama.AsyncClient, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins[kind]
    model = model_of(kind, stand_in, len(stand_in.provider.models) - 1)
    assert len((await client.embed(model, ["a", "b"])).embeddings) == 2


async def test_the_document_has_the_matrix_that_is_run() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == render_matrix()


# --- errors ----------------------------------------------------------------------------------------------


async def ask_openai(llb: RunningBalancer, key: str, model: str, question: Any) -> None:
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{llb.url}/v1", max_retries=0) as sdk:
        async for _ in await sdk.chat.completions.create(model=model, messages=question, stream=True):
            pass


async def ask_anthropic(llb: RunningBalancer, key: str, model: str, question: Any) -> None:
    async with (
        anthropic.AsyncAnthropic(api_key=key, base_url=llb.url, max_retries=0) as sdk,
        sdk.messages.stream(model=model, max_tokens=50, messages=question) as events,
    ):
        await events.get_final_message()


@pytest.mark.parametrize("kind", ["anthropic", "google", "tgi"])
async def test_an_error_in_the_middle_ends_the_stream_in_the_clients_dialect(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins[kind]
    model = model_of(kind, stand_in)
    stand_in.add_fault("error_event", after=6, status=500, message=f"Overloaded with {KEY}")
    question: Any = [{"role": "user", "content": "one two three four five six seven"}]
    ask = ask_openai if kind == "anthropic" else ask_anthropic
    with pytest.raises((openai.APIError, anthropic.APIError)) as broken:
        await ask(llb, key, model, question)
    assert "overloaded" in str(broken.value)
    # The answer had begun.
    assert not isinstance(broken.value, (openai.APIStatusError, anthropic.InternalServerError))
    assert KEY not in str(broken.value)


async def test_what_cannot_be_translated_is_refused_with_its_field(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    body = {"model": model_of("anthropic", stand_ins["anthropic"]), "messages": [], "logprobs": True}
    answer = await llb.http.post(
        "/v1/chat/completions",
        json={**body, "messages": [{"role": "user", "content": "a"}]},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")


@pytest.mark.parametrize("url", ["https://example.com/cat.png", "http://example.com/cat.png"])
async def test_image_urls_reach_clouds_and_nothing_of_the_own_network(
    url: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    content: Any = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]

    async def ask(model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        return await llb.http.post("/v1/chat/completions", json=body, headers=headers)

    for kind in ("openai", "anthropic"):
        answer = await ask(model_of(kind, stand_ins[kind]))
        assert answer.status_code == 200, answer.text
        assert url in answer.json()["choices"][0]["message"]["content"]
    content[1]["image_url"] = {"url": "file:///etc/passwd"}
    assert (await ask(model_of("openai", stand_ins["openai"]))).status_code == 400
    content[1]["image_url"] = {"url": url}
    assert (await ask(model_of("vllm", stand_ins["vllm"]))).status_code == 400
    # With a rule, the same body could reach an engine here.
    model = model_of("openai", stand_ins["openai"])
    rule = {"routes": [{"target": model_of("vllm", stand_ins["vllm"]), "when": ["error"]}]}
    assert (await llb.http.put(f"/api/models/{model}/routes", json=rule)).status_code == 200
    assert (await ask(model)).status_code == 400
    assert (await llb.http.put(f"/api/models/{model}/routes", json={"routes": []})).status_code == 200


async def test_ignored_fields_and_limits_are_told(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    model = model_of("anthropic", stand_ins["anthropic"])
    body = {"model": model, "messages": [{"role": "user", "content": "a"}], "seed": 1}
    headers = {"Authorization": f"Bearer {key}"}
    answer = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llb-ignored"] == "seed"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "999"


# --- money -----------------------------------------------------------------------------------------------


async def history_of(llb: RunningBalancer, model: str) -> list[dict[str, Any]]:
    answer = await llb.http.get("/api/requests", params={"model": model})
    return list(answer.json()["requests"])


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_have_their_cost(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn], *, stream: bool
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    question = [{"role": "user", "content": "one two three"}]
    for kind, is_free in (("openai", False), ("anthropic", False), ("google", False), ("vllm", True)):
        model = model_of(kind, stand_ins[kind])
        body = {"model": model, "messages": question, "stream": stream}
        answer = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        [latest, *_] = await history_of(llb, model)
        assert latest["prompt_tokens"] > 0
        assert (latest["cost_usd"] == 0.0) == is_free, (kind, latest)
        assert latest["cost_usd"] is not None


@pytest.fixture
async def budgets(llb: RunningBalancer) -> AsyncIterator[Any]:
    async def put(*wanted: dict[str, Any]) -> None:
        answer = await llb.http.put("/api/budgets", json={"budgets": wanted})
        assert answer.status_code == 200, answer.text

    yield put
    await put()


async def test_a_hundred_requests_at_once_do_not_pass_a_budget_for_ten(
    llb: RunningBalancer, stand_ins: dict[str, ProviderStandIn]
) -> None:
    created = await llb.http.post("/api/keys", json={"name": "b", "scopes": ["inference", "cloud"]})
    key_id, headers = created.json()["id"], {"Authorization": f"Bearer {created.json()['key']}"}
    stand_in = stand_ins["openai"]
    model = model_of("openai", stand_in)
    price = {"prices": {stand_in.provider.models[0].id: {"input": 0.0, "output": 1_000_000 / 100}}}
    [endpoint] = [
        each
        for each in (await llb.http.get("/api/endpoints")).json()["endpoints"]
        if each["name"] == "openai"
    ]
    priced = await llb.http.patch(f"/api/endpoints/{endpoint['id']}", json={"prices": price["prices"]})
    assert priced.status_code == 200, priced.text
    # Each answer has 5 tokens of a cent, which is the most that it may have.
    limit = {"scope": "key", "id": key_id, "period": "day", "limit_usd": 0.5}
    assert (await llb.http.put("/api/budgets", json={"budgets": [limit]})).status_code == 200
    stand_in.clear_requests()
    body = {"model": model, "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 5}

    async def ask() -> httpx.Response:
        return await llb.http.post("/v1/chat/completions", json=body, headers=headers)

    # The answers wait, so that the requests are there at the same time.
    stand_in.add_fault("slow_start", seconds=0.3, times=None)
    answers = await asyncio.gather(*(ask() for _ in range(100)))
    stand_in.clear_faults()
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(402)) == (10, 90)
    refused = next(answer for answer in answers if answer.status_code == 402).json()["error"]
    assert (refused["code"], refused["type"]) == ("budget_exceeded", "insufficient_quota")
    assert len(stand_in.requests_to("/chat/completions")) == 10
    [listed] = (await llb.http.get("/api/budgets")).json()["budgets"]
    assert listed["used_usd"] == 0.5
    # Models that cost nothing are answered, whatever a budget says.
    free = {**body, "model": model_of("vllm", stand_ins["vllm"])}
    key_without = await llb.http.put("/api/budgets", json={"budgets": [{**limit, "limit_usd": 0}]})
    assert key_without.status_code == 200
    assert (await llb.http.post("/v1/chat/completions", json=free, headers=headers)).status_code == 200
    assert (await ask()).status_code == 402
    # An unknown price is refused, and not free.
    unknown = {"model": model_of("openai", stand_in, 1), "messages": body["messages"]}
    await llb.http.patch(
        f"/api/endpoints/{endpoint['id']}", json={"prices": {}, "aliases": {"new": "gpt-99"}}
    )
    unknown["model"] = "openai:new"
    refusal = await llb.http.post("/v1/chat/completions", json=unknown, headers=headers)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (402, "budget_exceeded")
    assert "price" in refusal.json()["error"]["message"]
    await llb.http.put("/api/budgets", json={"budgets": []})
