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


class Peers:
    """Two nodes that say that they hold `tiny`; the balancer's own takes no requests."""

    def __init__(self, llb: RunningBalancer) -> None:
        self.llb = llb
        self.nodes: dict[str, FakeNode] = {}
        self.links: dict[str, LinkClient] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Peers:
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
        there = self.nodes[name] = await self._stack.enter_async_context(run_fake_node())
        there.id, there.credential = joined.node_id, joined.hop_credential
        link = self.links[name] = await self._stack.enter_async_context(
            open_link(self.llb, joined.credential)
        )
        held = ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY)
        hello = msgspec.structs.replace(there.build_hello(), replicas=(held,), name=name)
        await link.send(json.loads(msgspec.json.encode(hello)))
        await link.send(HEARTBEAT)
        await wait_until(lambda: self.llb.app.node_connections.route_of(joined.node_id) is not None)
        await there.wait_until(lambda: bool(there.probe_writers))

    def ask(self, **fields: Any) -> asyncio.Task[httpx.Response]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], **fields}
        return asyncio.ensure_future(self.llb.http.post("/v1/chat/completions", json=body))

    async def asked(self, *but: str) -> tuple[str, PendingRequest]:
        """The node that has a request which it has not answered, and that request."""

        def found() -> list[tuple[str, PendingRequest]]:
            return [
                (name, asked)
                for name, there in self.nodes.items()
                for asked in there.requests
                if name not in but and not asked.client_closed.is_set()
            ]

        await wait_until(found)
        [one] = found()
        return one


@pytest.fixture
async def peers(llb: RunningBalancer) -> AsyncIterator[Peers]:
    async with Peers(llb) as peers:
        yield peers


async def refuse(asked: PendingRequest, status: int, code: str) -> None:
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
async def test_what_one_node_cannot_another_can(peers: Peers, status: int, code: str) -> None:
    asking = peers.ask()
    name, asked = await peers.asked()
    await refuse(asked, status, code)
    other, again = await peers.asked(name)
    await again.respond(ANSWER)
    answer = await asking
    assert (answer.status_code, answer.content) == (200, ANSWER)
    assert answer.headers["x-llb-node"] == other
    # It refused, and is there: the next request may go to it.
    assert peers.llb.app.node_connections.route_of(peers.nodes[name].id) is not None


@pytest.mark.parametrize(("status", "code"), [(503, "model_loading"), (400, "insufficient_memory")])
async def test_where_none_can_the_client_is_told_why(peers: Peers, status: int, code: str) -> None:
    asking = peers.ask()
    name, asked = await peers.asked()
    await refuse(asked, 502, "engine_failed")
    _, again = await peers.asked(name)
    await refuse(again, status, code)
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_what_is_wrong_with_the_request_is_wrong_everywhere(peers: Peers) -> None:
    asking = peers.ask()
    name, asked = await peers.asked()
    body = b'{"error":{"message":"n","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}'
    await asked.respond(body, status=400)
    assert (await asking).json()["error"]["code"] == "context_length_exceeded"
    assert not [there for other, there in peers.nodes.items() if other != name and there.requests]


async def test_a_node_that_hangs_up(peers: Peers) -> None:
    asking = peers.ask()
    name, asked = await peers.asked()
    asked.abort()
    other, again = await peers.asked(name)
    await again.respond(ANSWER)
    assert (await asking).headers["x-llb-node"] == other


async def test_heartbeats_are_no_answer(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client has had some comments goes to another node as any other."""
    monkeypatch.setattr(dispatcher, "SseKeepalive", partial(SseKeepalive, interval_s=0.02))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with peers.llb.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": heartbeat"
        name, _ = await peers.asked()
        peers.nodes[name].drop_probe_connections()
        _, again = await peers.asked(name)
        await again.start_stream()
        await again.send(b"0\r\n\r\n")
        rest = [line async for line in lines if line and not line.startswith(":")]
    assert rest == ["data: begun"]


async def test_the_only_holder_that_seems_to_be_gone_is_waited_for(peers: Peers) -> None:
    """Nobody else can give this answer: a hiccup of the network must not cost it."""
    away = peers.nodes["garage"].id
    (await peers.llb.http.patch(f"/api/nodes/{away}", json={"draining": True})).raise_for_status()
    there = peers.nodes["cellar"]
    asking = peers.ask()
    await peers.asked()
    there.drop_probe_connections()
    await wait_until(lambda: len(there.requests) == 2)
    later = peers.ask()
    await wait_until(lambda: len(there.requests) == 3)
    for asked in there.requests[1:]:
        await asked.respond(ANSWER)
    assert [(await one).status_code for one in (asking, later)] == [200, 200]


async def test_the_only_holder_that_has_gone_is_not_waited_for_long(peers: Peers) -> None:
    away = peers.nodes["garage"].id
    (await peers.llb.http.patch(f"/api/nodes/{away}", json={"draining": True})).raise_for_status()
    there = peers.nodes["cellar"]
    asking = peers.ask()
    await peers.asked()
    there.rejects_connections = True
    there.drop_probe_connections()
    began_s = asyncio.get_running_loop().time()
    answer = await asking
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"
    assert asyncio.get_running_loop().time() - began_s < RECOVERY_WINDOW_S + 1.0
    # Whoever comes now need not find it out.
    answer = await peers.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node_available")
    assert answer.headers["retry-after"]


async def test_unload_does_not_wait_for_a_node_that_has_gone(peers: Peers) -> None:
    unloading = asyncio.ensure_future(peers.llb.http.post("/api/models/tiny/unload"))
    await wait_until(lambda: all(there.requests for there in peers.nodes.values()))
    peers.nodes["cellar"].drop_probe_connections()
    [asked] = peers.nodes["garage"].requests
    await asked.respond(b"")
    answer = await unloading
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert "cellar" in answer.json()["error"]["message"]
