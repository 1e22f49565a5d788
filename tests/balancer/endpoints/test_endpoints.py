"""Endpoints through the API of one balancer: adding, names, answers, keys, faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.balancer.endpoints.program import (
    DONE,
    USAGE_CHUNK,
    Program,
    chat_answer,
    chunk,
    model_list,
    run_program,
    stream_of,
)
from tests.conftest import balancer_factory
from tests.gateway.fake_engine import Exchange
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = [{"role": "user", "content": "Say hello."}]
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBalancer]:
    """A balancer without models of its own."""
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            yield await make().start()


@pytest_asyncio.fixture(loop_scope="module")
async def program() -> AsyncIterator[Program]:
    async with run_program({"/v1/models": model_list("m", max_model_len=4096)}) as running:
        running.answers[CHAT] = chat_answer()
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def endpoint(front: RunningBalancer, program: Program) -> AsyncIterator[dict[str, Any]]:
    """An endpoint called `box` with the model `m`, which is removed at the end."""
    added = await add(front, program, name="box")
    yield added
    await front.http.delete(f"/api/endpoints/{added['id']}")


async def add(front: RunningBalancer, program: Program, **fields: Any) -> dict[str, Any]:
    answer = await front.http.post("/api/endpoints", json={"base_url": program.url, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def chat(front: RunningBalancer, model: str, **fields: Any) -> httpx.Response:
    return await front.http.post(CHAT, json={"model": model, "messages": QUESTION, **fields})


async def test_an_endpoint_is_detected_listed_and_removed(front: RunningBalancer, program: Program) -> None:
    added = await add(front, program, name="box")
    assert (added["kind"], added["status"], added["cloud"]) == ("vllm", "healthy", False)
    assert [(model["served_as"], model["context_length"]) for model in added["models"]] == [("box/m", 4096)]
    listed = (await front.http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in listed] == [("box/m", "box")]
    assert (await front.http.delete(f"/api/endpoints/{added['id']}")).status_code == 204
    assert (await front.http.get("/v1/models")).json()["data"] == []
    assert (await chat(front, "box/m")).status_code == 404


async def test_a_chat_passes_with_the_model_name_alone_changed(
    front: RunningBalancer, program: Program, endpoint: dict[str, Any]
) -> None:
    answer = await chat(front, "box/m", temperature=0.5, keep_alive="5m", id_slot=-1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-llb-node"] == "box"
    assert answer.json() == chat_answer(model="box/m")
    assert program.bodies == [{"model": "m", "messages": QUESTION, "temperature": 0.5}]
    # By the bare name, which only this endpoint has.
    assert (await chat(front, "m")).json()["model"] == "box/m"


async def test_usage_of_a_stream_is_asked_for_and_taken_out_again(
    front: RunningBalancer, program: Program, endpoint: dict[str, Any]
) -> None:
    program.answers[CHAT] = stream_of(
        chunk({"role": "assistant"}), chunk({"content": "hi"}), USAGE_CHUNK, DONE
    )
    plain = await chat(front, "box/m", stream=True)
    assert program.bodies[-1]["stream_options"] == {"include_usage": True}
    assert b'"usage"' not in plain.content
    assert plain.content.endswith(DONE)
    assert b'"model": "box/m"' in plain.content
    asked = await chat(front, "box/m", stream=True, stream_options={"include_usage": True})
    assert b'"usage"' in asked.content
    page = (await front.http.get("/api/requests", params={"endpoint": endpoint["id"]})).json()
    newest = page["requests"][0]
    assert (newest["endpoint_id"], newest["node_id"], newest["node_name"]) == (endpoint["id"], None, "box")
    assert (newest["prompt_tokens"], newest["completion_tokens"]) == (5, 2)
    totals = (await front.http.get("/api/usage", params={"by": "node"})).json()["usage"]
    [total] = [total for total in totals if total["key"] == endpoint["id"]]
    assert (total["endpoint_id"], total["name"]) == (endpoint["id"], "box")


async def test_an_error_event_before_the_content_leads_elsewhere(
    front: RunningBalancer, program: Program, endpoint: dict[str, Any]
) -> None:
    program.answers[CHAT] = stream_of(chunk({"role": "assistant"}), b'data: {"error":{"message":"oom"}}\n\n')
    async with run_program({"/v1/models": model_list("m", max_model_len=4096)}) as other:
        other.answers[CHAT] = stream_of(chunk({"content": "from the other"}), DONE)
        second = await add(front, other, name="second")
        mapped = {"mapped": {"m": "tiny"}}
        for each in (endpoint, second):
            answer = await front.http.patch(f"/api/endpoints/{each['id']}", json=mapped)
            assert answer.status_code == 200, answer.text
        for _ in range(2):
            answer = await chat(front, "tiny", stream=True)
            assert b"from the other" in answer.content
            assert answer.headers["x-llb-node"] == "second"
        await front.http.delete(f"/api/endpoints/{second['id']}")


@pytest.mark.parametrize(
    ("status", "body", "seen_status", "code"),
    [
        (400, {"error": {"message": "bad tools", "param": "tools"}}, 400, "provider_rejected"),
        (400, {"error": {"message": "maximum context length is 10"}}, 400, "context_length_exceeded"),
        (401, {"error": {"message": "bad key sk-abcdefghijklmnopqrstuv"}}, 503, "endpoint_unavailable"),
        (429, {"error": {"message": "slow down"}}, 429, "endpoint_rate_limited"),
        (500, {"error": {"message": "at http://10.0.0.1/x"}}, 502, "endpoint_failed"),
        (302, {}, 502, "endpoint_failed"),
    ],
)
async def test_errors_of_the_program(
    front: RunningBalancer,
    program: Program,
    endpoint: dict[str, Any],
    status: int,
    body: dict[str, Any],
    seen_status: int,
    code: str,
) -> None:
    program.answers[CHAT] = (status, body)
    answer = await chat(front, "box/m")
    assert (answer.status_code, answer.json()["error"]["code"]) == (seen_status, code), answer.text
    assert "10.0.0.1" not in answer.text
    assert "abcdefghijkl" not in answer.text


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/v1/models": model_list("m", owned_by="llamacpp")}, "llama.cpp"),
        ({"/v1/models": model_list("m", owned_by="sglang")}, "sglang"),
        ({"/v1/models": model_list("m", owned_by="me")}, "openai-compatible"),
        (
            {"/v1/models": model_list("m", owned_by="library"), "/api/version": {"version": "0.12"},
             "/api/tags": {"models": [{"name": "m:latest"}]}},
            "ollama",
        ),
        (
            {"/v1/models": {"error": "no"}, "/api/v1/models": {"models": [{"key": "m", "type": "llm"}]}},
            "lmstudio",
        ),
        (
            {"/v1/models": model_list("m", owned_by=""), "/.well-known/localai.json": {"version": "3"},
             "/api/tags": {"models": []}, "/api/version": {"version": "0.9"}},
            "localai",
        ),
        ({"/info": {"router": "text-generation-router", "model_id": "m"}}, "tgi"),
    ],
)  # fmt: skip
async def test_kinds_are_told_by_bodies(front: RunningBalancer, answers: dict[str, Any], kind: str) -> None:
    async with run_program(answers) as running:
        added = await add(front, running)
        assert (added["kind"], len(added["models"])) == (kind, 1)
        await front.http.delete(f"/api/endpoints/{added['id']}")


@pytest.mark.parametrize(
    ("base_url", "code"),
    [
        ("http://127.0.0.1:1", "endpoint_unreachable"),
        ("http://169.254.169.254/latest", "address_not_allowed"),
        ("http://[::ffff:169.254.169.254]/v1", "address_not_allowed"),
        ("http://[fe80::1]/v1", "address_not_allowed"),
        ("http://metadata.google.internal", "address_not_allowed"),
        ("http://user:secret@127.0.0.1:9/v1", "invalid_request"),
        ("ftp://127.0.0.1/v1", "invalid_request"),
        ("http://127.0.0.1/v1?key=x", "invalid_request"),
    ],
)
async def test_addresses_that_are_refused(front: RunningBalancer, base_url: str, code: str) -> None:
    answer = await front.http.post("/api/endpoints", json={"base_url": base_url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
    assert "secret" not in answer.text


async def test_what_answers_is_told_apart(front: RunningBalancer) -> None:
    async def code_of(answers: dict[str, Any]) -> str:
        async with run_program(answers) as running:
            answer = await front.http.post("/api/endpoints", json={"base_url": running.url})
            assert answer.status_code == 400
            return str(answer.json()["error"]["code"])

    assert await code_of({"/v1/models": (401, {})}) == "endpoint_needs_key"
    assert await code_of({"/v1/models": {"hello": 1}}) == "endpoint_unknown"
    assert await code_of({"/v1/models": (302, {})}) == "endpoint_unknown"
    own = await front.http.post("/api/endpoints", json={"base_url": front.url})
    assert own.json()["error"]["code"] == "address_not_allowed"


async def test_a_key_is_encrypted_and_never_shown(front: RunningBalancer, program: Program) -> None:
    key = "sk-provider-0123456789abcdef"
    added = await add(front, program, name="keyed", key=key)
    assert added["key"]["last_four"] == "cdef"
    await chat(front, "keyed/m")
    assert dict(program.exchanges[-1].headers)["authorization"] == f"Bearer {key}"
    row = await front.app.db.fetch_one("SELECT key FROM endpoints WHERE name = 'keyed'")
    assert row is not None
    assert key not in row["key"]
    moved = await front.http.patch(f"/api/endpoints/{added['id']}", json={"base_url": "http://127.0.0.1:9"})
    assert moved.json()["error"]["code"] == "endpoint_needs_key"
    for path in ("/api/endpoints", "/api/audit", "/api/requests"):
        assert key not in (await front.http.get(path)).text
    user_key = await front.create_key("inference", "models:read")
    seen = await httpx_get(front, f"/api/endpoints/{added['id']}", user_key)
    assert (seen["base_url"], seen["key"]["last_four"], seen["last_error"]) == (None, None, None)
    await front.http.delete(f"/api/endpoints/{added['id']}")


async def test_changes_at_the_same_time_follow_one_another(front: RunningBalancer, program: Program) -> None:
    added = await add(front, program, name="moving", key="sk-provider-0123456789-first")
    path, new_key = f"/api/endpoints/{added['id']}", "sk-provider-0123456789-second"
    asked, go = asyncio.Event(), asyncio.Event()

    async def list_slowly(exchange: Exchange) -> None:
        asked.set()
        await go.wait()
        await exchange.send_json(json.dumps(model_list("m")).encode(), 200)

    async with run_program({"/v1/models": list_slowly, CHAT: chat_answer()}) as elsewhere:
        move = {"base_url": elsewhere.url, "key": new_key, "kind": "vllm"}
        moving = asyncio.create_task(front.http.patch(path, json=move))
        await asked.wait()
        weighing = asyncio.create_task(front.http.patch(path, json={"weight": 2.0}))
        # Later than the change above.
        for _ in range(3):
            await front.http.get("/api/endpoints")
        go.set()
        for answer in await asyncio.gather(moving, weighing):
            assert answer.status_code == 200, answer.text
        changed = (await front.http.get(path)).json()
        assert (changed["base_url"], changed["weight"]) == (elsewhere.url, 2.0)
        assert (await chat(front, "moving/m")).status_code == 200
        assert dict(elsewhere.exchanges[-1].headers)["authorization"] == f"Bearer {new_key}"
        sent = [dict(exchange.headers).get("authorization") for exchange in program.exchanges]
        assert f"Bearer {new_key}" not in sent
        # A change that waits for a removal finds nothing.
        gone = await asyncio.gather(front.http.delete(path), front.http.patch(path, json={"weight": 3.0}))
        assert gone[0].status_code == 204
        assert gone[1].status_code in (200, 404)
        assert (await front.http.get(path)).status_code == 404


async def httpx_get(front: RunningBalancer, path: str, key: str) -> dict[str, Any]:
    answer = await front.http.get(path, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_clouds_need_their_scope(front: RunningBalancer, program: Program) -> None:
    added = await add(front, program, name="far", cloud=True)
    assert added["models"][0]["served_as"] == "far:m"
    listed = await front.http.get("/v1/models")
    assert listed.headers["x-cache-status"] in ("HIT", "MISS")
    assert "far:m" in listed.text
    assert (await chat(front, "far:m")).status_code == 200
    plain = {"Authorization": f"Bearer {await front.create_key('inference')}"}
    refused = await front.http.post(CHAT, json={"model": "far:m", "messages": QUESTION}, headers=plain)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "cloud_not_allowed")
    assert "far:m" not in (await front.http.get("/v1/models", headers=plain)).text
    assert (await front.http.get("/v1/models/far:m", headers=plain)).status_code == 404
    assert (await front.http.get("/v1/models/far:m")).json()["owned_by"] == "far"
    # A cloud is asked for by its prefix only.
    assert (await chat(front, "m")).status_code == 404
    may = {"Authorization": f"Bearer {await front.create_key('inference', 'cloud')}"}
    allowed = await front.http.post(CHAT, json={"model": "far:m", "messages": QUESTION}, headers=may)
    assert allowed.status_code == 200
    await front.http.delete(f"/api/endpoints/{added['id']}")


async def test_changes_are_announced(front: RunningBalancer, program: Program) -> None:
    async with front.open_event_stream() as events:
        added = await add(front, program, name="told")
        await front.http.patch(f"/api/endpoints/{added['id']}", json={"enabled": False})
        await front.http.delete(f"/api/endpoints/{added['id']}")
        seen: list[tuple[str, bool]] = []
        async for message in events:
            event = json.loads(message)
            if event["type"] == "EndpointStatusChanged" and event["endpoint_id"] == added["id"]:
                seen.append((event["status"], event["removed"]))
                if event["removed"]:
                    break
    assert ("healthy", False) in seen
    assert seen[-2:] == [("disabled", False), ("disabled", True)]


async def test_endpoints_are_known_after_a_restart(tmp_path: Path, program: Program) -> None:
    catalog = write_catalog(tmp_path / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(tmp_path / "home", hub, catalog) as make:
            llb = await make().start()
            await add(llb, program, name="box", key="sk-provider-0123456789abcdef")
            await llb.stop()
            await llb.start()
            assert (await chat(llb, "box/m")).status_code == 200
            await llb.stop()
            (tmp_path / "home" / "secrets.key").unlink()
            await llb.start()
            [box] = (await llb.http.get("/api/endpoints")).json()["endpoints"]
            assert (box["status"], box["key"]["set"]) == ("misconfigured", True)
            assert "secrets.key" in box["last_error"]
            assert (await chat(llb, "box/m")).status_code == 503


async def set_rules(front: RunningBalancer, model: str, *rules: dict[str, Any]) -> None:
    path = f"/api/models/{model.replace('/', '%2F')}/routes"
    answer = await front.http.put(path, json={"routes": rules})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("failure", "trigger"),
    [
        ((503, {"error": "full"}), "unavailable"),
        ((500, {"error": "broken"}), "error"),
        ((429, {"error": "slow down"}), "error"),
        ((400, {"error": {"message": "maximum context length is 10"}}), "context"),
    ],
)
async def test_a_rule_sends_a_failed_request_elsewhere(
    front: RunningBalancer,
    program: Program,
    endpoint: dict[str, Any],
    failure: tuple[int, dict[str, Any]],
    trigger: str,
) -> None:
    program.answers[CHAT] = failure
    async with run_program({"/v1/models": model_list("big"), CHAT: chat_answer(model="big")}) as other:
        second = await add(front, other, name="second")
        # Without a rule nothing goes elsewhere, nor with one for something else.
        assert (await chat(front, "box/m")).status_code == failure[0] or failure[0] == 500
        other_trigger = {"target": "second/big", "when": ["busy"], "after_s": 9}
        await set_rules(front, "box/m", other_trigger)
        assert (await chat(front, "box/m")).status_code != 200
        assert other.bodies == []
        await set_rules(front, "box/m", other_trigger, {"target": "second/big", "when": [trigger]})
        answer = await chat(front, "box/m")
        if failure[0] in (429, 503):
            # The endpoint is not even asked now.
            answer = await chat(front, "box/m")
        assert answer.status_code == 200, answer.text
        assert (answer.headers["x-llb-node"], answer.json()["model"]) == ("second", "second/big")
        assert other.bodies[-1]["model"] == "big"
        await set_rules(front, "box/m")
        assert (await front.http.get("/api/routes")).json() == {"models": []}
        await front.http.delete(f"/api/endpoints/{second['id']}")


async def test_a_busy_endpoint_spills_after_a_wait(
    front: RunningBalancer, program: Program, endpoint: dict[str, Any]
) -> None:
    arrived, may_end = asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        arrived.set()
        await may_end.wait()
        await exchange.send_json(json.dumps(chat_answer()).encode())

    program.answers[CHAT] = slow
    await front.http.patch(f"/api/endpoints/{endpoint['id']}", json={"max_concurrency": 1})
    async with run_program({"/v1/models": model_list("big"), CHAT: chat_answer(model="big")}) as other:
        second = await add(front, other, name="second")
        await set_rules(front, "box/m", {"target": "second/big", "when": ["busy"], "after_s": 0.05})
        first = asyncio.ensure_future(chat(front, "box/m"))
        await arrived.wait()
        assert (await front.http.get(f"/api/endpoints/{endpoint['id']}")).json()["status"] == "busy"
        assert (await chat(front, "box/m")).headers["x-llb-node"] == "second"
        may_end.set()
        assert (await first).headers["x-llb-node"] == "box"
        await set_rules(front, "box/m")
        await front.http.delete(f"/api/endpoints/{second['id']}")


async def test_a_rule_reaches_a_cloud_only_with_the_scope(
    front: RunningBalancer, program: Program, endpoint: dict[str, Any]
) -> None:
    program.answers[CHAT] = (500, {})
    async with run_program({"/v1/models": model_list("big"), CHAT: chat_answer(model="big")}) as other:
        cloud = await add(front, other, name="far", cloud=True)
        await set_rules(front, "box/m", {"target": "far:big", "when": ["error"]})
        plain = {"Authorization": f"Bearer {await front.create_key('inference')}"}
        body = {"model": "box/m", "messages": QUESTION}
        refused = await front.http.post(CHAT, json=body, headers=plain)
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "endpoint_failed")
        assert other.bodies == []
        assert (await chat(front, "box/m")).headers["x-llb-node"] == "far"
        await set_rules(front, "box/m")
        await front.http.delete(f"/api/endpoints/{cloud['id']}")
