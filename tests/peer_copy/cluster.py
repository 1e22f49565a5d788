"""In-process cluster: a balancer and its nodes with real agents, in-memory links and real file servers.

Joining is left out (the WebSocket of the link, the identity of a joined host); all else is product code.
"""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse

from llb.accounts.authenticator import AccountAuthenticator
from llb.api.internode.peer_files import peer_files_blueprint
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import install_error_handler
from llb.base.events import EventBus
from llb.base.tasks import TaskSupervisor
from llb.catalog import load_catalog
from llb.cluster.link.link_server import LinkServer
from llb.cluster.link.local_link import create_local_link
from llb.cluster.peer_sources import PeerSources
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.config import make_config
from llb.engine.pool import EnginePool
from llb.hardware import HardwareProbe
from llb.hub import HubClient
from llb.node.agent import NodeAgent
from llb.node.download.timeouts import DownloadTimeouts
from llb.node.files import ModelFiles
from llb.node.replica import Replica
from llb.security import tokens
from llb.store.database import Database
from llb.store.tables.nodes import NodeRecord
from llb.wire import Event, Hello, ReplicaState
from tests.harness import wait_until
from tests.hub import HubStandIn

_names = itertools.count()
# The product's timeouts for nodes that send, and short ones where a test would only wait.
TIMEOUTS = DownloadTimeouts(
    backoff_initial_s=0.05,
    backoff_max_s=0.2,
    peer_backoff_initial_s=0.02,
    peer_backoff_max_s=0.1,
    peer_read_timeout_s=2.0,
)


@dataclass(frozen=True)
class FileRequest:
    """A request for a file that a node has received."""

    status: int
    range: str | None


class ClusterNode:
    """A node: an agent with its own data directory, and a server for its files. It can be restarted."""

    def __init__(
        self, cluster: InProcessCluster, name: str, home: Path, timeouts: DownloadTimeouts, **settings: Any
    ) -> None:
        self.name = name
        self.home = home
        self.file_requests: list[FileRequest] = []
        self.file_token_secret = tokens.new_session_token()
        self.is_dialable = True
        self._cluster = cluster
        self._timeouts = timeouts
        self._config = make_config(home=home, name=name, hub_endpoint=cluster.hub_endpoint, **settings)
        self._port = 0
        self._tasks: TaskSupervisor | None = None

    @property
    def address(self) -> str | None:
        return f"http://127.0.0.1:{self._port}" if self.is_dialable and self._port else None

    async def start(self) -> ClusterNode:
        config = self._config
        config.models_dir.mkdir(parents=True, exist_ok=True)
        self._db = Database(config.database_path)
        await self._db.start()
        self._hub = HubClient(config.hub_endpoint)
        self.agent = NodeAgent(
            config=config,
            db=self._db,
            hub=self._hub,
            files=ModelFiles(config.models_dir),
            hardware_probe=HardwareProbe(),
            engine_pool=EnginePool(slots=1, context=None, keep_alive_s=0),
            timeouts=self._timeouts,
        )
        self.agent.engine_pool.engine_changed.subscribe(self.agent.on_engine_changed)
        await self.agent.start(self.name)
        await self._serve()
        self._tasks = TaskSupervisor(self.name)
        node_end, balancer_end = create_local_link()
        self._tasks.spawn(
            self._cluster.links.serve_link(balancer_end, node_id=self.name, silence_timeout_s=None),
            "balancer",
        )
        self._tasks.spawn(self.agent.run_link(node_end), "node")
        return self

    async def _serve(self) -> None:
        Sanic.test_mode = True
        app: Sanic[Any, Any] = Sanic(f"host{next(_names)}", configure_logging=False)
        install_error_handler(app)
        AuthMiddleware(
            self._config, AccountAuthenticator(self._db), local_token=tokens.new_local_token()
        ).install(app)
        app.blueprint(
            peer_files_blueprint(
                self.agent.peer_file_server, lambda: self.name, lambda: self.file_token_secret
            )
        )

        async def note(request: Request, response: BaseHTTPResponse) -> None:
            self.file_requests.append(FileRequest(response.status, request.headers.get("range")))

        app.register_middleware(note, "response")
        sock = socket.create_server(("127.0.0.1", self._port))
        sock.setblocking(False)
        self._port = sock.getsockname()[1]
        server: Any = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
        await server.startup()
        await server.before_start()
        await server.start_serving()
        await server.after_start()
        self._app, self._server = app, server

    async def stop(self) -> None:
        """Stop as abruptly as a killed process: connections are reset without notice."""
        if self._tasks is None:
            return
        tasks, self._tasks = self._tasks, None
        for connection in tuple(self._server.connections):
            connection.abort()
        await self._server.close()
        await tasks.close()
        await self.agent.close()
        await self._server.after_stop()
        Sanic.unregister_app(self._app)
        await self._hub.aclose()
        await self._db.close()

    # --- state for assertions ----------------------------------------------------------------------

    def replica(self, model_id: str) -> Replica | None:
        return self.agent._replicas.get(model_id)

    def state(self, model_id: str) -> ReplicaState | None:
        replica = self.replica(model_id)
        return None if replica is None else replica.state

    def downloaded_bytes_of(self, model_id: str) -> int:
        replica = self.replica(model_id)
        return 0 if replica is None else replica.downloaded_bytes

    def is_ready(self, model_id: str) -> bool:
        return self.state(model_id) is ReplicaState.READY

    def is_waiting_to_retry(self, model_id: str) -> bool:
        """Whether one of its downloads waits for a source."""
        replica = self.replica(model_id)
        return replica is not None and any(each.retry_at is not None for each in replica.downloads.values())

    def file_path(self, model_id: str, file: str) -> Path:
        return self._config.models_dir / model_id / file

    def served_ranges(self) -> list[str | None]:
        """The ranges of the copies that this node has served."""
        return [request.range for request in self.file_requests if request.status == 206]

    def source_node_ids(self, model_id: str) -> list[str]:
        """The peer sources that this node was given for the model."""
        replica = self.replica(model_id)
        return (
            []
            if replica is None or replica.desired_model is None
            else [each.node_id for each in replica.desired_model.copies]
        )


