"""Control link client: what ends of a link mean, and how soon it is tried again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llb.base.node_identity import Membership
from llb.cluster.link import control_link_client
from llb.cluster.link.control_link_client import ControlLinkClient, LinkEnd, _websocket_url
from llb.wire import Welcome

MEMBER = Membership(
    balancer_url="https://attic:8080",
    cluster_id="c",
    node_id="n",
    name="g",
    credential="x",
    hop_credential="y",
)
WELCOME = Welcome(protocol=1, cluster_id="c", node_id="n", name="g", time=1.0)


@pytest.fixture
def client() -> ControlLinkClient:
    agent: Any = None
    return ControlLinkClient(MEMBER, agent)


@pytest.mark.parametrize(
    ("status", "end", "words"),
    [
        (401, LinkEnd.REJECTED, "does not know this node any more: run 'llb leave'"),
        (421, LinkEnd.LOST, "start it with --allowed-host"),
        (302, LinkEnd.REJECTED, "perhaps because it has joined another balancer"),
        (404, LinkEnd.LOST, "is not an llb that nodes can join (404)"),
        (503, LinkEnd.LOST, "is not an llb that nodes can join (503)"),
    ],
)
def test_what_a_refused_handshake_means(
    client: ControlLinkClient, status: int, end: LinkEnd, words: str
) -> None:
    assert client._handle_http_status(status) is end
    assert words in str(client.problem)
    assert "attic" not in str(client.problem)


def test_a_problem_is_logged_once_and_gone_with_a_welcome(
    client: ControlLinkClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.problem == "the balancer has not answered yet"
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            client._record_problem("it sleeps")
        client._record_problem("it is gone", LinkEnd.REJECTED)
        client.on_welcome(WELCOME)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "INFO"]
    assert client.problem is None


@pytest.mark.parametrize(
    ("url", "websocket"),
    [("http://attic:8080", "ws://attic:8080/ws/nodes"), ("https://[::1]:1", "wss://[::1]:1/ws/nodes")],
)
def test_the_address_of_the_link(url: str, websocket: str) -> None:
    assert _websocket_url(url) == websocket


async def test_a_rejected_node_waits_long_and_a_lost_link_does_not(
    client: ControlLinkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cause needs an operator and does not go away within seconds."""
    ends: list[LinkEnd | Exception] = [LinkEnd.LOST, LinkEnd.REJECTED, ZeroDivisionError(), LinkEnd.LOST]
    delays: list[float] = []

    async def serve() -> LinkEnd:
        end = ends[len(delays)]
        if isinstance(end, Exception):
            raise end
        return end

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        if len(delays) == len(ends):
            raise asyncio.CancelledError

    monkeypatch.setattr(client, "_serve_one_link", serve)
    monkeypatch.setattr("llb.cluster.link.control_link_client.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await client.run()
    monkeypatch.undo()
    lost, rejected, failed, _ = delays
    assert lost < 1
    assert rejected > 25
    # A defect costs the link, never the node.
    assert failed < 2
    assert client.problem == "the link to the balancer failed; see the log of this host"


async def test_an_address_where_nothing_listens(
    client: ControlLinkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_url: str) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(control_link_client, "connect_socket", refuse)
    assert await client._serve_one_link() is LinkEnd.LOST
    assert client.problem == "the balancer cannot be reached: connection refused"
