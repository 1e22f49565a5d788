"""Parts of the cluster: nodes, the routes and links to them, and the models that they should hold."""

from __future__ import annotations

from llb.base.events import Topic
from llb.catalog import Catalog
from llb.cluster.download_settings import DownloadSettings
from llb.cluster.join.node_admission import NodeAdmission
from llb.cluster.link.link_server import LinkServer
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.node_membership import Members
from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.peer_sources import PeerSources
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gateway.http.client import HttpClient
from llb.gateway.nodes.node_connections import NodeConnections
from llb.hub import HubStatsCache
from llb.parts.base import BaseParts
from llb.parts.local_node import LocalNode
from llb.security import tokens
from llb.store.tables import settings
from llb.wire import Hello, HfStats, ModelStatsUpdated, ReachView, ReachWay, ReplicaReport


class ClusterParts:
    """Nodes, links and routes, and the models that the nodes should hold."""

    def __init__(self, base: BaseParts, catalog: Catalog, local_node: LocalNode) -> None:
        config, db, hub = base.config, base.db, base.hub
        self._db = db
        self._event_bus = base.event_bus
        self._tasks = base.tasks
        self._agent = local_node.agent
        # Node id and report: a replica of a node has changed, or its node has said hello.
        self.replica_reported: Topic[str, ReplicaReport] = Topic()
        # Secret of the local node's file tokens; kept in the database, so None before the start.
        self.file_token_secret: str | None = None

        self.http_client = HttpClient()
        self.node_connections = NodeConnections(
            self.http_client, self._hop_credential_of, tls_only=base.tls is not None
        )
        self.hub_stats = HubStatsCache(hub, [model.repo for model in catalog], self._on_stats_changed)
        self.traffic = NodeTraffic()
        self.view = ClusterView(
            catalog,
            base.event_bus,
            self.hub_stats.get,
            address_of=self.node_connections.base_url_of,
            reach_view_of=self._reach_view_of,
            traffic=self.traffic,
        )
        self.members = Members(db, self.view, clock=db.clock.now)
        self.admission = NodeAdmission(db, self.members, clock=db.clock.now)
        self.download_settings = DownloadSettings(db)
        self.registrations = Registrations(
            db,
            hub,
            self.view,
            PeerSources(
                self.view,
                get_local_node_id=lambda: self._agent.node_id,
                address_of=self._peer_address_of,
                file_token_secret_of=self._file_token_secret_of,
                anchor_of=self._anchor_of,
            ),
            downloads=self.download_settings,
        )
        self.memory_estimates = MemoryEstimates(
            db,
            hub,
            self.view,
            self.registrations,
            get_own_capacity=lambda: self._agent.capacity,
            get_calibration=local_node.engine_pool.calibration,
            get_llama_build=lambda: local_node.engine_pool.llama_build,
            slots=config.parallel,
            context_length=config.context,
        )
        self.link_server = LinkServer(
            self.view,
            self.registrations.desired_state_of,
            record_hello=self.members.record_hello,
            on_hello=self._on_hello,
            on_replica_report=self._on_replica_report,
            on_bad_source=self.registrations.on_bad_source,
        )
        self._subscribe()

    def _subscribe(self) -> None:
        self.registrations.desired_state_changed.subscribe(self.link_server.push_desired_state)
        self.download_settings.changed.subscribe(self.link_server.push_desired_state)
        self.members.node_updated.subscribe(lambda _node_id: self.link_server.push_desired_state())
        self.members.node_removed.subscribe(self.node_connections.disconnect_node)
        self.members.node_removed.subscribe(self.registrations.on_node_removed)
        self.members.node_removed.subscribe(self._disconnect_removed_node)
        self.node_connections.route_changed.subscribe(self.view.on_route_changed)
        self.node_connections.tunnels_wanted.subscribe(self.link_server.request_tunnels)

    async def start(self, node_id: str, name: str) -> None:
        """Load the nodes and the registrations; `node_id` and `name` are the local node's."""
        db = self._db
        cluster_id = await settings.get_or_create(db, "cluster_id", tokens.new_random_id)
        # Stored under the name that it had in the first version.
        self.file_token_secret = await settings.get_or_create(db, "ticket_secret", tokens.new_session_token)
        await self.members.start(node_id, name)
        self.admission.start(cluster_id)
        self.link_server.start(cluster_id)
        await self.download_settings.start()
        await self.registrations.start(cluster_id)

    def replace_catalog(self, catalog: Catalog) -> None:
        """Use `catalog` from now on."""
        self.view.replace_catalog(catalog)
        self.hub_stats.set_repos([model.repo for model in catalog])
        # It says which models draft.
        self.link_server.push_desired_state()

    def node_id_of(self, credential: str) -> str | None:
        """Return the id of the node that has this credential."""
        record = self.members.find_by_credential(credential)
        return None if record is None else record.id

    def _reach_view_of(self, node_id: str) -> ReachView:
        if node_id == self._agent.node_id:
            return ReachView(way=ReachWay.LOCAL)
        return self.node_connections.reach_view_of(node_id)

    def _hop_credential_of(self, node_id: str) -> str | None:
        record = self.members.get_record(node_id)
        return None if record is None else record.hop_credential

    def _peer_address_of(self, node_id: str) -> str | None:
        if node_id == self._agent.node_id:
            return ""
        route = self.node_connections.route_of(node_id)
        return None if route is None else route.base_url

    def _anchor_of(self, node_id: str) -> str:
        node = self.view.nodes.get(node_id)
        return "" if node is None else node.hello.anchor

    def _file_token_secret_of(self, node_id: str) -> str | None:
        is_local = node_id == self._agent.node_id
        return self.file_token_secret if is_local else self._hop_credential_of(node_id)

    def _on_hello(self, hello: Hello, observed_address: str | None) -> None:
        self.registrations.on_hello(hello)
        for report in hello.replicas:
            self.replica_reported.publish(hello.node_id, report)
        if hello.node_id != self._agent.node_id:
            self.node_connections.connect_node(hello, observed_address)

    def _on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        self.replica_reported.publish(node_id, report)
        self.members.on_replica_report(node_id, report)
        self.registrations.on_replica_report(node_id, report)

    def _disconnect_removed_node(self, node_id: str) -> None:
        self._tasks.spawn(self.link_server.disconnect_removed_node(node_id), f"disconnect.{node_id}")
        # The other nodes take over the replicas of the removed one.
        self.link_server.push_desired_state()

    def _on_stats_changed(self, repo: str, stats: HfStats) -> None:
        for model in self.view.catalog:
            if model.repo == repo:
                self._event_bus.publish(ModelStatsUpdated(model_id=model.id, hf_stats=stats))
