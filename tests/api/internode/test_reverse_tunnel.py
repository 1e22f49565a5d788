"""Reverse tunnels between two real Sanic servers, on both event loops."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import uvloop
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from llb.api.internode.reverse_tunnel import TunnelProtocol, reverse_tunnel_blueprint
from llb.api.middleware.error_handler import install_error_handler
from llb.api.responses import json_response, no_content
from llb.base.node_identity import Membership
from llb.cluster.join.tunnel_pool import TunnelPool
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.gateway.nodes.route_discovery import tunnel_target
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Role
from tests.harness import wait_until

Sanic.test_mode = True
_names = itertools.count()
NODE_ID = "node-1"
TARGET = tunnel_target(NODE_ID, "credential")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


@dataclass
class Pair:
    """A node and its balancer."""

    http_client: HttpClient
    tunnel_pool: TunnelPool
    expected: bool = True
    dialled_count: int = 0
    # Handlers of the node that were cancelled by a disconnect.
    cancelled: int = 0
    active_handlers: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def expects_tunnel(self, node_id: str) -> bool:
        return self.expected and node_id == NODE_ID

    def accept_tunnel(self, node_id: str, transport: asyncio.Transport) -> None:
        self.dialled_count += 1
        self.http_client.adopt_connection(tunnel_target(node_id), transport)

    async def ask(
        self, path: str, body: bytes = b"{}", *, connect_timeout_s: float = 5.0
    ) -> UpstreamResponse:
        return await self.http_client.request(
            TARGET,
            b"POST",
            path.encode(),
            ((b"content-type", b"application/json"),),
            body,
            connect_timeout_s=connect_timeout_s,
            header_timeout_s=10,
        )

    async def idle(self, count: int) -> None:
        await wait_until(lambda: self.http_client.idle_connections == count)


@asynccontextmanager
async def served(app: Sanic[Any, Any]) -> AsyncIterator[tuple[int, Any]]:
    install_error_handler(app)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    server: Any = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await server.after_start()
    try:
        yield sock.getsockname()[1], server
    finally:
        await server.before_stop()
        await server.close()
        for connection in list(server.connections):
            connection.abort()
        await server.after_stop()
        Sanic.unregister_app(app)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    balancer: Sanic[Any, Any] = Sanic(f"balancer{next(_names)}", configure_logging=False)
    node: Sanic[Any, Any] = Sanic(f"node{next(_names)}", configure_logging=False)
    node.config.KEEP_ALIVE_TIMEOUT = 75

    @balancer.on_request
    async def admit(request: Request) -> None:
        assert request.headers["authorization"] == "Bearer credential"
        request.ctx.principal = Principal(kind=PrincipalKind.NODE, id=NODE_ID, role=Role.USER)

    @node.post("/echo")
    async def echo(request: Request) -> HTTPResponse:
        assert request.headers["host"].startswith("localhost")
        return json_response({"length": len(request.body)})

    @node.post("/stream")
    async def stream(request: Request) -> HTTPResponse | None:
        both.active_handlers += 1
        try:
            answer = await request.respond(content_type="text/event-stream")
            await answer.send(b"data: first\n\n")
            await both.release.wait()
            for number in range(100):
                await answer.send(b"data: %d\n\n" % number * 100)
            await answer.eof()
        except asyncio.CancelledError:
            both.cancelled += 1
            raise
        finally:
            both.active_handlers -= 1
        return None

    @node.post("/silent")
    async def silent(_request: Request) -> HTTPResponse:
        both.active_handlers += 1
        try:
            await both.release.wait()
        except asyncio.CancelledError:
            both.cancelled += 1
            raise
        finally:
            both.active_handlers -= 1
        return no_content()

    http_client = HttpClient()
    acceptor = _DeferredAcceptor()
    balancer.blueprint(reverse_tunnel_blueprint(acceptor))
    async with served(balancer) as (port, _), served(node):
        membership = Membership(
            balancer_url=f"http://127.0.0.1:{port}",
            cluster_id="",
            node_id=NODE_ID,
            name="cellar",
            credential="credential",
            hop_credential="",
        )
        both = acceptor.pair = Pair(http_client, TunnelPool(membership, partial(TunnelProtocol, node)))
        running = asyncio.ensure_future(both.tunnel_pool.run())
        try:
            yield both
        finally:
            running.cancel()
            await asyncio.wait([running])
            await http_client.close()


class _DeferredAcceptor:
    """Forwards to a pair that is created later."""

    pair: Pair

    def expects_tunnel(self, node_id: str) -> bool:
        return self.pair.expects_tunnel(node_id)

    def accept_tunnel(self, node_id: str, transport: asyncio.Transport) -> None:
        self.pair.accept_tunnel(node_id, transport)


Scenario = Callable[[Pair], Awaitable[None]]
RunScenario = Callable[[Scenario], None]


@pytest.fixture(params=LOOPS)
def run_scenario(request: pytest.FixtureRequest) -> RunScenario:
    """Return a function that runs a scenario with a pair on an event loop of its own."""

    async def with_pair(scenario: Scenario) -> None:
        async with asyncio.timeout(30), pair() as both:
            await scenario(both)

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(with_pair(scenario))

    return run


def test_requests_use_the_tunnels_of_the_node(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(2)
        await both.idle(2)
        for size in (2, 300_000, 2, 2):
            response = await both.ask("/echo", b"x" * size)
            assert await response.read(100, 10) == b'{"length":%d}' % size
        await both.idle(3)
        # One is in use at a time, and each is reused.
        assert both.dialled_count == 3

    run_scenario(scenario)


def test_tunnels_in_use_are_replaced(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(2)
        answers = await asyncio.gather(*(both.ask("/stream") for _ in range(20)))
        assert both.active_handlers == 20
        await both.idle(2)
        both.release.set()
        for answer in answers:
            body = await answer.read(1_000_000, 10)
            assert body.startswith(b"data: first\n\n")
            assert body.endswith(b"data: 99\n\n")
        # They stay open for the next burst.
        await both.idle(22)

    run_scenario(scenario)


def test_a_disconnect_cancels_the_request(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(1)
        streaming = await both.ask("/stream")
        waiting = asyncio.ensure_future(both.ask("/silent"))
        await wait_until(lambda: both.active_handlers == 2)
        streaming.close()
        waiting.cancel()
        await wait_until(lambda: both.cancelled == 2)
        await both.idle(1)

    run_scenario(scenario)


def test_a_stopping_node_ends_its_responses(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(1)
        streaming = await both.ask("/stream")
        assert await streaming.read_chunk(10) == b"data: first\n\n"
        waiting = asyncio.ensure_future(both.ask("/silent"))
        await wait_until(lambda: both.active_handlers == 2)
        await both.idle(1)
        both.tunnel_pool.set_min_idle(0)
        for connection in tuple(both.tunnel_pool._connections):
            connection.abort()
        with pytest.raises(UpstreamClosed):
            await streaming.read_chunk(10)
        with pytest.raises(UpstreamClosed):
            await waiting
        await both.idle(0)

    run_scenario(scenario)


def test_without_demand_no_tunnel_is_dialled(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(2)
        await both.idle(2)
        both.tunnel_pool.set_min_idle(0)
        both.http_client.close_idle(TARGET)
        await wait_until(lambda: both.http_client.open_connections == 0)
        with pytest.raises(ConnectError) as caught:
            await both.ask("/echo", connect_timeout_s=0.2)
        assert caught.value.is_timeout
        assert both.dialled_count == 2

    run_scenario(scenario)


def test_a_new_link_replaces_idle_tunnels_and_keeps_active_ones(run_scenario: RunScenario) -> None:
    """After a network cut, the kernel of the node takes dead connections for open for a long time."""

    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(2)
        streaming = await both.ask("/stream")
        await both.idle(2)
        before = both.dialled_count
        both.tunnel_pool.set_min_idle(0)
        both.tunnel_pool.set_min_idle(2)
        await wait_until(lambda: both.dialled_count == before + 2)
        await both.idle(2)
        both.release.set()
        assert (await streaming.read(1_000_000, 10)).endswith(b"data: 99\n\n")

    run_scenario(scenario)


def test_a_rejected_tunnel_is_dialled_again(run_scenario: RunScenario) -> None:
    async def scenario(both: Pair) -> None:
        both.expected = False
        both.tunnel_pool.set_min_idle(1)
        with pytest.raises(ConnectError):
            await both.ask("/echo", connect_timeout_s=0.3)
        assert both.dialled_count == 0
        both.expected = True
        await (await both.ask("/echo")).read(100, 10)

    run_scenario(scenario)


def test_sanic_releases_a_tunnel_completely(run_scenario: RunScenario) -> None:
    """The task of the request that dialled the tunnel has ended when the tunnel is used."""

    async def scenario(both: Pair) -> None:
        both.tunnel_pool.set_min_idle(1)
        await both.idle(1)
        await (await both.ask("/echo")).read(100, 10)
        # That of the node, which serves requests.
        await wait_until(lambda: len(connection_tasks()) == 1)

    def connection_tasks() -> list[str]:
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        return [name for name in names if "connection_task" in name]

    run_scenario(scenario)


async def test_a_request_without_an_upgrade_is_rejected() -> None:
    async with pair() as both:
        port = int(both.tunnel_pool._membership.balancer_url.rpartition(":")[2])
        response = await both.http_client.request(
            UpstreamTarget("127.0.0.1", port, api_key="credential"),
            b"GET",
            b"/hop/dial",
            connect_timeout_s=5,
            header_timeout_s=5,
        )
        assert response.status == 400
        response.close()