class InProcessCluster:
    """The balancer's part and the nodes by name; the first node is the balancer's local one."""

    def __init__(self, directory: Path, hub: HubStandIn, catalog: Path) -> None:
        self.hub_endpoint = hub.url
        self.nodes: dict[str, ClusterNode] = {}
        self.bus: EventBus[Event] = EventBus()
        self._directory = directory
        self._db = Database(directory / "balancer.db")
        self._hub = HubClient(hub.url)
        self.view = ClusterView(load_catalog(catalog), self.bus, lambda _repo: None)
        self.peer_sources = PeerSources(
            self.view,
            get_local_node_id=lambda: next(iter(self.nodes)),
            address_of=lambda node_id: self.nodes[node_id].address,
            file_token_secret_of=lambda node_id: self.nodes[node_id].file_token_secret,
        )
        self.registrations = Registrations(self._db, self._hub, self.view, self.peer_sources)
        self.links = LinkServer(
            self.view,
            self.registrations.desired_state_of,
            record_hello=self._build_record,
            on_hello=lambda hello, _observed: self.registrations.on_hello(hello),
            on_replica_report=self.registrations.on_replica_report,
            on_bad_source=self.registrations.on_bad_source,
        )
        self.registrations.desired_state_changed.subscribe(self.links.push_desired_state)

    async def _build_record(self, hello: Hello) -> NodeRecord:
        return NodeRecord(id=hello.node_id, name=hello.name, created_at=0.0)

    async def start(self) -> InProcessCluster:
        await self._db.start()
        await self.registrations.start("cluster")
        return self

    async def stop(self) -> None:
        for host in self.nodes.values():
            await host.stop()
        await self.registrations.close()
        self.view.close()
        await self._hub.aclose()
        await self._db.close()

    async def add_nodes(
        self, *names: str, timeouts: DownloadTimeouts = TIMEOUTS, **settings: Any
    ) -> tuple[ClusterNode, ...]:
        """Add nodes, which join in this order and are online when this returns."""
        added = []
        for name in names:
            self.nodes[name] = host = ClusterNode(self, name, self._directory / name, timeouts, **settings)
            await host.start()
            await self.wait_until_online(host)
            added.append(host)
        return tuple(added)

    async def wait_until_online(self, cluster_node: ClusterNode) -> None:
        def is_online() -> bool:
            node = self.view.nodes.get(cluster_node.name)
            return node is not None and node.is_online and node.heartbeat is not None

        await wait_until(is_online)

    async def register_model(self, model_id: str) -> None:
        await self.registrations.register(model_id, replicas="all", created_by="test")

    async def wait_until_ready(self, model_id: str, *hosts: ClusterNode) -> None:
        """Wait until these nodes (by default all) have the model."""
        awaited = hosts or tuple(self.nodes.values())
        await wait_until(lambda: all(host.is_ready(model_id) for host in awaited))
