"""Failover: a request whose node fails before its response starts moves to another node unnoticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest

from llb.gateway import dispatcher
from llb.gateway.nodes.route_monitor import RECOVERY_WINDOW_S
from llb.gateway.stream.keepalive import SseKeepalive
from llb.wire import ReplicaReport, ReplicaState
from tests.gateway.fake_node import FakeNode, PendingRequest, run_fake_node
from tests.harness import RunningBalancer, wait_until
from tests.joined_node.wire import HEARTBEAT, LinkClient, join_node, open_link

ANSWER = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"chat","choices":[],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
NAMES = ("cellar", "garage")


class FakeNodes:
    """Two fake nodes with the model `tiny`; the local node is drained."""

    def __init__(self, llb: RunningBalancer) -> None:
        self.llb = llb
        self.nodes: dict[str, FakeNode] = {}
        self.links: dict[str, LinkClient] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> FakeNodes:
        await self.llb.pull_model("tiny")
        for name in NAMES:
            await self._add(name)
        own = self.llb.app.agent.node_id
        answer = await self.llb.http.patch(f"/api/nodes/{own}", json={"draining": True})
        answer.raise_for_status()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _add(self, name: str) -> None:
        joined = await join_node(self.llb, name)
        fake_node = self.nodes[name] = await self._stack.enter_async_context(run_fake_node())
        fake_node.id, fake_node.credential = joined.node_id, joined.hop_credential
        link = self.links[name] = await self._stack.enter_async_context(
            open_link(self.llb, joined.credential)
        )
        held = ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY)
        hello = msgspec.structs.replace(fake_node.build_hello(), replicas=(held,), name=name)
        await link.send(json.loads(msgspec.json.encode(hello)))
        await link.send(HEARTBEAT)
        await wait_until(lambda: self.llb.app.cluster.node_connections.route_of(joined.node_id) is not None)
        await fake_node.wait_until(lambda: bool(fake_node.probe_writers))

    def send_chat(self, **fields: Any) -> asyncio.Task[httpx.Response]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], **fields}
        return asyncio.ensure_future(self.llb.http.post("/v1/chat/completions", json=body))

    async def wait_for_request(self, *excluded: str) -> tuple[str, PendingRequest]:
        """Wait for an unanswered request of a node; returns the node's name and the request."""

        def found() -> list[tuple[str, PendingRequest]]:
            return [
                (name, asked)
                for name, fake_node in self.nodes.items()
                for asked in fake_node.requests
                if name not in excluded and not asked.client_closed.is_set()
            ]

        await wait_until(found)
        [one] = found()
        return one


@pytest.fixture
async def fake_nodes(llb: RunningBalancer) -> AsyncIterator[FakeNodes]:
    async with FakeNodes(llb) as fake_nodes:
        yield fake_nodes


async def send_error(asked: PendingRequest, status: int, code: str) -> None:
    body = {"error": {"message": "of this node", "type": "service_unavailable", "code": code}}
    await asked.respond(json.dumps(body).encode(), f"x-llb-error: {code}".encode(), status=status)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "model_loading"),
        (503, "model_error"),
        (400, "insufficient_memory"),
        (502, "engine_failed"),
        (504, "engine_timeout"),
    ],
)
async def test_what_one_node_cannot_another_can(fake_nodes: FakeNodes, status: int, code: str) -> None:
    asking = fake_nodes.send_chat()
    name, asked = await fake_nodes.wait_for_request()
    await send_error(asked, status, code)
    other, again = await fake_nodes.wait_for_request(name)
    await again.respond(ANSWER)
    answer = await asking
    assert (answer.status_code, answer.content) == (200, ANSWER)
    assert answer.headers["x-llb-node"] == other
    # It rejected the request but is reachable: the next request may go to it.
    assert fake_nodes.llb.app.cluster.node_connections.route_of(fake_nodes.nodes[name].id) is not None


