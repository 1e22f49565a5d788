"""Rate limits of a key with the real engine: headers, charged tokens, and release after a disconnect."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from llb.gateway.admission.rate_limiter import BYTES_PER_STREAMED_TOKEN
from llb.security.permissions import KeyAllowance
from tests.conftest import BalancerFactory
from tests.harness import DEADLINE_S, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Tell me a story"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def chat(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "list.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


async def limited(llb: RunningBalancer, **limits: int) -> tuple[str, httpx.AsyncClient]:
    made = (await llb.http.post("/api/keys", json={"name": "limited", "limits": limits})).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    return made["id"], httpx.AsyncClient(
        base_url=llb.url, headers=headers, timeout=DEADLINE_S, trust_env=False
    )


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={**QUESTION, "max_tokens": 8, **fields})


def remaining_of(llb: RunningBalancer, key_id: str, what: str) -> int:
    bucket = llb.app.accounts.rate_limiter._rate_limits[key_id]
    headers = llb.app.accounts.rate_limiter.rate_limit_headers([KeyAllowance(key_id, bucket.limits)])
    return int(headers[f"x-ratelimit-remaining-{what}"])


async def test_requests_are_counted_and_limited(chat: RunningBalancer) -> None:
    key_id, client = await limited(chat, requests_per_minute=2)
    async with client:
        for remaining in ("1", "0"):
            answer = await ask(client, stream=remaining == "0")
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == remaining
            assert "x-ratelimit-limit-tokens" not in answer.headers
        refused = await ask(client)
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"].endswith("s")

        await chat.http.patch(f"/api/keys/{key_id}", json={"limits": {"requests_per_minute": 10}})
        assert (await ask(client)).status_code == 200
    await chat.app.gateway.history.flush()
    page = (await chat.http.get("/api/requests", params={"key": key_id})).json()["requests"]
    assert [(row["status"], row["error_code"]) for row in page] == [
        (200, None),
        (429, "rate_limit_exceeded"),
        (200, None),
        (200, None),
    ]


async def test_only_used_tokens_are_charged(chat: RunningBalancer) -> None:
    key_id, client = await limited(chat, tokens_per_minute=100_000)
    async with client:
        for stream in (False, True):
            before = remaining_of(chat, key_id, "tokens") if stream else 100_000
            answer = await ask(client, stream=stream, max_tokens=16)
            assert answer.status_code == 200
            # The bucket fills by 1,667 tokens a second. The header has the value at the start of the answer.
            assert before - 50_000 < int(answer.headers["x-ratelimit-remaining-tokens"]) <= 100_000
    await chat.app.gateway.history.flush()
    used = [
        row["prompt_tokens"] + row["completion_tokens"]
        for row in (await chat.http.get("/api/requests", params={"key": key_id})).json()["requests"]
    ]
    assert len(used) == 2

    slow_id, slow = await limited(chat, tokens_per_minute=60)
    async with slow:
        assert (await ask(slow, max_tokens=16)).status_code == 200
        refused = await ask(slow, max_tokens=60)
        assert refused.status_code == 429
        assert "60 tokens a minute" in refused.json()["error"]["message"]
        assert abs(remaining_of(chat, slow_id, "tokens") - max(0, 60 - max(used))) <= 5


async def test_a_disconnected_client_releases_its_reservations(chat: RunningBalancer) -> None:
    key_id, client = await limited(chat, concurrent=1, tokens_per_minute=1_000_000)
    rate_limiter = chat.app.accounts.rate_limiter
    async with client:
        for stream in (True, False):
            pending = asyncio.ensure_future(ask(client, stream=stream, max_tokens=1000))
            await wait_until(
                lambda: (
                    key_id in rate_limiter._rate_limits
                    and rate_limiter._rate_limits[key_id].active_requests == 1
                )
            )
            refused = await ask(client)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert "at the same time" in refused.json()["error"]["message"]
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await wait_until(lambda: rate_limiter._rate_limits[key_id].active_requests == 0)
        assert (await ask(client)).status_code == 200


async def test_a_key_without_limits_has_no_headers(chat: RunningBalancer) -> None:
    async with httpx.AsyncClient(
        base_url=chat.url,
        headers={"Authorization": f"Bearer {await chat.create_key()}"},
        trust_env=False,
        timeout=60,
    ) as client:
        answer = await ask(client)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert not chat.app.accounts.rate_limiter._rate_limits


async def test_a_streamed_token_has_about_the_assumed_number_of_bytes(
    chat: RunningBalancer,
) -> None:
    _, client = await limited(chat, tokens_per_minute=1_000_000)
    body = {**QUESTION, "max_tokens": 32, "stream": True, "ignore_eos": True}
    async with client:
        for path, prompt in ((CHAT, {}), ("/v1/completions", {"prompt": "Once"})):
            answer = await client.post(path, json={**body, **prompt})
            assert 0.5 < len(answer.content) / 32 / BYTES_PER_STREAMED_TOKEN < 2
