"""Hop answers: callbacks and tasks pass the same answers on, and give back the same things."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from sanic import Sanic

from llb.accounts.authenticator import BalancerAuthenticator
from llb.api.connection.connection_limiter import ConnectionLimiter
from llb.api.connection.resources import ConnectionResources
from llb.api.internode import hop_answer, proxy
from llb.api.internode.node_api import node_api_blueprint
from llb.api.internode.proxy import InFlightCounter
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import install_error_handler
from llb.app import _create_sanic, _install_auth
from llb.config import make_config
from llb.engine.lease import Lease
from llb.engine.spec import WorkerReady
from llb.engine.watch_policy import Blame
from llb.errors import NoNodeAvailable
from llb.front.protocol import InferenceFront
from llb.gateway.http.client import HttpClient
from llb.node.agent import NodeAgent
from llb.server import Listener
from tests.api.connection.raw import RawConnection, connect
from tests.front.test_front_and_sanic import comparable, read_body, request_bytes
from tests.gateway.fake_engine import SSE_HEAD, Exchange, FakeEngine, run_fake_engine
from tests.gateway.gateway_fixture import FakeLease
from tests.harness import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = ("front", "sanic")
CREDENTIAL = "llbn-1"
MODEL = "chat"
PATH = "/hop/v1/chat/completions"
USUAL_QUERY = f"?model={MODEL}&load_s=5&blame=1&prefill_tokens_per_s=9"
EVENT = b"data: {}\n\n"
DOCUMENT = b'{"answer":1}'
# Of a streamed answer: its rest comes in reads of its own.
Handler = Callable[[Exchange, asyncio.Event], Awaitable[None]]


@dataclass
class Node:
    """A joined host as its balancer sees it, with an engine whose every byte a test controls."""

    engine: FakeEngine
    in_flight: InFlightCounter
    limiter: ConnectionLimiter
    port: int = 0
    credential: str = CREDENTIAL
    is_loaded: bool = True
    blame: Blame | None = None
    leases: list[FakeLease] = field(default_factory=list)
    handler: Handler | None = None
    # The balancer has the head of an answer.
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def lease_loaded(self, model_id: str, _keep_alive: object) -> Lease | None:
        if model_id != MODEL:
            raise NoNodeAvailable("not here")
        return self._lease() if self.is_loaded else None

    async def acquire_lease(self, model_id: str, **_options: object) -> Lease:
        if model_id != MODEL:
            raise NoNodeAvailable("not here")
        return self._lease()

    def _lease(self) -> Lease:
        target = self.engine.target
        worker = WorkerReady(host=target.host, port=target.port, context_length=4096, slots=1)
        self.leases.append(FakeLease(worker, blame=self.blame))
        return cast(Lease, self.leases[-1])

    def find_connection(self, client: RawConnection) -> Any:
        """The server's end of a connection; None before the server knows it."""
        name = client.writer.get_extra_info("sockname")
        for connection in self.limiter._connections:
            transport = cast(Any, connection).transport
            if transport is not None and transport.get_extra_info("peername") == name:
                return connection
        return None

    async def read_answer(self, connection: RawConnection) -> tuple[bytes, bytes]:
        """Head and body of the next response."""
        head = await connection.read_head()
        self.has_begun.set()
        return head, await read_body(connection, head)

    async def wait_until_idle(self) -> None:
        """Wait until everything was given back."""
        await self.in_flight.wait_idle(20)
        assert not self.in_flight._count
        assert all(lease.is_released for lease in self.leases)

    async def ask(
        self,
        connection: RawConnection,
        served_by: str,
        *,
        query: str = USUAL_QUERY,
        request_id: str = "r1",
        credential: str = CREDENTIAL,
    ) -> None:
        self.has_begun.clear()
        # As a balancer writes it.
        headers = f"x-request-id: {request_id}\r\n"
        await connection.send(
            request_bytes(PATH + query, b"{}", served_by=served_by, headers=headers, key=credential)
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async def handle(exchange: Exchange) -> None:
        assert served.handler is not None
        await served.handler(exchange, served.has_begun)

    # Several apps of one name in one process.
    Sanic.test_mode = True
    app = _create_sanic("llb")
    config = make_config(home=tmp_path_factory.mktemp("hop"), port=0)
    app.ctx.connections = ConnectionResources(config)
    http_client = HttpClient(fail_fast=True)
    async with run_fake_engine(handle) as engine:
        served = Node(engine, InFlightCounter(), app.ctx.connections.limiter)
        pool = SimpleNamespace(lease_loaded=served.lease_loaded)
        agent = SimpleNamespace(acquire_lease=served.acquire_lease, engine_pool=pool)
        auth = AuthMiddleware(config, BalancerAuthenticator(lambda: served.credential), local_token="local")
        _install_auth(app, auth, install_error_handler(app), "")
        app.blueprint(node_api_blueprint(cast(NodeAgent, agent), http_client, served.in_flight, lambda: None))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            listener = Listener(app, [sock])
            await listener.start()
            served.port = listener.port
            yield served
            await listener.stop_app()
            await listener.close()
        await http_client.close()


@pytest.fixture
def node(served_node: Node) -> Node:
    served_node.credential, served_node.is_loaded, served_node.blame = CREDENTIAL, True, None
    served_node.leases.clear()
    return served_node


FRAME = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


async def send_document(exchange: Exchange, _has_begun: asyncio.Event) -> None:
    assert (exchange.path, exchange.body) == ("/v1/chat/completions", b"{}")
    assert ("authorization", "Bearer sk-engine") in exchange.headers
    await exchange.send_json(DOCUMENT)


async def send_stream(exchange: Exchange, has_begun: asyncio.Event, head: bytes = SSE_HEAD) -> None:
    await exchange.send(head)
    await exchange.send_chunk(EVENT)
    await has_begun.wait()
    for _ in range(3):
        await exchange.send_chunk(EVENT)
    # An event in two pieces, and the end of the body with the last one.
    await exchange.send_chunk(b"data: cut")
    await exchange.send_chunk(b"\n\n")
    await exchange.send(FRAME + b"0\r\n\r\n")


async def send_last_stream(exchange: Exchange, has_begun: asyncio.Event) -> None:
    """As llama-server does, which closes its connection."""
    await send_stream(exchange, has_begun, SSE_HEAD[:-2] + b"Connection: close\r\n\r\n")
    exchange.close_after_response = True


async def send_error(exchange: Exchange, _has_begun: asyncio.Event) -> None:
    await exchange.send_json(b'{"error":{"message":"no"}}', 400)


async def hang_up(exchange: Exchange, _has_begun: asyncio.Event) -> None:
    exchange.abort()


async def send_nothing(exchange: Exchange, _has_begun: asyncio.Event) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@dataclass
class Case:
    handler: Handler = send_document
    query: str = USUAL_QUERY
    status: int = 200
    is_loaded: bool = True
    blame: Blame | None = None
    credential: str = CREDENTIAL
    # Tasks of the front for two requests of a connection; a new head has one.
    tasks: int = 2


CASES = {
    "document": Case(tasks=1),
    "stream": Case(send_stream, tasks=1),
    "last stream of a connection": Case(send_last_stream, tasks=1),
    "no body": Case(send_nothing, tasks=3),
    "error of the engine": Case(send_error, status=400, tasks=3),
    "engine that hangs up": Case(hang_up, status=502, tasks=3),
    "request that crashes it": Case(hang_up, status=400, blame=Blame.CAUSE, tasks=3),
    "model that is not loaded": Case(is_loaded=False),
    "model that is not here": Case(query="?model=other", status=503),
    "no model": Case(query="", status=503),
    "malformed number": Case(query=f"?model={MODEL}&load_s=x", status=400),
    "no number": Case(query=f"?model={MODEL}&load_s=nan", status=400),
    "wrong credential": Case(status=401, credential="llbn-2"),
}


@pytest.mark.parametrize("name", CASES)
async def test_front_and_sanic_answer_alike(node: Node, in_tasks: list[str], name: str) -> None:
    case = CASES[name]
    node.handler, node.is_loaded, node.blame = case.handler, case.is_loaded, case.blame
    answers = []
    for served_by in SERVERS:
        async with connect(node.port) as connection:
            for number in range(2):
                request_id = f"{served_by}.{number}"
                await node.ask(
                    connection, served_by, query=case.query, request_id=request_id, credential=case.credential
                )
                head, body = await node.read_answer(connection)
                assert b"x-request-id: %b\r\n" % request_id.encode() in head.lower()
                answers.append((comparable(head), body))
        await node.wait_until_idle()
    assert head.startswith(b"HTTP/1.1 %d " % case.status)
    assert answers[1:] == answers[:1] * 3
    assert len(in_tasks) == case.tasks


async def test_a_head_is_parsed_once_whatever_the_ids_of_its_requests(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    find_head = InferenceFront.find_head

    def noting(self: InferenceFront, data: bytes) -> Any:
        parsed.append(data)
        return find_head(self, data)

    monkeypatch.setattr(InferenceFront, "find_head", noting)
    node.handler = send_document
    async with connect(node.port) as connection:
        for request_id in ("a", "a-long_one.2", "3", "x" * 64):
            await node.ask(connection, "front", request_id=request_id)
            head, _ = await node.read_answer(connection)
            assert b"x-request-id: %b\r\n" % request_id.encode() in head.lower()
    assert len(parsed) == 1


async def test_another_credential_is_refused_on_an_open_connection(node: Node) -> None:
    """The balancer, or the host, was replaced."""
    node.handler = send_document
    async with connect(node.port) as connection:
        for status, credential in ((200, CREDENTIAL), (200, CREDENTIAL), (401, "llbn-3"), (200, CREDENTIAL)):
            node.credential = credential
            await node.ask(connection, "front")
            assert (await node.read_answer(connection))[0].startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("served_by", SERVERS)
@pytest.mark.parametrize("begins", [False, True])
async def test_a_balancer_that_leaves_ends_the_request_of_the_engine(
    node: Node, served_by: str, begins: bool
) -> None:
    async def answer(exchange: Exchange, _has_begun: asyncio.Event) -> None:
        received.set_result(exchange)
        if begins:
            await exchange.send(SSE_HEAD)
        while not exchange.client_closed.is_set():
            # A write shows that the client has left.
            if begins:
                await exchange.send_chunk(EVENT)
            await asyncio.sleep(0.01)

    received: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
    node.handler = answer
    async with connect(node.port) as connection:
        await node.ask(connection, served_by)
        exchange = await received
        if begins:
            await connection.read_head()
    async with asyncio.timeout(20):
        await exchange.client_closed.wait()
    await node.wait_until_idle()


@pytest.mark.parametrize("served_by", SERVERS)
@pytest.mark.parametrize("blame", [None, Blame.SUSPECT])
async def test_an_engine_that_dies_in_an_answer_is_reported(
    node: Node, served_by: str, blame: Blame | None
) -> None:
    async def die(exchange: Exchange, has_begun: asyncio.Event) -> None:
        await exchange.send(SSE_HEAD)
        await exchange.send_chunk(EVENT)
        await has_begun.wait()
        exchange.abort()

    node.handler, node.blame = die, blame
    for query in (USUAL_QUERY, USUAL_QUERY.replace("&blame=1", "")):
        async with connect(node.port) as connection:
            await node.ask(connection, served_by, query=query)
            await connection.read_head()
            node.has_begun.set()
            rest = await connection.read_to_end()
        trailer = b"0\r\nx-llb-engine-ended: suspect\r\n\r\n"
        assert rest.endswith(trailer if blame is not None and "blame" in query else EVENT + b"\r\n")
        await node.wait_until_idle()


@pytest.mark.parametrize("served_by", SERVERS)
@pytest.mark.parametrize("begins", [False, True])
async def test_a_silent_engine_has_a_deadline(
    node: Node, monkeypatch: pytest.MonkeyPatch, served_by: str, begins: bool
) -> None:
    if begins:
        for module in (hop_answer, proxy):
            monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.01)
    else:
        monkeypatch.setattr(hop_answer, "HEADER_TIMEOUT_S", 0.01)

    async def fall_silent(exchange: Exchange, _has_begun: asyncio.Event) -> None:
        if begins:
            # In one read: neither is late, however busy the machine is.
            await exchange.send(SSE_HEAD + FRAME)
        await exchange.client_closed.wait()

    node.handler = fall_silent
    async with connect(node.port) as connection:
        await node.ask(connection, served_by)
        head = await connection.read_head()
        if begins:
            assert (await connection.read_to_end()).endswith(EVENT + b"\r\n")
        assert head.startswith(b"HTTP/1.1 200 " if begins else b"HTTP/1.1 504 ")
    await node.wait_until_idle()


@pytest.mark.parametrize("served_by", SERVERS)
async def test_a_balancer_that_reads_slowly_gets_everything(
    node: Node, in_tasks: list[str], served_by: str
) -> None:
    chunk = b"data: %b\n\n" % (b"x" * 4000)
    count = 200

    async def write_much(exchange: Exchange, _has_begun: asyncio.Event) -> None:
        await exchange.send(SSE_HEAD)
        for _ in range(count):
            await exchange.send_chunk(chunk)
        await exchange.end_body()

    node.handler = write_much
    async with connect(node.port, receive_buffer_bytes=4096) as connection:
        connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wait_until(lambda: node.find_connection(connection) is not None)
        protocol = node.find_connection(connection)
        # The kernel must not take the whole answer.
        kernel_socket = protocol.transport.get_extra_info("socket")
        kernel_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await node.ask(connection, served_by)
        await wait_until(lambda: not protocol._can_write.is_set())
        # A task continues once the balancer has fallen behind.
        await wait_until(lambda: len(in_tasks) == (2 if served_by == "front" else 0))
        connection.reader._transport.resume_reading()  # type: ignore[attr-defined]
        head, body = await node.read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == chunk * count
        await node.ask(connection, served_by)
        assert (await node.read_answer(connection))[1] == chunk * count
    await node.wait_until_idle()
