"""What requests to endpoints cost, and budgets, through the API of one balancer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.balancer.endpoints.matrix import model_of
from tests.harness import RunningBalancer
from tests.providers import ProviderStandIn

DEADLINE_S = 20.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    assert (
        f'llb_cost_usd_total{{model="{model_of("openai", stand_ins["openai"])}"}}'
        in (await llb.http.get("/metrics")).text
    )


@pytest_asyncio.fixture(loop_scope="module")
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


async def test_what_may_be_billed_is_reserved_and_booked(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn], budgets: Any
) -> None:
    stand_in = stand_ins["openai"]
    [endpoint] = [
        each
        for each in (await llb.http.get("/api/endpoints")).json()["endpoints"]
        if each["name"] == "openai"
    ]
    # A token of an answer costs a cent.
    rates = {stand_in.provider.models[0].id: {"input": 0.0, "output": 10_000.0}}
    await llb.http.patch(f"/api/endpoints/{endpoint['id']}", json={"prices": rates})
    limit = {"scope": "provider", "id": endpoint["id"], "period": "day", "limit_usd": 1.0}
    await budgets(limit)
    [before] = (await llb.http.get("/api/budgets")).json()["budgets"]
    limit["limit_usd"] = before["used_usd"] + 1.0
    await budgets(limit)
    question: dict[str, Any] = {
        "model": model_of("openai", stand_in),
        "messages": [{"role": "user", "content": "one two"}],
        "max_completion_tokens": 20,
    }
    headers = {"Authorization": f"Bearer {key}"}

    async def ask(**fields: Any) -> httpx.Response:
        body = {**question, **fields}
        return await llb.http.post("/v1/chat/completions", json=body, headers=headers)

    stand_in.clear_requests()
    for fields in ({"max_completion_tokens": 128_000, "n_predict": 0}, {"n": 16}):
        refused = await ask(**fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exceeded"), fields
    refused = await ask(service_tier="priority")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "service_tier")
    assert not stand_in.requests_to("/chat/completions")
    # The provider has the request of a client that leaves before the head of its answer.
    stand_in.add_fault("hang")
    asking = asyncio.create_task(ask())
    await asyncio.to_thread(stand_in.wait_for, "/chat/completions")
    asking.cancel()
    await asyncio.wait({asking})
    async with asyncio.timeout(DEADLINE_S):
        while (await history_of(llb, question["model"]))[0]["error_code"] != "client_closed":
            await asyncio.sleep(0.01)
    [after] = (await llb.http.get("/api/budgets")).json()["budgets"]
    assert after["used_usd"] == pytest.approx(before["used_usd"] + 0.2)
    # An error status is not billed.
    stand_in.clear_faults()
    stand_in.add_fault("status", status=500)
    assert (await ask()).status_code >= 500
    [after_error] = (await llb.http.get("/api/budgets")).json()["budgets"]
    assert after_error["used_usd"] == after["used_usd"]
    await llb.http.patch(f"/api/endpoints/{endpoint['id']}", json={"prices": {}})


AUDIO_PART = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("fields", "part", "is_known", "refusal"),
    [
        # `prices.json` has a priority tier of this model, and no flex tier.
        ({"service_tier": "priority"}, None, True, None),
        ({"service_tier": "flex"}, None, False, (400, "invalid_request")),
        ({"web_search_options": {}}, None, False, (400, "invalid_request")),
        ({}, IMAGE_PART, True, None),
        ({}, AUDIO_PART, False, (402, "budget_exceeded")),
    ],
    ids=["priority", "flex", "search", "image", "audio"],
)
async def test_a_cost_that_is_not_known_is_none_and_refused_under_a_budget(
    llb: RunningBalancer,
    key: str,
    stand_ins: dict[str, ProviderStandIn],
    budgets: Any,
    fields: dict[str, Any],
    part: dict[str, Any] | None,
    is_known: bool,
    refusal: tuple[int, str] | None,
) -> None:
    model = model_of("openai", stand_ins["openai"])
    content = [{"type": "text", "text": "one two"}, *([] if part is None else [part])]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 5, **fields}
    headers = {"Authorization": f"Bearer {key}"}
    answer = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    [latest, *_] = await history_of(llb, model)
    assert (latest["cost_usd"] is not None) == is_known
    if fields == {"service_tier": "priority"}:
        expected_usd = (latest["prompt_tokens"] * 0.25 + latest["completion_tokens"] * 1.0) / 1e6
        assert latest["cost_usd"] == pytest.approx(expected_usd)
    await budgets({"scope": "provider", "id": "openai", "period": "day", "limit_usd": 1000.0})
    limited = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
    if refusal is None:
        assert limited.status_code == 200, limited.text
    else:
        assert (limited.status_code, limited.json()["error"]["code"]) == refusal


async def test_an_administrator_prices_a_service_tier(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn], budgets: Any
) -> None:
    model = model_of("openai", stand_ins["openai"])
    endpoints = (await llb.http.get("/api/endpoints")).json()["endpoints"]
    path = next(f"/api/endpoints/{each['id']}" for each in endpoints if each["name"] == "openai")
    rates = {"input": 2.0, "output": 4.0, "service_tiers": {"batch": {"input": 1.0, "output": 2.0}}}
    assert (await llb.http.patch(path, json={"prices": {"*": rates}})).status_code == 200
    await budgets({"scope": "provider", "id": "openai", "period": "day", "limit_usd": 1000.0})
    body = {"model": model, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 5}
    headers = {"Authorization": f"Bearer {key}"}
    for tier, factor in ((None, 2.0), ("batch", 1.0)):
        fields = {} if tier is None else {"service_tier": tier}
        answer = await llb.http.post("/v1/chat/completions", json={**body, **fields}, headers=headers)
        assert answer.status_code == 200, answer.text
        [latest, *_] = await history_of(llb, model)
        usd = factor * (latest["prompt_tokens"] + 2 * latest["completion_tokens"]) / 1e6
        assert latest["cost_usd"] == pytest.approx(usd)
    # Without a price it is refused, not free.
    refused = await llb.http.post(
        "/v1/chat/completions", json={**body, "service_tier": "flex"}, headers=headers
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "service_tier")
    bad = await llb.http.patch(path, json={"prices": {"*": {"input": -1}}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "prices")
    assert (await llb.http.patch(path, json={"prices": {}})).status_code == 200


async def test_a_client_that_leaves_is_billed_for_what_was_generated(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    for kind in ("openai", "anthropic", "google"):
        stand_in = stand_ins[kind]
        model = model_of(kind, stand_in)
        stand_in.clear_requests()
        stand_in.add_fault("endless_stream", after=4)
        body = {"model": model, "messages": [{"role": "user", "content": "one two"}], "stream": True}
        headers = {"Authorization": f"Bearer {key}"}
        async with llb.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status_code == 200
            received = 0
            async for data in answer.aiter_bytes():
                received += len(data)
                if received > 20_000:
                    break
        path = "/messages" if kind == "anthropic" else "/chat/completions"
        await asyncio.to_thread(stand_in.wait_for, path, left=True)
        async with asyncio.timeout(DEADLINE_S):
            while (latest := (await history_of(llb, model))[0])["error_code"] != "client_closed":
                await asyncio.sleep(0.01)
        assert latest["cost_usd"] > 0


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_refused_or_failed_request_costs_nothing(
    kind: str, llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins[kind]
    model = model_of(kind, stand_in)
    body = {"model": model, "messages": [{"role": "user", "content": "one two"}]}
    headers = {"Authorization": f"Bearer {key}"}
    for fault in ({"status": 400}, {"status": 500}):
        stand_in.add_fault("status", **fault)
        answer = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code >= 400
        [latest, *_] = await history_of(llb, model)
        assert not latest["cost_usd"]


async def test_an_answer_without_content_ends(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    stand_in = stand_ins["anthropic"]
    model = model_of("anthropic", stand_in)
    # Pings for ever.
    stand_in.add_fault("endless_stream", after=1)
    body = {"model": model, "messages": [{"role": "user", "content": "one two"}], "stream": True}
    answer = await llb.http.post(
        "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "endpoint_failed")
    [latest, *_] = await history_of(llb, model)
    assert not latest["cost_usd"]


async def test_where_the_budget_of_a_provider_is_spent_a_rule_leads_to_a_free_model(
    llb: RunningBalancer, key: str, stand_ins: dict[str, ProviderStandIn]
) -> None:
    cloud, local = (model_of(kind, stand_ins[kind]) for kind in ("google", "vllm"))
    body = {"model": cloud, "messages": [{"role": "user", "content": "one two"}]}
    headers = {"Authorization": f"Bearer {key}"}
    limit = {"scope": "provider", "id": "google", "period": "month", "limit_usd": 0}
    rule = {"routes": [{"target": local, "when": ["unavailable"]}]}
    assert (await llb.http.put("/api/budgets", json={"budgets": [limit]})).status_code == 200
    refused = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exceeded")
    assert (await llb.http.put(f"/api/models/{cloud}/routes", json=rule)).status_code == 200
    answer = await llb.http.post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.headers["x-llb-node"]) == (200, "vllm")
    assert (await history_of(llb, local))[0]["cost_usd"] == 0.0
    await llb.http.put(f"/api/models/{cloud}/routes", json={"routes": []})
    await llb.http.put("/api/budgets", json={"budgets": []})
