"""Link server: who may be served, what a node is sent and when, two hosts that are one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from llb.cluster.link import link_server
from llb.cluster.link.link_server import LinkServer
from llb.cluster.link.local_link import create_local_link
from llb.cluster.view import ClusterView
from llb.store.tables.nodes import NodeRecord
from llb.wire import (
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    BadSourceReport,
    DesiredState,
    Drain,
    Hello,
    LinkClosed,
    LinkRejected,
    NodeLink,
    OpenTunnels,
    ReplicaReport,
    ReplicaState,
    Welcome,
)
from tests.cluster.test_view import HEARTBEAT, HELLO


class Balancer:
    """Link server over a view; what it hears of nodes is noted."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.revision = 1
        self.record: NodeRecord | None = NodeRecord(id="n1", name="garage", created_at=1.0)
        self.heard: list[object] = []
        self.addresses: list[str | None] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.server = LinkServer(
            view,
            lambda _node_id: DesiredState(cluster_id="here", revision=self.revision, models=()),
            record_hello=self.record_hello,
            on_hello=lambda _hello, address: self.addresses.append(address),
            on_replica_report=lambda _node_id, report: self.heard.append(report),
            on_bad_source=lambda _node_id, report: self.heard.append(report),
        )
        self.server.start("here")

    async def record_hello(self, hello: Hello) -> NodeRecord | None:
        return self.record

    def open(self, **more: Any) -> NodeLink:
        """Return the node's end of a new link that is served."""
        node, balancer = create_local_link()
        how = {"node_id": "n1", "silence_timeout_s": None} | more
        self.tasks.append(asyncio.ensure_future(self.server.serve_link(balancer, **how)))
        return node

    async def connect(self, **more: Any) -> NodeLink:
        """Return the end of a node that was welcomed."""
        link = self.open(**more)
        await link.send(HELLO)
        assert isinstance(await link.receive(), Welcome)
        return link


@pytest.fixture
async def balancer(view: ClusterView) -> AsyncIterator[Balancer]:
    made = Balancer(view)
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def reason_of(link: NodeLink) -> str:
    """Sentence with which a link is refused, after which it ends."""
    refused = await link.receive()
    assert isinstance(refused, LinkRejected)
    with pytest.raises(LinkClosed):
        await link.receive()
    return refused.message


async def settle() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- hellos ------------------------------------------------------------------------------------------


async def test_a_node_is_welcomed_with_the_name_that_it_has_here(balancer: Balancer) -> None:
    link = balancer.open(observed_address="10.0.0.7")
    await link.send(HELLO)
    welcome = await link.receive()
    assert isinstance(welcome, Welcome)
    assert (welcome.name, welcome.node_id, welcome.cluster_id) == ("garage", "n1", "here")
    assert balancer.view.nodes["n1"].hello.name == "garage"
    assert balancer.addresses == ["10.0.0.7"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (HEARTBEAT, "must be a hello"),
        (structs.replace(HELLO, node_id="n2"), "its own node id"),
        (structs.replace(HELLO, protocol=PROTOCOL_VERSION + 1), "upgrade the balancer first"),
        (structs.replace(HELLO, protocol=MIN_PROTOCOL_VERSION - 1), "too old"),
    ],
)
async def test_who_is_not_served_is_told_why(balancer: Balancer, message: Any, reason: str) -> None:
    link = balancer.open()
    await link.send(message)
    assert reason in await reason_of(link)
    assert balancer.view.nodes == {}


async def test_a_node_that_was_removed_as_it_came_is_told_so(balancer: Balancer) -> None:
    balancer.record = None
    link = balancer.open()
    await link.send(HELLO)
    assert "was removed by the balancer" in await reason_of(link)
    await balancer.tasks[0]
    assert balancer.view.nodes == {}


async def test_a_node_that_says_nothing_is_not_waited_for(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "HELLO_TIMEOUT_S", 0.0)
    silent, gone = balancer.open(), balancer.open()
    await gone.close()
    await asyncio.gather(*balancer.tasks)
    with pytest.raises(LinkClosed):
        await silent.receive()


# --- what is sent ------------------------------------------------------------------------------------


