"""Connections to joined nodes: search for a route, loss of a route, tunnels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest

from llb.cluster.link.link_server import SILENCE_TIMEOUT_S
from llb.gateway.http.client import HttpClient
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.gateway.nodes import route_discovery
from llb.gateway.nodes.liveness_probe import PROBE_INTERVAL_S
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.nodes.route_monitor import MIN_BACKOFF_S
from llb.wire import ReachWay
from tests.gateway.fake_node import CREDENTIAL, NODE_ID, FakeNode, run_fake_node

NOWHERE = "http://127.0.0.1:1"


class Harness:
    """One fake node and the connections of its balancer, with the route changes that they published."""

    def __init__(self, node: FakeNode, connections: NodeConnections) -> None:
        self.node = node
        self.connections = connections
        self.reach_changes: list[ReachWay] = []
        self.tunnel_counts: list[int] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        connections.route_changed.subscribe(self._record_route)
        connections.tunnels_wanted.subscribe(lambda _node_id, count: self.tunnel_counts.append(count))

    def _record_route(self, node_id: str) -> None:
        way = self.connections.reach_view_of(node_id).way
        if way is not (self.reach_changes[-1] if self.reach_changes else ReachWay.NONE):
            self.reach_changes.append(way)
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(condition)

    async def connect(self, *urls: str, instance: str = "first") -> None:
        pulses = len(self.node.probe_writers)
        self.connections.connect_node(self.node.build_hello(*urls, instance=instance), None)
        await self.until(lambda: self.connections.route_of(NODE_ID) is not None)
        await self.node.wait_until(lambda: len(self.node.probe_writers) > pulses)

    def request(self) -> asyncio.Task[UpstreamResponse]:
        return asyncio.ensure_future(
            self.connections.request(NODE_ID, b"POST", b"/hop/v1/x", body=b"{}", header_timeout_s=60)
        )

    async def started_response(self, *, started: bool = True) -> UpstreamResponse:
        """Return a response that has started and is not complete."""
        response_task = self.request()
        await (await self.node.next_request()).start_stream()
        response = await response_task
        assert await response.read_chunk(10) == b"data: begun\n\n"
        if started:
            response.mark_started()
        return response


@pytest.fixture
async def harness(http_client: HttpClient) -> AsyncIterator[Harness]:
    async with run_fake_node() as node:
        connections = NodeConnections(http_client, lambda _node_id: CREDENTIAL)
        yield Harness(node, connections)
        await connections.close()
        await connections.close()


async def test_only_the_address_with_a_valid_proof_is_used(harness: Harness) -> None:
    async with run_fake_node() as stranger:
        stranger.credential = "another"
        await harness.connect(NOWHERE, stranger.url, "ftp://127.0.0.1", harness.node.url)
        route = harness.connections.route_of(NODE_ID)
        assert route is not None
        assert route.base_url == harness.node.url
        assert harness.connections.reach_view_of(NODE_ID).way is ReachWay.DIRECT
        assert (harness.connections.reach_view_of(NODE_ID).answer_ms or 0) > 0
        assert not stranger.requests
        assert not stranger.probe_writers
        # The credential is sent to verified nodes only.
        assert all(
            "authorization" not in headers for headers in stranger.proof_headers + harness.node.proof_headers
        )


async def test_the_observed_address_is_tried_too(harness: Harness) -> None:
    port = harness.node.url.rpartition(":")[2]
    harness.connections.connect_node(
        harness.node.build_hello(f"http://127.0.0.2:{int(port) % 60_000 + 1}", NOWHERE), None
    )
    harness.connections.connect_node(harness.node.build_hello(f"http://[::1]:{port}"), "127.0.0.1")
    await harness.until(lambda: harness.connections.base_url_of(NODE_ID) == harness.node.url)


async def test_a_request_over_the_route(harness: Harness) -> None:
    await harness.connect()
    response_task = harness.request()
    request = await harness.node.next_request()
    assert request.headers["authorization"] == f"Bearer {CREDENTIAL}"
    await request.respond(b"{}")
    assert await (await response_task).read(100, 10) == b"{}"


async def test_without_a_route_nothing_is_sent(harness: Harness) -> None:
    with pytest.raises(ConnectError):
        await harness.request()


async def test_a_failed_probe_drops_the_route_and_the_node_is_verified_again(harness: Harness) -> None:
    await harness.connect()
    waiting = harness.request()
    await harness.node.next_request()
    proofs = len(harness.node.proof_headers)
    harness.node.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await waiting
    await harness.until(lambda: harness.reach_changes == [ReachWay.DIRECT, ReachWay.NONE, ReachWay.DIRECT])
    assert len(harness.node.proof_headers) > proofs


async def test_a_response_that_no_client_received_has_not_started(harness: Harness) -> None:
    """Progress of the prompt, or a part of an aggregated answer: another node can still take the request."""
    await harness.connect()
    unstarted, started = await harness.started_response(started=False), await harness.started_response()
    beats = len(harness.node.probe_times)
    await harness.node.wait_until(lambda: len(harness.node.probe_times) > beats + 1)
    harness.node.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await unstarted.read_chunk(10)
    assert await started.read_chunk(0.2) is None
    started.close()


async def test_a_started_response_is_not_probed_for(harness: Harness) -> None:
    await harness.connect()
    response = await harness.started_response()
    beats = len(harness.node.probe_times)
    # The absence of probes has no event.
    await asyncio.sleep(3 * PROBE_INTERVAL_S)
    assert len(harness.node.probe_times) <= beats + 1
    response.close()


@pytest.mark.parametrize("end", ["read", "closed", "broken"])
async def test_an_ended_response_is_not_probed_for(harness: Harness, end: str) -> None:
    await harness.connect()
    response_task = harness.request()
    request = await harness.node.next_request()
    if end == "read":
        await request.respond(b"{}")
        assert await (await response_task).read(100, 10) == b"{}"
    else:
        await request.start_stream()
        response = await response_task
        assert await response.read_chunk(10)
        if end == "closed":
            response.close()
        else:
            request.abort()
            with pytest.raises(UpstreamClosed):
                await response.read_chunk(10)
    beats = len(harness.node.probe_times)
    # The absence of probes has no event.
    await asyncio.sleep(3 * PROBE_INTERVAL_S)
    assert len(harness.node.probe_times) <= beats + 1


async def test_a_request_that_fails_before_its_response_drops_the_route(harness: Harness) -> None:
    await harness.connect()
    waiting = harness.request()
    (await harness.node.next_request()).abort()
    with pytest.raises(UpstreamClosed):
        await waiting
    assert harness.reach_changes == [ReachWay.DIRECT, ReachWay.NONE]


async def test_a_request_that_fails_in_its_response_keeps_the_route(harness: Harness) -> None:
    """When an engine dies during a response, its node reports that by closing the connection."""
    await harness.connect()
    response = await harness.started_response()
    harness.node.requests[-1].abort()
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)
    assert harness.reach_changes == [ReachWay.DIRECT]


async def test_a_client_that_leaves_keeps_the_route(harness: Harness) -> None:
    await harness.connect()
    waiting = harness.request()
    request = await harness.node.next_request()
    waiting.cancel()
    await asyncio.wait([waiting])
    await request.client_closed.wait()
    assert harness.reach_changes == [ReachWay.DIRECT]


async def test_a_node_that_refuses_connections_is_retried_with_backoff(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It dials no tunnels, and each attempt waits for one.
    monkeypatch.setattr(route_discovery, "TUNNEL_TIMEOUT_S", 0.05)
    await harness.connect()
    harness.node.rejects_connections = True
    met = len(harness.node.connection_times)
    harness.node.drop_probe_connections()
    await harness.node.wait_until(lambda: len(harness.node.connection_times) >= met + 5)
    pauses = [later - earlier for earlier, later in pairwise(harness.node.connection_times[met : met + 5])]
    assert pauses[0] > MIN_BACKOFF_S
    assert pauses[-1] > pauses[0] + 3 * MIN_BACKOFF_S
    assert harness.connections.route_of(NODE_ID) is None
    harness.node.rejects_connections = False
    await harness.until(lambda: harness.connections.route_of(NODE_ID) is not None)


async def test_a_node_that_forgot_its_balancer_gets_no_requests(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_discovery, "TUNNEL_TIMEOUT_S", 0.05)
    await harness.connect()
    waiting = harness.request()
    request = await harness.node.next_request()
    harness.node.credential = "of another membership"
    with caplog.at_level(logging.WARNING):
        await request.respond(b"{}", b"WWW-Authenticate: Bearer", status=401)
        with pytest.raises(ConnectError):
            await waiting
        proofs = len(harness.node.proof_headers)
        await harness.node.wait_until(lambda: len(harness.node.proof_headers) >= proofs + 3)
    assert harness.reach_changes == [ReachWay.DIRECT, ReachWay.NONE]
    messages = "\n".join(record.getMessage() for record in caplog.records)
    assert messages.count("its node.json was replaced") == 1
    assert messages.count("is not the node cellar") == 1


async def test_a_401_of_its_engine_is_a_response(harness: Harness) -> None:
    await harness.connect()
    response_task = harness.request()
    await (await harness.node.next_request()).respond(b"{}", status=401)
    assert (await response_task).status == 401
    assert harness.reach_changes == [ReachWay.DIRECT]


async def test_the_same_hello_changes_nothing(harness: Harness) -> None:
    await harness.connect()
    proofs = len(harness.node.proof_headers)
    response = await harness.started_response()
    harness.connections.connect_node(harness.node.build_hello(), None)
    await harness.node.requests[-1].send(b"0\r\n\r\n")
    assert await response.read_chunk(10) == b""
    assert harness.reach_changes == [ReachWay.DIRECT]
    assert len(harness.node.proof_headers) == proofs


# --- control links that end --------------------------------------------------------------------------


async def test_started_responses_end_when_the_node_was_silent_for_too_long(harness: Harness) -> None:
    await harness.connect()
    response = await harness.started_response()
    harness.connections.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S - 0.2)
    assert harness.connections.route_of(NODE_ID) is None
    assert await response.read_chunk(0.05) is None
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)


async def test_responses_of_a_node_that_was_silent_too_long_end_at_once(harness: Harness) -> None:
    """Its kernel may be alive: a stopped process looks like this."""
    await harness.connect()
    response, waiting = await harness.started_response(), harness.request()
    await harness.node.next_request()
    harness.connections.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S)
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)
    with pytest.raises(UpstreamClosed):
        await waiting


async def test_a_link_that_returns_lets_responses_continue(harness: Harness) -> None:
    await harness.connect()
    response = await harness.started_response()
    request = harness.node.requests[-1]
    harness.connections.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S - 0.2)
    await harness.connect()
    assert await response.read_chunk(0.4) is None
    await request.send(b"0\r\n\r\n")
    assert await response.read_chunk(10) == b""


async def test_a_new_process_of_the_node_ends_the_responses_of_the_old_one(harness: Harness) -> None:
    await harness.connect()
    response = await harness.started_response()
    harness.connections.disconnect_node(NODE_ID, 0.0)
    await harness.connect(instance="second")
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)


async def test_requests_that_wait_when_the_link_ends_are_still_probed_for(harness: Harness) -> None:
    await harness.connect()
    waiting = harness.request()
    await harness.node.next_request()
    harness.connections.disconnect_node(NODE_ID, 0.0)
    beats = len(harness.node.probe_times)
    await harness.node.wait_until(lambda: len(harness.node.probe_times) > beats)
    harness.node.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await waiting


# --- tunnels -----------------------------------------------------------------------------------------


async def dial_tunnel(harness: Harness) -> None:
    """Dial as the node does, and accept as the balancer's route does."""
    host, port = harness.node.url.removeprefix("http://").split(":")
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    harness.connections.accept_tunnel(NODE_ID, transport)


