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
from llb.gateway.nodes.liveness_probe import PROBE_INTERVAL_S
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.nodes.route_monitor import MIN_BACKOFF_S
from llb.wire import ReachWay
from tests.gateway.node import CREDENTIAL, NODE_ID, FakeNode, run_fake_node

NOWHERE = "http://127.0.0.1:1"


class Site:
    """One node, and the reach of its balancer. `ways` is what `on_changed` found."""

    def __init__(self, there: FakeNode, reach: NodeConnections) -> None:
        self.there = there
        self.reach = reach
        self.ways: list[ReachWay] = []
        self.dials: list[int] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        reach.route_changed.subscribe(self._note)
        reach.tunnels_wanted.subscribe(lambda _node_id, spares: self.dials.append(spares))

    def _note(self, node_id: str) -> None:
        way = self.reach.reach_view_of(node_id).way
        if way is not (self.ways[-1] if self.ways else ReachWay.NONE):
            self.ways.append(way)
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def found(self, *urls: str, instance: str = "first") -> None:
        pulses = len(self.there.probe_writers)
        self.reach.connect_node(self.there.build_hello(*urls, instance=instance), None)
        await self.until(lambda: self.reach.route_of(NODE_ID) is not None)
        await self.there.wait_until(lambda: len(self.there.probe_writers) > pulses)

    def ask(self) -> asyncio.Task[UpstreamResponse]:
        return asyncio.ensure_future(
            self.reach.request(NODE_ID, b"POST", b"/hop/v1/x", body=b"{}", header_timeout_s=60)
        )

    async def begun(self, *, heard: bool = True) -> UpstreamResponse:
        """An answer that has begun, and is not complete."""
        asking = self.ask()
        await (await self.there.next_request()).start_stream()
        response = await asking
        assert await response.read_chunk(10) == b"data: begun\n\n"
        if heard:
            response.mark_started()
        return response


@pytest.fixture
async def site(upstream: HttpClient) -> AsyncIterator[Site]:
    async with run_fake_node() as there:
        reach = NodeConnections(upstream, lambda _node_id: CREDENTIAL)
        yield Site(there, reach)
        await reach.close()
        await reach.close()


async def test_the_address_that_proves_it_is_used_and_no_other(site: Site) -> None:
    async with run_fake_node() as stranger:
        stranger.credential = "another"
        await site.found(NOWHERE, stranger.url, "ftp://127.0.0.1", site.there.url)
        way = site.reach.route_of(NODE_ID)
        assert way is not None
        assert way.base_url == site.there.url
        assert site.reach.reach_view_of(NODE_ID).way is ReachWay.DIRECT
        assert (site.reach.reach_view_of(NODE_ID).answer_ms or 0) > 0
        assert not stranger.requests
        assert not stranger.probe_writers
        # Nobody is shown a credential before they have proved who they are.
        assert all(
            "authorization" not in headers for headers in stranger.proof_headers + site.there.proof_headers
        )


async def test_where_it_dialled_from_is_looked_at_too(site: Site) -> None:
    port = site.there.url.rpartition(":")[2]
    site.reach.connect_node(
        site.there.build_hello(f"http://127.0.0.2:{int(port) % 60_000 + 1}", NOWHERE), None
    )
    site.reach.connect_node(site.there.build_hello(f"http://[::1]:{port}"), "127.0.0.1")
    await site.until(lambda: site.reach.base_url_of(NODE_ID) == site.there.url)


async def test_a_request_along_it(site: Site) -> None:
    await site.found()
    asking = site.ask()
    asked = await site.there.next_request()
    assert asked.headers["authorization"] == f"Bearer {CREDENTIAL}"
    await asked.respond(b"{}")
    assert await (await asking).read(100, 10) == b"{}"


async def test_without_a_way_nothing_is_sent(site: Site) -> None:
    with pytest.raises(ConnectError):
        await site.ask()


async def test_a_pulse_that_ends_takes_the_way_and_the_node_is_proved_again(site: Site) -> None:
    await site.found()
    waiting = site.ask()
    await site.there.next_request()
    proofs = len(site.there.proof_headers)
    site.there.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await waiting
    await site.until(lambda: site.ways == [ReachWay.DIRECT, ReachWay.NONE, ReachWay.DIRECT])
    assert len(site.there.proof_headers) > proofs