async def test_a_desired_state_comes_with_the_first_heartbeat_and_with_each_change(
    balancer: Balancer,
) -> None:
    """Made without the capacity of the node, it would drop the models that the node holds."""
    link = await balancer.connect()
    balancer.server.push_desired_state()
    await settle()
    await link.send(HEARTBEAT)
    assert await link.receive() == DesiredState(cluster_id="here", revision=1, models=())
    balancer.server.push_desired_state()
    await settle()
    balancer.revision = 2
    balancer.server.push_desired_state()
    # The equal one in between was not sent.
    assert await link.receive() == DesiredState(cluster_id="here", revision=2, models=())


async def test_drains_and_tunnels_are_sent_once(balancer: Balancer) -> None:
    link = await balancer.connect()
    balancer.view.nodes["n1"].draining = True
    balancer.server.push_desired_state()
    assert await link.receive() == Drain(draining=True)
    balancer.server.push_desired_state()
    balancer.server.request_tunnels("n1", 3)
    assert await link.receive() == OpenTunnels(spares=3)
    balancer.server.request_tunnels("n1", 3)
    balancer.server.request_tunnels("nobody", 3)
    balancer.server.request_tunnels("n1", 0)
    assert await link.receive() == OpenTunnels(spares=0)


async def test_reports_reach_those_who_asked_for_them(balancer: Balancer) -> None:
    link = await balancer.connect()
    ready = ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.READY)
    bad = BadSourceReport(model_id="tiny", sha256="ab" * 32, node_id="n2")
    for message in (ready, bad):
        await link.send(message)
    await settle()
    assert balancer.heard == [ready, bad]
    assert balancer.view.nodes["n1"].replicas == {"tiny": ready}


# --- the end of a link -------------------------------------------------------------------------------


async def test_a_node_whose_link_ends_is_offline_and_the_others_are_told(balancer: Balancer) -> None:
    link = await balancer.connect()
    await link.close()
    await balancer.tasks[0]
    assert not balancer.view.nodes["n1"].is_online
    assert balancer.server._sessions == {}


async def test_silence_ends_a_link(balancer: Balancer, caplog: pytest.LogCaptureFixture) -> None:
    link = balancer.open(silence_timeout_s=0.0)
    await link.send(HELLO)
    await balancer.tasks[0]
    assert "node garage was silent for 0 s" in caplog.text
    assert not balancer.view.nodes["n1"].is_online


async def test_a_later_hello_must_be_of_the_same_node(balancer: Balancer) -> None:
    link = await balancer.connect()
    await link.send(HELLO)
    assert isinstance(await link.receive(), Welcome)
    await link.send(structs.replace(HELLO, node_id="n2"))
    assert "its own node id" in await reason_of(link)


async def test_a_node_that_is_removed_is_told_so(balancer: Balancer) -> None:
    link = await balancer.connect()
    await balancer.server.disconnect_removed_node("n1")
    await balancer.server.disconnect_removed_node("n1")
    assert "was removed by the balancer" in await reason_of(link)


# --- two links of one node ---------------------------------------------------------------------------


async def test_a_node_that_comes_again_takes_the_place_of_its_old_link(balancer: Balancer) -> None:
    first = await balancer.connect()
    second = await balancer.connect()
    with pytest.raises(LinkClosed):
        await first.receive()
    await balancer.tasks[0]
    # The end of the old link does not take the node offline.
    assert balancer.view.nodes["n1"].is_online
    await second.send(HEARTBEAT)
    assert isinstance(await second.receive(), DesiredState)


async def test_a_copy_of_a_home_is_refused_while_the_other_host_speaks(balancer: Balancer) -> None:
    first = await balancer.connect()
    copy = balancer.open()
    await copy.send(structs.replace(HELLO, instance="another process"))
    await settle()
    await first.send(HEARTBEAT)
    assert "another host is connected as this node" in await reason_of(copy)
    assert isinstance(await first.receive(), DesiredState)
    assert balancer.view.nodes["n1"].is_online


async def test_a_host_that_was_replaced_gives_way(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old link is silent, because its end was not noticed."""
    monkeypatch.setattr(link_server, "DUPLICATE_CHECK_TIMEOUT_S", 0.0)
    first = await balancer.connect()
    second = balancer.open()
    await second.send(structs.replace(HELLO, instance="after a restart"))
    assert isinstance(await second.receive(), Welcome)
    with pytest.raises(LinkClosed):
        await first.receive()
