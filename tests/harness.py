"""The product in the test's own event loop: one real server on a free port, and a client that
speaks to it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
import msgspec
import websockets.asyncio.client
from sanic import Sanic
from sanic.router import Router

from llb.app import create_app
from llb.balancer import Balancer
from llb.base import node_identity
from llb.config import make_config
from llb.joined_node import JoinedNode
from llb.security import tls_trust
from llb.server import BoundPort, Server, bind_ollama_port
from llb.wire import NodeStatus
from tests.reference import reference_of

PASSWORD = "correct horse battery"
DEADLINE_S = 30.0

App = TypeVar("App", Balancer, JoinedNode)


class _RunningServer(Generic[App]):
    """A server of this process. `http` is signed with the local token, as the commands on the host are."""

    app: App

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.settings = settings
        # Used if no port is requested and the port is free.
        self.preferred_port = 0
        self._server: Server | None = None

    async def start(self, port: int = 0) -> Self:
        """Serve on `port`, 0: a free one. After `stop()` it may be started again, on the port it had."""
        Sanic.test_mode = True  # several apps of one name in one process
        config = make_config(home=self.home, **{"port": 0, **self.settings})
        app = create_app(config)
        try:
            sock = socket.create_server(("127.0.0.1", port or self.preferred_port))
        except OSError:
            if port != 0:
                raise
            sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        main, ollama = BoundPort((sock,)), bind_ollama_port(config)
        try:
            server = Server(app, main, ollama)
            await server.start()
        except BaseException:
            main.close()
            if ollama is not None:
                ollama.close()
            raise
        self._server = server
        self.sanic_app = app
        self.app: App = app.ctx.llb
        self.port = server.port
        self.ollama_port = server.ollama_port
        tls = self.app.tls
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self.ssl_context = None if tls is None else tls_trust.get_client_context(tls.anchor)
        self.http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.app.local_token}"},
            timeout=DEADLINE_S,
            trust_env=False,
            verify=self.ssl_context or True,
            event_hooks={"response": [self.check_conformance]},
        )
        return self

    async def check_conformance(self, response: httpx.Response) -> None:
        """Check every response against the reference of the API."""
        if not isinstance(self.app, Balancer):
            return
        # A chunked response may have to be read as it arrives.
        if "content-length" in response.headers:
            await response.aread()
            reference_of(self.sanic_app).check_response(response.request, response)

    async def stop(self, drain_timeout_s: float = 0.0) -> None:
        if self._server is not None:
            await self.http.aclose()
            await self._server.stop(drain_timeout_s)
            self._server = None
            # Sanic's cache would keep the apps of the last thousand requests alive.
            Router.get.cache_clear()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class RunningBalancer(_RunningServer[Balancer]):
    """A running balancer with its own node."""

    async def create_join_token(self) -> str:
        """A token that lets one host join."""
        answer = await self.http.post("/api/nodes/join-tokens", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    # --- what tests do often ------------------------------------------------------------------------

    async def wait_until_online(self) -> None:
        """Wait until the local node has said hello."""
        await self.wait_until(
            lambda: (
                bool(self.app.cluster.view.online_nodes())
                and all(node.heartbeat is not None for node in self.app.cluster.view.online_nodes())
            )
        )

    async def wait_until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition` holds; it is looked at after every event of the balancer."""
        with self.app.base.event_bus.subscribe(100_000) as events:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    await events.get()

    async def get_model(self, model_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/api/models/{model_id}")
        answer.raise_for_status()
        return dict(answer.json())

    async def register_model(self, model_id: str) -> httpx.Response:
        return await self.http.post("/api/models/register", json={"model_id": model_id})

    async def pull_model(self, model_id: str, deadline_s: float = DEADLINE_S) -> None:
        """Register a model and wait until it is Ready."""
        answer = await self.register_model(model_id)
        assert answer.status_code == 202, answer.text
        await self.wait_for_status(model_id, "Ready", deadline_s=deadline_s)

    async def wait_for_status(self, model_id: str, *statuses: str, deadline_s: float = DEADLINE_S) -> None:
        await self.wait_until(
            lambda: self.app.cluster.view.status_of(model_id).status.value in statuses, deadline_s
        )

    async def create_key(self, *scopes: str) -> str:
        """A new key with these scopes, without any of an administrator."""
        body = {"name": "test", "scopes": scopes or ("admin",)}
        answer = await self.http.post("/api/keys", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    @asynccontextmanager
    async def open_event_stream(
        self, **kwargs: Any
    ) -> AsyncIterator[websockets.asyncio.client.ClientConnection]:
        """A reader of /ws/models with the local token."""
        headers = {"Authorization": f"Bearer {self.app.local_token}"}
        async with websockets.asyncio.client.connect(
            f"ws{self.url.removeprefix('http')}/ws/models",
            additional_headers=headers,
            proxy=None,
            ssl=self.ssl_context,
            **kwargs,
        ) as reader:
            yield reader


class RunningJoinedNode(_RunningServer[JoinedNode]):
    """Node that joins `balancer` at its first start, with a token created there unless it has one."""

    def __init__(self, balancer: RunningBalancer, home: Path, **settings: Any) -> None:
        usual = {
            "name": home.name,
            "host": "127.0.0.1",
            "hub_endpoint": balancer.settings["hub_endpoint"],
            "join": balancer.url,
        }
        super().__init__(home, **{**usual, **settings})
        self.balancer = balancer

    async def start(self, port: int = 0) -> Self:
        joined = node_identity.read_membership(self.home) is not None
        if not joined and "join_token" not in self.settings:
            self.settings["join_token"] = await self.balancer.create_join_token()
        return await super().start(port)

    @property
    def id(self) -> str:
        assert self.app.membership is not None
        return self.app.membership.node_id

    async def wait_until_online(self) -> None:
        """Wait until the balancer has its whole state and a route to it."""
        view, reach = self.balancer.app.cluster.view, self.balancer.app.cluster.node_connections

        def there() -> bool:
            node = view.nodes.get(self.id)
            heard = node is not None and node.is_online and node.heartbeat is not None
            return heard and reach.route_of(self.id) is not None

        await wait_until(there)

    async def wait_for_status(self, status: NodeStatus) -> None:
        """Wait until the node has this status at the balancer."""
        view = self.balancer.app.cluster.view
        await self.balancer.wait_until(lambda: view.nodes[self.id].status is status)


async def wait_until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds, for state without an event."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


def write_catalog(path: Path, *entries: dict[str, Any]) -> Path:
    """A catalogue of these entries, with sensible values for missing fields."""
    full = [
        {
            "name": entry["id"],
            "repo": f"test/{entry['id']}",
            "recommended_filename": f"{entry['id']}.gguf",
            "required_memory_bytes": max(entry.get("size_bytes", 1), 64_000_000),
            **entry,
        }
        for entry in entries
    ]
    path.write_bytes(msgspec.json.encode(full))
    return path
