"""Answers of endpoints that callbacks pass on: what clients and the history get is what a task gives them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from llb.front.protocol import FrontProtocol
from llb.front.request import FrontRequest
from llb.gateway.endpoints import answer as answer_module
from tests.balancer.endpoints.program import (
    DONE,
    USAGE_CHUNK,
    Answer,
    Program,
    chat_answer,
    chunk,
    model_list,
    run_program,
    stream_of,
)
from tests.conftest import balancer_factory
from tests.gateway.fake_engine import SSE_HEAD, Exchange
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
# A task answers for an endpoint that must not be silent for 15 s. No answer here takes as long, however busy
# this machine is.
TIMEOUTS_S = {"direct": 60, "a-task": 14}
PRICES = {"*": {"input": 1000.0, "output": 1000.0}}
FINISH = chunk({}, finish_reason="stop")
COMPLETE = stream_of(
    chunk({"role": "assistant"}),
    chunk({"content": "hel"}),
    chunk({"content": "lo"}),
    FINISH,
    USAGE_CHUNK,
    DONE,
)
ERROR = b'data: {"error":{"message":"no memory"}}\n\n'
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
    "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 2},
}  # fmt: skip


def message_event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = message_event("message_start", message={**MESSAGE, "content": [], "stop_reason": None})
TEXT = message_event(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
) + message_event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"})
STOP = (
    message_event("content_block_stop", index=0)
    + message_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
    + message_event("message_stop")
)
OVERLOADED = message_event("error", error={"type": "overloaded_error", "message": "overloaded"})


async def break_off(exchange: Exchange) -> None:
    await exchange.send(SSE_HEAD)
    await exchange.send_chunk(chunk({"content": "half"}))
    exchange.abort()


async def send_page(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>")


async def send_short(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    exchange.close_after_response = True


async def send_in_parts(exchange: Exchange) -> None:
    body = json.dumps(chat_answer()).encode()
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    await exchange.send(body[:20])
    await exchange.send(body[20:])


ROLE, CONTENT = chunk({"role": "assistant"}), chunk({"content": "a"})
FAILED_MESSAGE = {"type": "error", "error": {"message": "overloaded"}}
# Kind, answer, whether the client asks for a stream, whether callbacks can answer to the end.
CASES: dict[str, tuple[str, Answer, bool, bool]] = {
    "document": ("vllm", chat_answer(), False, True),
    "document in parts": ("vllm", send_in_parts, False, True),
    "stream": ("vllm", COMPLETE, True, True),
    "first events in one read": ("vllm", stream_of(ROLE + CONTENT + FINISH + DONE), True, True),
    "stream without content": ("vllm", stream_of(ROLE, DONE), True, False),
    "error before content": ("vllm", stream_of(ERROR), True, False),
    "error after content": ("vllm", stream_of(CONTENT, ERROR), True, False),
    "broken off": ("vllm", break_off, True, False),
    "page": ("vllm", send_page, False, False),
    "document for a stream": ("vllm", chat_answer(), True, False),
    "stream for a document": ("vllm", stream_of(DONE), False, False),
    "short": ("vllm", send_short, False, False),
    "refused": ("vllm", (400, {"error": {"message": "bad"}}), False, False),
    "busy": ("vllm", (429, {"error": {"message": "later"}}), False, False),
    "failed": ("vllm", (500, {"error": {"message": "broken"}}), False, False),
    "a defect of llb": ("vllm", COMPLETE, True, False),
    "translated document": ("anthropic", MESSAGE, False, True),
    "translated stream": ("anthropic", stream_of(START, TEXT, STOP), True, True),
    "untranslatable document": ("anthropic", FAILED_MESSAGE, False, False),
    "translated error before content": ("anthropic", stream_of(START, OVERLOADED), True, False),
    "translated error with the content": ("anthropic", stream_of(START, TEXT + OVERLOADED), True, False),
    "translated error after content": ("anthropic", stream_of(START, TEXT, OVERLOADED), True, False),
    "translated and without an end": ("anthropic", stream_of(START, TEXT), True, False),
}
ROW = ("status", "error_code", "prompt_tokens", "completion_tokens", "cost_usd")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBalancer]:
    folder = tmp_path_factory.mktemp("front")
    catalog = write_catalog(folder / "catalog.json", {"id": "tiny", "size_bytes": 1000})
    with HubStandIn() as hub:
        async with balancer_factory(folder / "home", hub, catalog) as make:
            yield await make().start()


@pytest_asyncio.fixture(loop_scope="module")
async def programs(
    front: RunningBalancer, request: pytest.FixtureRequest
) -> AsyncIterator[dict[str, Program]]:
    """A program behind each of `TIMEOUTS_S`, of the kind of the case."""
    kind = request.param
    lists: dict[str, Answer] = {"/v1/models": {**model_list("m"), "has_more": False}}
    async with run_program(dict(lists)) as direct, run_program(dict(lists)) as task:
        made = dict(zip(TIMEOUTS_S, (direct, task), strict=True))
        ids = []
        for name, program in made.items():
            added = await front.http.post(
                "/api/endpoints",
                json={
                    "base_url": program.url,
                    "name": name,
                    "kind": kind,
                    "key": "k",
                    "timeout_s": TIMEOUTS_S[name],
                    "prices": PRICES,
                },
            )
            assert added.status_code == 201, added.text
            ids.append(added.json()["id"])
        yield made
        for endpoint_id in ids:
            await front.http.delete(f"/api/endpoints/{endpoint_id}")


def comparable(content: bytes, name: str) -> bytes:
    """An answer without what differs between any two: ids, times, the name of the endpoint."""
    content = re.sub(rb'"(id|request_id)":"[^"]*"|"created":\d+', b"", content)
    return content.replace(name.encode(), b"NAME")


@pytest.mark.parametrize(
    ("programs", "case"), [(kind, name) for name, (kind, *_) in CASES.items()], indirect=["programs"]
)
async def test_callbacks_and_a_task_give_the_same(
    front: RunningBalancer, programs: dict[str, Program], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, given, stream, is_direct = CASES[case]
    tasks = 0
    answer = FrontProtocol._answer

    async def count_tasks(connection: FrontProtocol, request: FrontRequest) -> None:
        nonlocal tasks
        tasks += 1
        await answer(connection, request)

    monkeypatch.setattr(FrontProtocol, "_answer", count_tasks)
    if case == "a defect of llb":
        monkeypatch.setattr(answer_module.EndpointAnswerSink, "_rewrite_chunks", lambda *_: 1 / 0)
    path = MESSAGES if kind == "anthropic" else CHAT
    # Only a key is admitted again without a task.
    headers = {"Authorization": f"Bearer {await front.create_key('inference', 'cloud')}"}
    outcomes: list[dict[str, Any]] = []
    separator = ":" if kind == "anthropic" else "/"
    for name, program in programs.items():
        body = {"model": f"{name}{separator}m", "messages": [{"role": "user", "content": "Say hello."}]}
        # From here on the connections exist, and the endpoint is healthy.
        program.answers[path] = MESSAGE if kind == "anthropic" else chat_answer()
        first = await front.http.post(CHAT, json={**body, "stream": False}, headers=headers)
        assert first.status_code == 200, first.text
        program.answers[path] = given
        tasks = 0
        got = await front.http.post(CHAT, json={**body, "stream": stream}, headers=headers)
        assert tasks == (0 if is_direct and name == "direct" else 1)
        [newest] = (await front.http.get("/api/requests", params={"limit": 1})).json()["requests"]
        outcomes.append(
            {
                "status": got.status_code,
                "type": got.headers["content-type"],
                "content": comparable(got.content, name),
                "row": {key: newest[key] for key in ROW},
                "busy": front.app.gateway.endpoint_service.require(name).shared_slots.busy,
            }
        )
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0]["row"]["error_code"] is None) == (is_direct or case == "stream without content")


@pytest.mark.parametrize("programs", ["vllm"], indirect=True)
async def test_an_answer_without_an_end_is_cut(
    front: RunningBalancer, programs: dict[str, Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(CONTENT)
        while not exchange.client_closed.is_set():
            await exchange.send_chunk(chunk({"content": "x" * 1000}))

    monkeypatch.setattr(answer_module, "MAX_ANSWER_BYTES", 100_000)
    headers = {"Authorization": f"Bearer {await front.create_key('inference')}"}
    body = {"model": "direct/m", "messages": [{"role": "user", "content": "Say hello."}], "stream": True}
    for given in (COMPLETE, flood):
        programs["direct"].answers[CHAT] = given
        got = await front.http.post(CHAT, json=body, headers=headers)
    assert got.content.endswith(b'"code":"endpoint_failed"}}\n\n')
    assert len(got.content) < 200_000
