"""Cached tokens: they do not reveal what another caller has sent."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

SECRET = "The vault in the cellar opens with four numbers: "
CACHED = re.compile(r'"(?:cached_tokens|cache_n|cache_read_input_tokens|cache)":\s*(\d+)')
COMPUTED = re.compile(r'"(?:prompt_n|input_tokens|processed)":\s*(\d+)')


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields}


# Of each dialect: the path, and the request for a text.
DIALECTS: dict[str, tuple[str, Any]] = {
    "chat": ("/v1/chat/completions", chat),
    "chat stream": (
        "/v1/chat/completions",
        lambda text: chat(text, stream=True, stream_options={"include_usage": True}),
    ),
    "chat progress": (
        "/v1/chat/completions",
        lambda text: chat(text, stream=True, return_progress=True, timings_per_token=True),
    ),
    "completions": ("/v1/completions", lambda text: {"prompt": text, "max_tokens": 2}),
    "messages": ("/v1/messages", chat),
    "messages stream": ("/v1/messages", lambda text: chat(text, stream=True)),
    "responses": ("/v1/responses", lambda text: {"input": text, "max_output_tokens": 2}),
    "responses stream": (
        "/v1/responses",
        lambda text: {"input": text, "max_output_tokens": 2, "stream": True},
    ),
    "aggregated": ("/v1/chat/completions", lambda text: chat(text, max_tokens=150, ignore_eos=True)),
}


@pytest.fixture
async def chatting(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "c.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, parallel=1).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


class Counts(NamedTuple):
    """The highest counts of cached and of computed tokens in an answer, and the id of its request."""

    cached: int
    computed: int
    request_id: str


async def ask(llb: RunningBalancer, key: str, path: str, body: dict[str, Any]) -> Counts:
    answer = await llb.http.post(
        path, json={"model": "chat", **body}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 200, answer.text
    return Counts(
        max((int(count) for count in CACHED.findall(answer.text)), default=0),
        max((int(count) for count in COMPUTED.findall(answer.text)), default=0),
        answer.headers["x-request-id"],
    )


async def recorded(llb: RunningBalancer, answer: Counts) -> int:
    """Return the cached tokens in the history."""
    async with asyncio.timeout(30):
        while True:
            for request in (await llb.http.get("/api/requests?limit=100")).json()["requests"]:
                if request["request_id"] == answer.request_id:
                    return int(request["cached_tokens"])
            await asyncio.sleep(0.02)


async def test_cached_tokens_are_reported_to_those_who_sent_them(chatting: RunningBalancer) -> None:
    llb = chatting
    victim, prober = await llb.create_key("inference"), await llb.create_key("inference")
    # As long as there is no other caller, all are reported.
    path, body = DIALECTS["chat"]
    await ask(llb, victim, path, body(SECRET * 2))
    assert (await ask(llb, victim, path, body(SECRET * 2 + "and more"))).cached > 50
    own, guesses = {}, {}
    for number, (name, (path, body)) in enumerate(DIALECTS.items()):
        secret = f"{number}. {SECRET * 2}"
        await ask(llb, victim, path, body(secret + "1234"))
        guesses[name] = guess = await ask(llb, prober, path, body(secret + "9999"))
        assert guess.cached == 0, name
        # Tokens that are not reported as cached count as computed.
        assert guess.computed == 0 or guess.computed > 90, name
        # His own prompt, once more.
        own[name] = await ask(llb, prober, path, body(secret + "9999"))
    assert await recorded(llb, own["aggregated"]) > 90
    for name, guess in guesses.items():
        assert await recorded(llb, guess) == 0, name
        assert await recorded(llb, own[name]) > 90, name


async def test_only_the_callers_part_of_a_conversation_is_reported_as_cached(
    chatting: RunningBalancer,
) -> None:
    llb = chatting
    victim, prober = await llb.create_key("inference"), await llb.create_key("inference")
    path = "/v1/chat/completions"
    known = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "Yes?"}]
    secret = [*known, {"role": "user", "content": SECRET * 2}]
    await ask(llb, victim, path, {**chat(""), "messages": secret})
    await ask(llb, prober, path, {**chat(""), "messages": known[:1]})
    # All of the guess is in the cache, of which the prober has sent the first turn.
    await ask(llb, victim, path, {**chat(""), "messages": secret})
    guess = [*known, {"role": "user", "content": SECRET * 2 + "?"}]
    answer = await ask(llb, prober, path, {**chat(""), "messages": guess})
    assert len(SECRET) < answer.cached < len(SECRET) + 30
    assert await recorded(llb, answer) == answer.cached

    # A system prompt precedes the turns, so the prober's own turns explain nothing.
    await ask(llb, prober, "/v1/messages", chat("Hello"))
    await ask(llb, victim, "/v1/messages", chat("Hello", system=SECRET * 2))
    assert (await ask(llb, prober, "/v1/messages", chat("Hello", system=SECRET * 2))).cached == 0


async def test_the_port_without_keys_is_another_owner(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    """Ollama's dialect tells no cached tokens; its totals stay those of the whole prompt."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "c.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, parallel=1, ollama_port=0).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    key = await llb.create_key("inference")
    path = "/v1/chat/completions"
    await ask(llb, key, path, chat(SECRET * 2))
    url = f"http://127.0.0.1:{llb.ollama_port}"
    answer = await llb.http.post(f"{url}{path}", json={"model": "chat", **chat(SECRET * 2 + "?")})
    usage = answer.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    native = await llb.http.post(
        f"{url}/api/chat",
        json={"model": "chat", "messages": [{"role": "user", "content": SECRET * 2}], "stream": False,
              "options": {"num_predict": 2}},
    )  # fmt: skip
    assert json.loads(native.text)["prompt_eval_count"] > 90