async def wait_for_tunnel_request(harness: Harness) -> None:
    async with asyncio.timeout(30):
        while not any(harness.tunnel_counts):
            await asyncio.sleep(0.01)


async def test_it_dials_tunnels_on_request_and_is_reached_over_them(harness: Harness) -> None:
    harness.connections.connect_node(harness.node.build_hello(NOWHERE), None)
    await wait_for_tunnel_request(harness)
    assert harness.connections.expects_tunnel(NODE_ID)
    for _ in range(2):
        await dial_tunnel(harness)
    await harness.until(lambda: harness.reach_changes == [ReachWay.REVERSE])
    assert harness.connections.base_url_of(NODE_ID) is None
    response_task = harness.request()
    request = await harness.node.next_request()
    # The request does not come from the node's own host, although it says localhost.
    assert request.headers["x-llb-hop"] == "1"
    # No tunnel is left: the next request waits for one, but not for long. A slow node is not a lost one.
    with pytest.raises(ConnectError):
        await harness.request()
    await request.respond(b"{}")
    assert await (await response_task).read(100, 10) == b"{}"
    assert harness.reach_changes == [ReachWay.REVERSE]


async def test_a_direct_route_replaces_the_tunnels_once_it_works(harness: Harness) -> None:
    async with run_fake_node() as firewall:
        firewall.rejects_connections = True
        harness.connections.connect_node(harness.node.build_hello(firewall.url), None)
        await wait_for_tunnel_request(harness)
        for _ in range(2):
            await dial_tunnel(harness)
        await harness.until(lambda: harness.reach_changes == [ReachWay.REVERSE])
        response = await harness.started_response()
        firewall.rejects_connections = False
        await harness.until(lambda: harness.connections.reach_view_of(NODE_ID).way is ReachWay.DIRECT)
        assert harness.tunnel_counts[-1] == 0
        assert harness.connections.base_url_of(NODE_ID) == firewall.url
        # A started response ends as usual.
        await harness.node.requests[-1].send(b"0\r\n\r\n")
        assert await response.read_chunk(10) == b""
        # A further change has no event.
        await asyncio.sleep(0.2)
        assert harness.reach_changes == [ReachWay.REVERSE, ReachWay.DIRECT]