async def test_what_nobody_has_heard_of_has_not_begun(site: Site) -> None:
    """How far an engine is with a prompt, or an answer that is put together: it can be had of another node as well."""
    await site.found()
    unheard, heard = await site.begun(heard=False), await site.begun()
    beats = len(site.there.probe_times)
    await site.there.wait_until(lambda: len(site.there.probe_times) > beats + 1)
    site.there.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await unheard.read_chunk(10)
    assert await heard.read_chunk(0.2) is None
    heard.close()


async def test_what_was_heard_of_is_not_felt_for(site: Site) -> None:
    await site.found()
    response = await site.begun()
    beats = len(site.there.probe_times)
    await asyncio.sleep(3 * PROBE_INTERVAL_S)  # what does not come has no event
    assert len(site.there.probe_times) <= beats + 1
    response.close()


@pytest.mark.parametrize("end", ["read", "closed", "broken"])
async def test_an_answer_that_ends_is_not_felt_for_either(site: Site, end: str) -> None:
    await site.found()
    asking = site.ask()
    asked = await site.there.next_request()
    if end == "read":
        await asked.respond(b"{}")
        assert await (await asking).read(100, 10) == b"{}"
    else:
        await asked.start_stream()
        response = await asking
        assert await response.read_chunk(10)
        if end == "closed":
            response.close()
        else:
            asked.abort()
            with pytest.raises(UpstreamClosed):
                await response.read_chunk(10)
    beats = len(site.there.probe_times)
    await asyncio.sleep(3 * PROBE_INTERVAL_S)  # what does not come has no event
    assert len(site.there.probe_times) <= beats + 1


async def test_a_request_that_breaks_before_its_answer_takes_the_way(site: Site) -> None:
    await site.found()
    waiting = site.ask()
    (await site.there.next_request()).abort()
    with pytest.raises(UpstreamClosed):
        await waiting
    assert site.ways == [ReachWay.DIRECT, ReachWay.NONE]


async def test_one_that_breaks_in_its_answer_does_not(site: Site) -> None:
    """An engine that dies in the middle is the engine's matter: its node says so by hanging up."""
    await site.found()
    response = await site.begun()
    site.there.requests[-1].abort()
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)
    assert site.ways == [ReachWay.DIRECT]


async def test_a_client_that_leaves_does_not(site: Site) -> None:
    await site.found()
    waiting = site.ask()
    asked = await site.there.next_request()
    waiting.cancel()
    await asyncio.wait([waiting])
    await asked.client_closed.wait()
    assert site.ways == [ReachWay.DIRECT]


async def test_one_that_refuses_is_left_alone_for_longer_and_longer(site: Site) -> None:
    await site.found()
    site.there.rejects_connections = True
    met = len(site.there.connection_times)
    site.there.drop_probe_connections()
    await site.there.wait_until(lambda: len(site.there.connection_times) >= met + 5)
    pauses = [later - earlier for earlier, later in pairwise(site.there.connection_times[met : met + 5])]
    assert pauses[0] > MIN_BACKOFF_S
    assert pauses[-1] > pauses[0] + 3 * MIN_BACKOFF_S
    assert site.reach.route_of(NODE_ID) is None
    site.there.rejects_connections = False
    await site.until(lambda: site.reach.route_of(NODE_ID) is not None)


async def test_one_that_forgot_its_balancer_is_asked_no_more(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.found()
    waiting = site.ask()
    asked = await site.there.next_request()
    site.there.credential = "of another membership"
    with caplog.at_level(logging.WARNING):
        await asked.respond(b"{}", b"WWW-Authenticate: Bearer", status=401)
        with pytest.raises(ConnectError):
            await waiting
        proofs = len(site.there.proof_headers)
        await site.there.wait_until(lambda: len(site.there.proof_headers) >= proofs + 3)
    assert site.ways == [ReachWay.DIRECT, ReachWay.NONE]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert said.count("its node.json was replaced") == 1
    assert said.count("is not the node cellar") == 1


async def test_a_401_of_its_engine_is_an_answer(site: Site) -> None:
    await site.found()
    asking = site.ask()
    await (await site.there.next_request()).respond(b"{}", status=401)
    assert (await asking).status == 401
    assert site.ways == [ReachWay.DIRECT]


async def test_the_same_hello_changes_nothing(site: Site) -> None:
    await site.found()
    proofs = len(site.there.proof_headers)
    response = await site.begun()
    site.reach.connect_node(site.there.build_hello(), None)
    await site.there.requests[-1].send(b"0\r\n\r\n")
    assert await response.read_chunk(10) == b""
    assert site.ways == [ReachWay.DIRECT]
    assert len(site.there.proof_headers) == proofs


# --- a link that ends --------------------------------------------------------------------------------


async def test_answers_that_had_begun_end_when_the_node_was_silent_for_too_long(site: Site) -> None:
    await site.found()
    response = await site.begun()
    site.reach.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S - 0.2)
    assert site.reach.route_of(NODE_ID) is None
    assert await response.read_chunk(0.05) is None
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)


