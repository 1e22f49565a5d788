"""Tunnel pool: how many connections are dialled, replaced and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llb.base.node_identity import Membership
from llb.cluster.join import tunnel_pool
from llb.cluster.join.tunnel_pool import MAX_CONCURRENT_DIALS, TunnelPool
from tests.harness import wait_until

MEMBERSHIP = Membership(
    balancer_url="http://attic:8080",
    cluster_id="c",
    node_id="n",
    name="garage",
    credential="x",
    hop_credential="y",
)


class FakeTransport:
    """Transport of a tunnel, which only remembers what was done with it."""

    def __init__(self) -> None:
        self.aborted = self.resumed = False

    def set_protocol(self, _protocol: object) -> None: ...

    def resume_reading(self) -> None:
        self.resumed = True

    def abort(self) -> None:
        self.aborted = True


class FakeTunnel:
    """Server's end of a tunnel."""

    def __init__(self, on_activity: Callable[[], None]) -> None:
        self.on_activity = on_activity
        self.is_idle, self.is_closed = True, False
        self.received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def abort(self) -> None:
        self.is_closed = True

    def begin_request(self) -> None:
        self.is_idle = False
        self.on_activity()


class Node:
    """A pool whose dials are answered by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[FakeTunnel] = []
        self.transports: list[FakeTransport] = []
        self.failure: Exception | None = None
        self.dialling = self.most_dialling = self.failed = 0
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.pool = TunnelPool(MEMBERSHIP, self.make)
        monkeypatch.setattr(self.pool, "_dial_and_upgrade", self.dial)
        monkeypatch.setattr(tunnel_pool, "BACKOFF_INITIAL_S", 0.001)
        monkeypatch.setattr(tunnel_pool, "BACKOFF_MAX_S", 0.001)

    def make(self, on_activity: Callable[[], None]) -> FakeTunnel:
        self.made.append(FakeTunnel(on_activity))
        return self.made[-1]

    async def dial(self) -> tuple[Any, bytes]:
        self.dialling += 1
        self.most_dialling = max(self.most_dialling, self.dialling)
        try:
            await asyncio.sleep(0)
            await self.may_connect.wait()
            if self.failure is not None:
                self.failed += 1
                raise self.failure
            self.transports.append(FakeTransport())
            return self.transports[-1], b"early"
        finally:
            self.dialling -= 1


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    made = Node(monkeypatch)
    task = asyncio.ensure_future(made.pool.run())
    yield made
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert all(tunnel.is_closed for tunnel in made.made)


async def test_as_many_are_dialled_as_the_balancer_asks_for_a_few_at_a_time(node: Node) -> None:
    node.pool.set_min_idle(20)
    await wait_until(lambda: len(node.made) == 20)
    assert node.most_dialling == MAX_CONCURRENT_DIALS
    assert all(tunnel.received == b"early" for tunnel in node.made)
    assert all(transport.resumed for transport in node.transports)


async def test_a_tunnel_that_is_used_or_lost_is_replaced(node: Node) -> None:
    node.pool.set_min_idle(2)
    await wait_until(lambda: len(node.made) == 2)
    node.made[0].begin_request()
    await wait_until(lambda: len(node.made) == 3)
    node.made[1].is_closed = True
    node.made[1].on_activity()
    await wait_until(lambda: len(node.made) == 4)


async def test_there_are_never_too_many(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_pool, "MAX_TUNNELS", 3)
    node.pool.set_min_idle(2)
    await wait_until(lambda: len(node.made) == 2)
    for tunnel in node.made[:2]:
        tunnel.begin_request()
    await wait_until(lambda: len(node.made) == 3)
    assert node.pool._count_missing() == 0


async def test_the_end_of_the_link_closes_the_idle_ones(node: Node) -> None:
    """After a cable was cut they would look alive here for a long time."""
    node.pool.set_min_idle(3)
    await wait_until(lambda: len(node.made) == 3)
    node.made[0].is_idle = False
    node.pool.set_min_idle(0)
    assert [tunnel.is_closed for tunnel in node.made] == [False, True, True]


async def test_a_tunnel_that_comes_after_the_end_of_the_link_is_not_kept(node: Node) -> None:
    node.may_connect.clear()
    node.pool.set_min_idle(1)
    await wait_until(lambda: node.dialling == 1)
    node.pool.set_min_idle(0)
    node.may_connect.set()
    await wait_until(lambda: node.dialling == 0 and bool(node.transports))
    await wait_until(lambda: node.transports[0].aborted)
    assert node.made == []


async def test_failures_are_tried_again_and_logged_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.failure = ConnectionRefusedError(111, "Connection refused")
    node.pool.set_min_idle(1)
    await wait_until(lambda: node.failed >= 3)
    node.failure = TimeoutError()
    failed = node.failed
    await wait_until(lambda: node.failed >= failed + 2)
    node.failure = None
    await wait_until(lambda: len(node.made) == 1)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "no tunnel to the balancer: connection refused; trying again",
        "no tunnel to the balancer: it does not answer; trying again",
    ]
