"""The official clients against one llb in front of every kind of target, and what their requests cost."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
import pytest_asyncio

from tests.balancer.endpoints.matrix import (
    BEGIN,
    DOCUMENT,
    EMBEDDING_KINDS,
    END,
    KEY,
    TARGETS,
    model_of,
    render_matrix,
)
from tests.harness import RunningBalancer
from tests.providers import ProviderStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(48)).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def chat_tools() -> Any:
    return [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


# --- OpenAI's client -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
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


@pytest.mark.parametrize("kind", TARGETS)
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
@pytest.mark.parametrize("kind", TARGETS)
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


@pytest.mark.parametrize("kind", TARGETS)
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
@pytest.mark.parametrize("kind", TARGETS)
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


@pytest.mark.parametrize("kind", TARGETS)
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
