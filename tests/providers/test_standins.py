"""The stand-ins answer as the official clients expect, and fail as configured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.providers import KINDS, Fault, FaultKind, ProviderStandIn

KEY = "sk-stand-in-0123456789abcdef"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, ProviderStandIn]]:
    made = {kind: ProviderStandIn(kind, key=KEY).start() for kind in KINDS}
    yield made
    for stand_in in made.values():
        stand_in.stop()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


def chat_kinds() -> list[str]:
    return [kind for kind in KINDS if kind != "anthropic"]


@pytest.mark.parametrize("kind", chat_kinds())
def test_the_official_client_of_openai_understands(kind: str, stand_ins: dict[str, ProviderStandIn]) -> None:
    stand_in = stand_ins[kind]
    with openai.OpenAI(api_key=KEY, base_url=stand_in.base_url, max_retries=0) as sdk:
        model = next(iter(sdk.models.list())).id
        messages: Any = [{"role": "user", "content": "weather in two cities"}]
        called = sdk.chat.completions.create(model=model, messages=messages, tools=TOOLS)
        calls: Any = called.choices[0].message.tool_calls
        assert [json.loads(call.function.arguments) for call in calls] == [
            {"city": "city 0"},
            {"city": "city 1"},
        ]
        turn: Any = called.choices[0].message.model_dump(exclude_none=True)
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        with sdk.chat.completions.stream(model=model, messages=[*messages, turn, *results]) as stream:
            assert stream.get_final_completion().choices[0].message.content == "Results: sunny; sunny"
        with pytest.raises(openai.APIStatusError) as refused:
            sdk.chat.completions.create(model=model, messages=[*messages, turn, results[0], *messages])
        assert refused.value.status_code == 400


@pytest.mark.parametrize("kind", ["anthropic", "vllm", "ollama", "llama.cpp"])
def test_the_official_client_of_anthropic_understands(
    kind: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins[kind]
    model = stand_in.provider.models[0].id
    headers = {} if kind == "anthropic" else {"Authorization": f"Bearer {KEY}"}
    with anthropic.Anthropic(
        api_key=KEY, base_url=stand_in.origin, max_retries=0, default_headers=headers
    ) as sdk:
        thinking: Any = {"type": "adaptive"}
        with sdk.messages.stream(
            model=model, max_tokens=2000, messages=[{"role": "user", "content": "hi"}], thinking=thinking
        ) as stream:
            message = stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.stop_reason == "end_turn"


def test_a_health_check_that_generates_is_seen(
    stand_ins: dict[str, ProviderStandIn], client: httpx.Client
) -> None:
    sglang = stand_ins["sglang"]
    before = sglang.provider.generations
    client.get(f"{sglang.origin}/health_generate")
    assert sglang.provider.generations == before + 1


def test_each_kind_refuses_other_keys_and_unknown_paths_in_its_own_way(
    stand_ins: dict[str, ProviderStandIn], client: httpx.Client
) -> None:
    for kind, stand_in in stand_ins.items():
        headers = {"authorization": "Bearer wrong", "x-api-key": "wrong", "anthropic-version": "2023-06-01"}
        answer = client.post(f"{stand_in.base_url}/chat/completions", headers=headers, json={})
        assert answer.status_code == (400 if kind == "google" else 401), kind
    lm_studio = stand_ins["lmstudio"]
    answer = client.get(f"{lm_studio.origin}/props", headers={"authorization": f"Bearer {KEY}"})
    assert (answer.status_code, list(answer.json())) == (200, ["error"])


def ask(client: httpx.Client, stand_in: ProviderStandIn, *, stream: bool = True) -> httpx.Response:
    body = {
        "model": stand_in.provider.models[0].id,
        "messages": [{"role": "user", "content": "one two three four"}],
        "stream": stream,
    }
    headers = {"authorization": f"Bearer {KEY}"}
    return client.post(f"{stand_in.base_url}/chat/completions", headers=headers, json=body)


def test_faults_of_status_come_as_often_as_they_were_asked_for(
    stand_ins: dict[str, ProviderStandIn], client: httpx.Client
) -> None:
    stand_in = stand_ins["openai"]
    stand_in.add_fault("status", status=429, retry_after="7", times=2)
    answers = [ask(client, stand_in) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"


@pytest.mark.parametrize("kind", [FaultKind.KILL, FaultKind.RESET, FaultKind.SHORT_BODY])
def test_connections_that_break(
    kind: FaultKind, stand_ins: dict[str, ProviderStandIn], client: httpx.Client
) -> None:
    stand_in = stand_ins["vllm"]
    stand_in.add_fault(kind)
    with pytest.raises(httpx.TransportError):
        ask(client, stand_in, stream=kind is not FaultKind.SHORT_BODY)
    assert ask(client, stand_in).status_code == 200


def test_an_error_after_the_head_of_a_stream(
    stand_ins: dict[str, ProviderStandIn], client: httpx.Client
) -> None:
    stand_in = stand_ins["vllm"]
    stand_in.add_fault("error_event", after=3, message="Out of memory")
    lines = [line for line in ask(client, stand_in).text.splitlines() if line]
    assert len(lines) == 4
    assert "Out of memory" in lines[-1]


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.SLOW_FIRST_BYTE, FaultKind.ENDLESS_LINE])
def test_a_client_that_leaves_is_recorded(kind: FaultKind, stand_ins: dict[str, ProviderStandIn]) -> None:
    stand_in = stand_ins["sglang"]
    stand_in.clear_requests()
    stand_in.add_fault(kind, seconds=60.0)
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=60.0 if kind is FaultKind.ENDLESS_LINE else 0.2) as impatient,
        pytest.raises(httpx.ReadTimeout)
        if kind is not FaultKind.ENDLESS_LINE
        else pytest.raises(StopIteration),
        impatient.stream(
            "POST", f"{stand_in.base_url}/chat/completions", headers=headers, json=body
        ) as answer,
    ):
        next(answer.iter_bytes())
        raise StopIteration
    stand_in.wait_for("/chat/completions", left=True)


def test_faults_have_a_text_form() -> None:
    fault = Fault.parse("status:status=529,retry_after=3,times=all,path=/v1/messages")
    assert fault == Fault(FaultKind.STATUS, 529, retry_after="3", times=None, path="/v1/messages")
    with pytest.raises(ValueError, match="no field"):
        Fault.parse("kill:colour=red")
