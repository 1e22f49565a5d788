"""Endpoints that hang, lie, flood, or send somewhere else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llb.gateway.endpoints import answer, probe_client
from tests.balancer.endpoints.program import (
    DONE,
    Program,
    chat_answer,
    chunk,
    model_list,
    run_program,
    stream_of,
)
from tests.conftest import balancer_factory
from tests.gateway.fake_engine import SSE_HEAD, Exchange
from tests.harness import DEADLINE_S, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "box/m", "messages": [{"role": "user", "content": "Say hello."}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBalancer]:
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            yield await make().start()


@pytest_asyncio.fixture(loop_scope="module")
async def box(front: RunningBalancer) -> AsyncIterator[Program]:
    """The program behind the endpoint `box`."""
    async with run_program({"/v1/models": model_list("m")}) as program:
        added = await front.http.post("/api/endpoints", json={"base_url": program.url, "name": "box"})
        assert added.status_code == 201, added.text
        yield program
        await front.http.delete(f"/api/endpoints/{added.json()['id']}")


async def chat(front: RunningBalancer, **fields: Any) -> httpx.Response:
    return await front.http.post(CHAT, json={**BODY, **fields})


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_one_that_hangs(front: RunningBalancer, box: Program) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.client_closed.wait()

    box.answers[CHAT] = hang
    assert (await front.http.patch("/api/endpoints/box", json={"timeout_s": 1})).status_code == 200
    assert code_of(await chat(front)) == (504, "endpoint_timeout")


async def test_one_that_floods_with_interim_responses(front: RunningBalancer, box: Program) -> None:
    async def flood(exchange: Exchange) -> None:
        while not exchange.client_closed.is_set():
            await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)

    box.answers[CHAT] = flood
    assert code_of(await chat(front)) == (502, "endpoint_failed")


async def test_one_whose_answer_is_shorter_than_its_length(front: RunningBalancer, box: Program) -> None:
    async def lie(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        exchange.close_after_response = True

    box.answers[CHAT] = lie
    assert code_of(await chat(front)) == (502, "endpoint_failed")


async def test_one_that_answers_with_something_else(front: RunningBalancer, box: Program) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 17\r\n\r\n<script></script>"
        )

    for asked_for, given in ((True, chat_answer()), (False, stream_of(DONE)), (False, page)):
        box.answers[CHAT] = given
        assert code_of(await chat(front, stream=asked_for)) == (502, "endpoint_failed")
        # Three failures in a row would open the breaker.
        box.answers[CHAT] = chat_answer()
        assert (await chat(front)).status_code == 200


async def test_a_key_in_a_header_is_not_passed_on(front: RunningBalancer, box: Program) -> None:
    [endpoint] = (await front.http.get("/api/endpoints")).json()["endpoints"]
    path, secret = f"/api/endpoints/{endpoint['id']}", "sk-provider-0123456789abcdef"
    assert (await front.http.patch(path, json={"key": secret})).status_code == 200

    async def echo(exchange: Exchange) -> None:
        body = json.dumps(chat_answer()).encode()
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-ratelimit-limit-requests: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (secret.encode(), len(body), body)
        )

    box.answers[CHAT] = echo
    answer = await chat(front)
    assert answer.status_code == 200
    assert "x-ratelimit-limit-requests" in answer.headers
    assert secret not in str(answer.headers)
    await front.http.patch(path, json={"key": None})


async def test_one_that_never_ends(
    front: RunningBalancer, box: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "MAX_ANSWER_BYTES", 100_000)

    async def endless(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        while not exchange.client_closed.is_set():
            await exchange.send_chunk(chunk({"content": "x" * 1000}))

    box.answers[CHAT] = endless
    streamed = await chat(front, stream=True)
    assert streamed.status_code == 200
    assert b'"code":"endpoint_failed"' in streamed.content[-500:]
    assert len(streamed.content) < 200_000


async def test_one_that_breaks_off_after_content(front: RunningBalancer, box: Program) -> None:
    async def break_off(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(chunk({"content": "half"}))
        exchange.abort()

    box.answers[CHAT] = break_off
    streamed = await chat(front, stream=True)
    assert b"half" in streamed.content
    assert b'"code":"endpoint_failed"' in streamed.content
    [newest] = (await front.http.get("/api/requests", params={"limit": 1})).json()["requests"]
    assert (newest["status"], newest["error_code"]) == (200, "endpoint_failed")


async def test_one_with_an_endless_list(
    front: RunningBalancer, box: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_client, "MAX_DOCUMENT_BYTES", 1000)
    async with run_program({"/v1/models": model_list(*(f"m{n}" for n in range(1000)))}) as program:
        refused = await front.http.post("/api/endpoints", json={"base_url": program.url})
        assert code_of(refused) == (400, "endpoint_unreachable")


async def test_names_in_a_list_are_only_text(front: RunningBalancer) -> None:
    names = ("../../api", "http://169.254.169.254/", "a\r\nb", "x" * 1000, "", "ok?x=1#y")
    async with run_program({"/v1/models": model_list(*names), CHAT: chat_answer()}) as program:
        added = (
            await front.http.post("/api/endpoints", json={"base_url": program.url, "name": "odd"})
        ).json()
        listed = [model["id"] for model in added["models"]]
        assert listed == ["../../api", "http://169.254.169.254/", "ok?x=1#y"]
        for name in listed:
            answered = await front.http.post(CHAT, json={**BODY, "model": f"odd/{name}"})
            assert answered.status_code == 200, answered.text
        assert {exchange.path for exchange in program.exchanges if exchange.method == "POST"} == {CHAT}
        assert [body["model"] for body in program.bodies] == listed
        await front.http.delete(f"/api/endpoints/{added['id']}")


async def test_a_name_that_changes_its_address(
    front: RunningBalancer, box: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connect checks the address: DNS rebinding."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo
    resolved = "127.0.0.1"

    async def resolve(host: Any, port: Any, **options: Any) -> Any:
        if host == "engine.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (resolved, port))]
        return await real(host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    box.answers[CHAT] = chat_answer()
    url = f"http://engine.example:{box.port}"
    added = await front.http.post("/api/endpoints", json={"base_url": url, "name": "moves"})
    assert added.status_code == 201, added.text
    assert (await chat(front, model="moves/m")).status_code == 200
    resolved = "169.254.169.254"
    front.app.cluster.http_client.close_idle(front.app.gateway.endpoint_service.require("moves").target)
    refused = await chat(front, model="moves/m")
    assert code_of(refused) == (502, "endpoint_failed")
    assert "169.254" not in refused.text
    again = await front.http.post("/api/endpoints", json={"base_url": url, "name": "again"})
    assert code_of(again) == (400, "address_not_allowed")
    await front.http.delete(f"/api/endpoints/{added.json()['id']}")


async def test_a_client_that_leaves_is_gone_at_the_endpoint(front: RunningBalancer, box: Program) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        try:
            await exchange.send(SSE_HEAD)
            while not exchange.client_closed.is_set():
                await exchange.send_chunk(chunk({"content": "one"}))
                begun.set()
                # Whether the client has left shows when something is written.
                await asyncio.sleep(0.01)
        finally:
            left.set()

    box.answers[CHAT] = slow
    async with front.http.stream("POST", CHAT, json={**BODY, "stream": True}) as streamed:
        await begun.wait()
        assert await anext(streamed.aiter_bytes())
    await asyncio.wait_for(left.wait(), DEADLINE_S)
    endpoint = front.app.gateway.endpoint_service.require("box")
    await wait_until(lambda: endpoint.shared_slots.busy == 0)


async def test_fast_failures_attract_no_requests(front: RunningBalancer, box: Program) -> None:
    """Two places have a model, one fails at once: it is left out after a few requests."""
    box.answers[CHAT] = (500, {"error": "broken"})
    async with run_program({"/v1/models": model_list("m"), CHAT: chat_answer()}) as good:
        other = await front.http.post("/api/endpoints", json={"base_url": good.url, "name": "good"})
        for name in ("box", "good"):
            mapped = await front.http.patch(f"/api/endpoints/{name}", json={"mapped": {"m": "tiny"}})
            assert mapped.status_code == 200, mapped.text
        answers = [await chat(front, model="tiny") for _ in range(12)]
        assert {answer.headers["x-llb-node"] for answer in answers} == {"good"}
        assert len(box.bodies) <= 3
        box.answers[CHAT] = stream_of(chunk({"content": "hi"}), DONE)
        await front.http.delete(f"/api/endpoints/{other.json()['id']}")


async def test_clients_notice_nothing_of_an_endpoint_that_dies(front: RunningBalancer, box: Program) -> None:
    """32 clients at two places, one of which refuses, hangs up, is rate limited, and returns."""
    failures = [(500, {}), (429, {"error": "slow down"}), (503, {"error": "full"}), None]
    asked = 0

    async def fail(exchange: Exchange) -> None:
        nonlocal asked
        failure = failures[asked % len(failures)]
        asked += 1
        if failure is None:
            exchange.abort()
        else:
            await exchange.send_json(b"{}", failure[0])

    box.answers[CHAT] = fail
    async with run_program({"/v1/models": model_list("m"), CHAT: chat_answer()}) as good:
        other = await front.http.post("/api/endpoints", json={"base_url": good.url, "name": "good"})
        for name in ("box", "good"):
            await front.http.patch(f"/api/endpoints/{name}", json={"mapped": {"m": "tiny"}})

        async def client() -> list[int]:
            return [(await chat(front, model="tiny")).status_code for _ in range(6)]

        statuses = await asyncio.gather(*(client() for _ in range(32)))
        assert {status for each in statuses for status in each} == {200}
        box.answers[CHAT] = chat_answer()
        known = front.app.gateway.endpoint_service.require("box")
        front.app.gateway.endpoints.reset_health(known)
        await front.http.post("/api/endpoints/box/check")
        await asyncio.gather(*(client() for _ in range(32)))
        assert any(exchange.method == "POST" for exchange in box.exchanges[-40:])
        await front.http.delete(f"/api/endpoints/{other.json()['id']}")
