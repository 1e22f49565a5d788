"""Requests that other servers read, at a running balancer with the real llama.cpp."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conftest import balancer_factory
from tests.ggufs import (
    ALTERNATING_CHAT_TEMPLATE,
    CHAT_TEMPLATE,
    FIRST_SYSTEM_CHAT_TEMPLATE,
    TOOL_CALL_MARKER,
    TOOL_CHAT_TEMPLATE,
    write_chat_model,
)
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

CHAT, RESPONSES, ANTHROPIC, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "tools": TOOL_CHAT_TEMPLATE,
    "alternating": ALTERNATING_CHAT_TEMPLATE,
    "first": FIRST_SYSTEM_CHAT_TEMPLATE,
}
USER, ANSWER = {"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g")]
# Makes the random weights begin with a call.
CALLING = {
    "logit_bias": {str(ord(TOOL_CALL_MARKER)): 50, str(ord(" ")): -50, str(ord("\n")): -50},
    "temperature": 0,
}

# One balancer answers all requests of this module.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reading(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBalancer]:
    folder = tmp_path_factory.mktemp("reading")
    files = {
        name: write_chat_model(folder / f"{name}.gguf", template=template)
        for name, template in TEMPLATES.items()
    }
    catalog = write_catalog(
        folder / "catalog.json",
        *({"id": name, "size_bytes": path.stat().st_size} for name, path in files.items()),
    )
    with HubStandIn() as hub:
        for name, path in files.items():
            hub.add_repo(f"test/{name}", {f"{name}.gguf": path})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(parallel=1).start()
            await llb.wait_until_online()
            for name in files:
                await llb.pull_model(name)
            yield llb


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(reading: RunningBalancer) -> AsyncIterator[httpx.AsyncClient]:
    """Client that does not hold requests to the reference, which says what clients should send."""
    key = await reading.http.post("/api/keys", json={"name": "reading"})
    headers = {"Authorization": f"Bearer {key.json()['key']}"}
    async with httpx.AsyncClient(base_url=reading.url, headers=headers, timeout=60) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str, model: str, **fields: Any) -> httpx.Response:
    limits: dict[str, Any] = {CHAT: {"max_tokens": 3}, ANTHROPIC: {"max_tokens": 3}}.get(
        path, {"max_output_tokens": 3}
    )
    return await client.post(path, json={"model": model, **limits, **fields})


def count_of(path: str, answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    if path == ANTHROPIC:
        return int(usage["input_tokens"] + usage["cache_read_input_tokens"])
    return int(usage["prompt_tokens" if path == CHAT else "input_tokens"])


@pytest.mark.parametrize("model", ["alternating", "first"])
async def test_no_system_message_is_refused_or_lost(client: httpx.AsyncClient, model: str) -> None:
    """Before the engine has tried its template, and afterwards."""
    for _ in range(2):
        for path, fields in (
            (CHAT, {"messages": [{"role": "system", "content": "a" * 20}, USER, ANSWER,
                                 {"role": "developer", "content": "b" * 40}, USER]}),
            (RESPONSES, {"instructions": "a" * 20,
                         "input": [USER, ANSWER, {"role": "developer", "content": "b" * 40}, USER]}),
            (ANTHROPIC, {"system": "a" * 20,
                         "messages": [USER, ANSWER, {"role": "system", "content": "b" * 40}, USER]}),
        ):  # fmt: skip
            # One token a character.
            assert count_of(path, await ask(client, path, model, **fields)) > 60


async def test_a_template_that_refuses_answers_with_a_sentence(client: httpx.AsyncClient) -> None:
    answer = await ask(client, CHAT, "alternating", messages=[ANSWER, USER])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "The chat template of this model refuses these messages: "
        "Conversation roles must alternate user/assistant/user/assistant/..."
    )


async def test_tools_that_a_model_does_not_have(client: httpx.AsyncClient) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    responses_tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    anthropic_tools = [{"name": "f", "input_schema": SCHEMA}]
    for path, fields in (
        (CHAT, {"messages": [USER], "tools": FUNCTIONS, "tool_choice": "required"}),
        (CHAT, {"messages": [USER], "tools": FUNCTIONS, "tool_choice": named, "stream": True}),
        (RESPONSES, {"input": "x", "tools": responses_tools, "tool_choice": "required"}),
        (ANTHROPIC, {"messages": [USER], "tools": anthropic_tools, "tool_choice": {"type": "any"}}),
        (ANTHROPIC, {"messages": [USER], "tools": anthropic_tools,
                     "tool_choice": {"type": "tool", "name": "f"}}),
    ):  # fmt: skip
        refused = await ask(client, path, "plain", **fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "tools_not_supported")
    for path, fields in (
        (CHAT, {"messages": [USER], "tools": FUNCTIONS}),
        (RESPONSES, {"input": "x", "tools": responses_tools}),
        (ANTHROPIC, {"messages": [USER], "tools": anthropic_tools}),
        (OLLAMA, {"messages": [USER], "tools": FUNCTIONS, "stream": False, "options": {"num_predict": 2}}),
        (OLLAMA, {"messages": [USER], "tools": FUNCTIONS, "options": {"num_predict": 2}}),
    ):
        answered = await ask(client, path, "plain", **fields)
        assert (answered.status_code, answered.headers["x-llb-ignored"]) == (200, "tools"), answered.text


async def test_what_models_can_do_is_said_beforehand(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/api/models?capability=tooluse")).json()["models"]
    assert [item["model"]["id"] for item in listed] == ["tools"]
    for name, capabilities in (("plain", ["completion"]), ("tools", ["completion", "tools"])):
        shown = (await client.post("/api/show", json={"model": name})).json()
        assert shown["capabilities"] == capabilities


async def test_a_named_tool_is_called(client: httpx.AsyncClient) -> None:
    messages = {"messages": [USER], "max_tokens": 100, "tools": FUNCTIONS, **CALLING}
    for choice in ({"type": "function", "function": {"name": "g"}}, {"type": "tool", "name": "g"}):
        answer = (await ask(client, CHAT, "tools", tool_choice=choice, **messages)).json()
        calls = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
        assert {call["name"] for call in calls} == {"g"}
        assert json.loads(calls[0]["arguments"]) == {"city": "Oslo"}


async def test_probabilities_together_with_tools(client: httpx.AsyncClient) -> None:
    fields = {"messages": [USER], "tools": FUNCTIONS, "logprobs": True, "top_logprobs": 2}
    answer = (await ask(client, CHAT, "tools", **fields)).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    streamed = await ask(client, CHAT, "tools", stream=True, **fields)
    assert streamed.status_code == 200
    assert '"top_logprobs":[' in streamed.text


async def test_a_history_with_a_search_for_a_pattern(client: httpx.AsyncClient) -> None:
    """A pattern and a URL in arguments are text."""
    arguments = {"pattern": "(a+)+$", "url": "http://127.0.0.1/", "image_url": "file:///etc/passwd"}
    call = {"id": "c", "type": "function", "function": {"name": "Grep", "arguments": arguments}}
    use = {"type": "tool_use", "id": "c", "name": "Grep", "input": arguments}
    result = {"type": "tool_result", "tool_use_id": "c", "content": json.dumps(arguments)}
    for model in ("tools", "plain", "alternating"):
        for path, fields in (
            (CHAT, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]},
                                 {"role": "tool", "tool_call_id": "c", "content": arguments}, USER]}),
            (RESPONSES, {"input": [USER, {"type": "function_call", "call_id": "c", "name": "Grep",
                                          "arguments": arguments},
                                   {"type": "function_call_output", "call_id": "c", "output": arguments}]}),
            (ANTHROPIC, {"messages": [USER, {"role": "assistant", "content": [use]},
                                      {"role": "user", "content": [result, {"type": "text", "text": "x"}]}]}),
            (OLLAMA, {"stream": False, "options": {"num_predict": 2},
                      "messages": [USER, {"role": "assistant", "tool_calls": [call]},
                                   {"role": "tool", "tool_name": "Grep", "content": arguments}]}),
        ):  # fmt: skip
            answer = await ask(client, path, model, **fields)
            assert answer.status_code == 200, (model, path, answer.text)


async def test_texts_that_are_no_valid_json_elsewhere(client: httpx.AsyncClient) -> None:
    for text in (rb"a\ud83d b \udc00", b"a\xed\xa0\xbd", rb"\\ud800 \ud83d\ude00"):
        body = (
            b'\xef\xbb\xbf{"model":"plain","max_tokens":2.0,"messages":[{"role":"user","content":"%b"}]}'
            % text
        )
        for encoding, encoded in (("identity", body), ("gzip", gzip.compress(body))):
            headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
            answer = await client.post(CHAT, content=encoded, headers=headers)
            assert answer.status_code == 200, answer.text
        ollama = await client.post(
            OLLAMA, content=body.replace(b'"max_tokens":2.0', b'"options":{"num_predict":2},"stream":false')
        )
        assert ollama.status_code == 200, ollama.text