@pytest.mark.parametrize(("status", "code"), [(503, "model_loading"), (400, "insufficient_memory")])
async def test_where_none_can_the_client_is_told_why(fake_nodes: FakeNodes, status: int, code: str) -> None:
    asking = fake_nodes.send_chat()
    name, asked = await fake_nodes.wait_for_request()
    await send_error(asked, 502, "engine_failed")
    _, again = await fake_nodes.wait_for_request(name)
    await send_error(again, status, code)
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_what_is_wrong_with_the_request_is_wrong_everywhere(fake_nodes: FakeNodes) -> None:
    asking = fake_nodes.send_chat()
    name, asked = await fake_nodes.wait_for_request()
    body = b'{"error":{"message":"n","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}'
    await asked.respond(body, status=400)
    assert (await asking).json()["error"]["code"] == "context_length_exceeded"
    assert not [
        fake_node for other, fake_node in fake_nodes.nodes.items() if other != name and fake_node.requests
    ]


async def test_a_node_that_hangs_up(fake_nodes: FakeNodes) -> None:
    asking = fake_nodes.send_chat()
    name, asked = await fake_nodes.wait_for_request()
    asked.abort()
    other, again = await fake_nodes.wait_for_request(name)
    await again.respond(ANSWER)
    assert (await asking).headers["x-llb-node"] == other


async def test_heartbeats_are_no_answer(fake_nodes: FakeNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of which the client has received only comments still moves to another node."""
    monkeypatch.setattr(dispatcher, "SseKeepalive", partial(SseKeepalive, interval_s=0.02))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with fake_nodes.llb.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": heartbeat"
        name, _ = await fake_nodes.wait_for_request()
        fake_nodes.nodes[name].drop_probe_connections()
        _, again = await fake_nodes.wait_for_request(name)
        await again.start_stream()
        await again.send(b"0\r\n\r\n")
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest == ["data: begun"]


async def test_the_only_holder_that_seems_to_be_gone_is_waited_for(fake_nodes: FakeNodes) -> None:
    """No other node can answer, so a short network failure must not cost the answer."""
    away = fake_nodes.nodes["garage"].id
    (await fake_nodes.llb.http.patch(f"/api/nodes/{away}", json={"draining": True})).raise_for_status()
    fake_node = fake_nodes.nodes["cellar"]
    asking = fake_nodes.send_chat()
    await fake_nodes.wait_for_request()
    fake_node.drop_probe_connections()
    await wait_until(lambda: len(fake_node.requests) == 2)
    later = fake_nodes.send_chat()
    await wait_until(lambda: len(fake_node.requests) == 3)
    for asked in fake_node.requests[1:]:
        await asked.respond(ANSWER)
    assert [(await one).status_code for one in (asking, later)] == [200, 200]


async def test_the_only_holder_that_has_gone_is_not_waited_for_long(fake_nodes: FakeNodes) -> None:
    away = fake_nodes.nodes["garage"].id
    (await fake_nodes.llb.http.patch(f"/api/nodes/{away}", json={"draining": True})).raise_for_status()
    fake_node = fake_nodes.nodes["cellar"]
    asking = fake_nodes.send_chat()
    await fake_nodes.wait_for_request()
    fake_node.rejects_connections = True
    fake_node.drop_probe_connections()
    began_s = asyncio.get_running_loop().time()
    answer = await asking
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"
    assert asyncio.get_running_loop().time() - began_s < RECOVERY_WINDOW_S + 1.0
    # The next request does not have to discover the failure again.
    answer = await fake_nodes.send_chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node_available")
    assert answer.headers["retry-after"]


async def test_unload_does_not_wait_for_a_node_that_has_gone(fake_nodes: FakeNodes) -> None:
    unloading = asyncio.ensure_future(fake_nodes.llb.http.post("/api/models/tiny/unload"))
    await wait_until(lambda: all(fake_node.requests for fake_node in fake_nodes.nodes.values()))
    fake_nodes.nodes["cellar"].drop_probe_connections()
    [asked] = fake_nodes.nodes["garage"].requests
    await asked.respond(b"")
    answer = await unloading
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert "cellar" in answer.json()["error"]["message"]