async def test_a_node_that_was_silent_long_enough_ends_at_once(site: Site) -> None:
    """Its kernel may well be alive: a stopped process looks like this."""
    await site.found()
    response, waiting = await site.begun(), site.ask()
    await site.there.next_request()
    site.reach.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S)
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)
    with pytest.raises(UpstreamClosed):
        await waiting


async def test_a_link_that_comes_back_lets_them_go_on(site: Site) -> None:
    await site.found()
    response = await site.begun()
    asked = site.there.requests[-1]
    site.reach.disconnect_node(NODE_ID, SILENCE_TIMEOUT_S - 0.2)
    await site.found()
    assert await response.read_chunk(0.4) is None
    await asked.send(b"0\r\n\r\n")
    assert await response.read_chunk(10) == b""


async def test_another_process_of_the_node_ends_those_of_the_one_before(site: Site) -> None:
    await site.found()
    response = await site.begun()
    site.reach.disconnect_node(NODE_ID, 0.0)
    await site.found(instance="second")
    with pytest.raises(UpstreamClosed):
        await response.read_chunk(10)


async def test_what_waits_when_the_link_ends_is_still_cared_for(site: Site) -> None:
    await site.found()
    waiting = site.ask()
    await site.there.next_request()
    site.reach.disconnect_node(NODE_ID, 0.0)
    beats = len(site.there.probe_times)
    await site.there.wait_until(lambda: len(site.there.probe_times) > beats)
    site.there.drop_probe_connections()
    with pytest.raises(UpstreamClosed):
        await waiting


# --- a node that cannot be dialled -------------------------------------------------------------------


async def dial(site: Site) -> None:
    """What the node does, and what its balancer's route does with it."""
    host, port = site.there.url.removeprefix("http://").split(":")
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    site.reach.accept_tunnel(NODE_ID, transport)


async def asked_to_dial(site: Site) -> None:
    async with asyncio.timeout(10):
        while not any(site.dials):
            await asyncio.sleep(0.01)


async def test_it_is_asked_to_dial_and_used_over_what_it_dials(site: Site) -> None:
    site.reach.connect_node(site.there.build_hello(NOWHERE), None)
    await asked_to_dial(site)
    assert site.reach.expects_tunnel(NODE_ID)
    for _ in range(2):
        await dial(site)
    await site.until(lambda: site.ways == [ReachWay.REVERSE])
    assert site.reach.base_url_of(NODE_ID) is None
    asking = site.ask()
    asked = await site.there.next_request()
    assert asked.headers["x-llb-hop"] == "1"  # it is not from the node's own host, although it says localhost
    # There is none left: the next request waits for one, but not for long. That the node is slow does not mean it is gone.
    with pytest.raises(ConnectError):
        await site.ask()
    await asked.respond(b"{}")
    assert await (await asking).read(100, 10) == b"{}"
    assert site.ways == [ReachWay.REVERSE]


async def test_when_it_can_be_dialled_after_all_it_is(site: Site) -> None:
    async with run_fake_node() as firewall:
        firewall.rejects_connections = True
        site.reach.connect_node(site.there.build_hello(firewall.url), None)
        await asked_to_dial(site)
        for _ in range(2):
            await dial(site)
        await site.until(lambda: site.ways == [ReachWay.REVERSE])
        begun = await site.begun()
        firewall.rejects_connections = False
        await site.until(lambda: site.reach.reach_view_of(NODE_ID).way is ReachWay.DIRECT)
        assert site.dials[-1] == 0
        assert site.reach.base_url_of(NODE_ID) == firewall.url
        await site.there.requests[-1].send(b"0\r\n\r\n")  # what had begun ends as it would have
        assert await begun.read_chunk(10) == b""
        await asyncio.sleep(0.2)
        assert site.ways == [ReachWay.REVERSE, ReachWay.DIRECT]
