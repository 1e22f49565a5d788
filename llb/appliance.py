"""The composition root of a balancer with its own node: what it is made of, and in which order it starts and stops."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from llb import auth, home, portable
from llb.api.accounts import accounts_blueprint
from llb.api.anthropic import anthropic_blueprint
from llb.api.audit import AuditLog, Refusals, audit_blueprint
from llb.api.files import files_blueprint
from llb.api.guard import Guard
from llb.api.identity import Identity
from llb.api.imports import imports_blueprint
from llb.api.inference import Inference
from llb.api.joining import joining_blueprint
from llb.api.keys import keys_blueprint
from llb.api.live import LiveFeed, live_blueprint
from llb.api.metrics import metrics_blueprint
from llb.api.models import models_blueprint
from llb.api.nodes import nodes_blueprint
from llb.api.ollama import ollama_blueprint, running_blueprint
from llb.api.ollama_models import OllamaModels
from llb.api.ollama_pull import Puller
from llb.api.openai import openai_blueprint
from llb.api.openapi import openapi_blueprint
from llb.api.page import page_blueprint
from llb.api.people import Accounts
from llb.api.requests import RequestLog, requests_blueprint
from llb.api.reverse import reverse_blueprint
from llb.api.system import system_blueprint
from llb.api.tls import tls_blueprint
from llb.catalog import load_catalog
from llb.certificates import server_tls
from llb.cluster.copies import Copies
from llb.cluster.estimates import Estimates
from llb.cluster.links import Links, local_link
from llb.cluster.members import Members
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.config import Config
from llb.engine.pool import EnginePool
from llb.errors import SetupError
from llb.events import Bus
from llb.gateway.admission import Admission
from llb.gateway.dispatch import Dispatcher
from llb.gateway.hands import Hands
from llb.gateway.history import History
from llb.gateway.metrics import Metrics
from llb.gateway.quotas import Quotas
from llb.gateway.reach import Reach
from llb.gateway.upstream import Upstream
from llb.hardware import Machine
from llb.hub import Hub, StatsCache
from llb.node.agent import NodeAgent
from llb.node.files import ModelFiles
from llb.store import settings, users
from llb.store.database import Database
from llb.tasks import TaskGroup
from llb.wire import Event, Hello, HfStats, ModelStatsUpdated, ReachView, ReachWay, ReplicaReport

log = logging.getLogger(__name__)

LINK_PAUSE_S = 1.0  # before a local link that failed begins anew
JOIN_WAIT_S = 2.0


class Appliance:
    """Everything of one process: balancer and local node. `start()` and `stop()` are Sanic's to call."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for a catalogue or a setting that cannot be used."""
        self.config = config
        self.port = config.port  # the one that was bound, once it is
        self.catalog = load_catalog(config.catalog)
        self.local_token = auth.new_local_token()
        self.bus: Bus[Event] = Bus()
        self.db = Database(config.database_path)
        self.hub = Hub(config.hub_endpoint, config.hub_token)
        self.stats = StatsCache(self.hub, [model.repo for model in self.catalog], self._stats_changed)

        self.view = ClusterView(self.catalog, self.bus, self.stats.get)
        self.members = Members(self.db, self.view)
        self.identity = Identity(self.db, node_of=self._node_of)
        self.accounts = Accounts(self.db, self.identity)
        self.quotas = Quotas()
        self.guard = Guard(config, self.identity, local_token=self.local_token)
        self.guard.limit_headers = self.quotas.headers
        self.refusals = Refusals(self.db)
        self.guard.on_refused = self.refusals.refused

        self.copies = Copies(
            self.view,
            local_node_id=lambda: self.agent.node_id,
            address_of=self._copied_at,
            ticket_secret_of=self._ticket_secret_of,
            anchor_of=self._anchor_of,
        )
        self.registrations = Registrations(self.db, self.hub, self.view, self.copies)
        self.estimates = Estimates(self.db, self.hub, self.view, self.registrations)
        self.links = Links(
            self.view,
            self.registrations.want,
            record_of=self.members.heard,
            on_hello=self._node_said_hello,
            on_replica=self._node_told_of_replica,
            on_blame=self.registrations.blamed,
        )
        self.registrations.on_want_changed = self.links.want_changed
        self.members.on_changed = lambda _node_id: self.links.want_changed()
        self.members.on_removed = self._node_removed

        self.machine = Machine()
        self.pool = EnginePool(
            slots=config.parallel, context=config.context, keep_alive_s=config.keep_alive_s
        )
        self.agent = NodeAgent(
            config=config,
            db=self.db,
            hub=self.hub,
            files=ModelFiles(config.models_dir),
            machine=self.machine,
            pool=self.pool,
        )
        self.admission = Admission(config.max_queue, config.queue_timeout_s)
        self.tls = server_tls(config)
        self.upstream = Upstream()
        self.reach = Reach(self.upstream, self._hop_credential, tls_only=self.tls is not None)
        self.reach.ask_to_dial = self.links.ask_to_dial
        self.view.address_of = self.reach.address
        self.view.reach_of = self._reach_of
        self.dispatcher = Dispatcher(
            self.view,
            self.admission,
            self.upstream,
            self.agent,
            self.reach,
            self.quotas,
            load_timeout_s=config.queue_timeout_s,
        )
        self.hands = Hands(self.view, self.agent, self.reach)
        self.admission.on_wanted = self.hands.warm
        self.history = History(self.db, days=config.history_days, text=config.history_text)
        self.metrics = Metrics(self.view, self.admission)
        self.history.on_ended = self.metrics.ended
        self.dispatcher.speeds.on_load = self.metrics.loaded
        self.feed = LiveFeed(self.bus, self.view)
        self.tasks = TaskGroup("llb")
        self._lock: portable.Lock | None = None
        self._ticket_secret: str | None = None  # of the local node; kept in the database

    def blueprints(self) -> tuple[Any, ...]:
        """The API, a resource a line."""
        audit = AuditLog(self.db)
        inference = Inference(self.dispatcher, RequestLog(self.history))
        return (
            accounts_blueprint(self.db, self.accounts),
            keys_blueprint(self.db, self.identity),
            audit_blueprint(self.db),
            models_blueprint(self.view, self.registrations, self.estimates, self.hands, audit),
            imports_blueprint(self.view, self.registrations, self.agent, audit),
            nodes_blueprint(self.view, self.members, audit),
            joining_blueprint(
                self.config,
                self.members,
                self.links,
                audit,
                exposed=self.guard.exposed,
                port=lambda: self.port,
                default_password=self.default_password,
                tls=self.tls,
            ),
            tls_blueprint(self.tls),
            reverse_blueprint(self.reach),
            openai_blueprint(inference),
            anthropic_blueprint(inference),
            self._ollama(audit),
            requests_blueprint(self.db, self.history, self.view),
            live_blueprint(self.feed),
            metrics_blueprint(self.metrics),
            files_blueprint(self.agent.offers, lambda: self.agent.node_id, lambda: self._ticket_secret),
            system_blueprint(self.config, self.view, lambda: self.agent.problems),
            openapi_blueprint(),
            page_blueprint(),
        )

    def keyless_blueprints(self) -> tuple[Any, ...]:
        """What the port answers that asks for no key."""
        return (
            self._ollama(AuditLog(self.db)),
            openai_blueprint(Inference(self.dispatcher, RequestLog(self.history))),
            running_blueprint(),
        )

    def _ollama(self, audit: AuditLog) -> Any:
        models = OllamaModels(
            self.view, self.dispatcher, self.estimates, keep_alive_s=self.config.keep_alive_s
        )
        puller = Puller(self.view, self.bus, self.registrations, audit)
        return ollama_blueprint(self.dispatcher, RequestLog(self.history), self.hands, models, puller, audit)

    async def start(self) -> None:
        """From the disk up: home, database, people, what is wished, the node, and last whoever asks the network."""
        self._lock = await asyncio.to_thread(home.take, self.config.home, self.config.models_dir)
        try:
            await self.db.start()
            if self.tls is not None:
                await self.tls.start(self.db)
            await self.accounts.ensure_admin(self.config.admin_password)
            if self.guard.exposed and await self.default_password():
                raise SetupError(
                    f"Listening on {self.config.listen_host} with the default password would let anybody in: "
                    "set LLB_ADMIN_PASSWORD, or change it with 'llb password'."
                )
            self.identity.start()
            self.history.start()
            self.metrics.start()
            cluster_id = await settings.ensure(self.db, "cluster_id", auth.new_id)
            self.agent.node_id = await settings.ensure(self.db, "node_id", auth.new_id)
            self._ticket_secret = await settings.ensure(self.db, "ticket_secret", auth.new_session_token)
            await self.members.start(cluster_id, self.agent.node_id, self.config.name)
            self.links.cluster_id = cluster_id
            await self.registrations.start(cluster_id)
            await self.agent.start()
        except BaseException:
            await self.stop()
            raise
        self.tasks.supervise(self._run_local_link(), "local-link")
        self.tasks.supervise(self.stats.run(), "hub-stats")
        self.tasks.supervise(self.members.keep(), "members")
        if self.tls is not None:
            self.tasks.supervise(self.tls.keep(), "tls")
        # What was Ready before the restart is Ready from the first request on; a slow driver delays nobody for long.
        with suppress(TimeoutError):
            await asyncio.wait_for(self.agent.joined.wait(), JOIN_WAIT_S)

    async def drain(self, timeout_s: float) -> None:
        """Take no new requests and let running answers end."""
        await self.dispatcher.drain(timeout_s)

    async def stop(self) -> None:
        """The start in reverse; idempotent."""
        await self.dispatcher.close()
        await self.hands.close()
        await self.reach.close()
        await self.tasks.close()
        await self.agent.close()
        await self.registrations.close()
        await self.members.close()
        self.view.close()
        await self.hub.aclose()
        await self.identity.close()
        await self.refusals.close()
        await self.history.close()
        await self.metrics.close()
        await self.db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def default_password(self) -> bool:
        """Whether the administrator still has the default password."""
        return await users.default_password_in_use(self.db)

    def _node_of(self, credential: str) -> str | None:
        record = self.members.of_credential(credential)
        return None if record is None else record.id

    def _reach_of(self, node_id: str) -> ReachView:
        return ReachView(way=ReachWay.LOCAL) if node_id == self.agent.node_id else self.reach.view(node_id)

    def _hop_credential(self, node_id: str) -> str | None:
        record = self.members.get(node_id)
        return None if record is None else record.hop_credential

    def _copied_at(self, node_id: str) -> str | None:
        if node_id == self.agent.node_id:
            return ""
        way = self.reach.way(node_id)
        return None if way is None else way.address

    def _anchor_of(self, node_id: str) -> str:
        node = self.view.nodes.get(node_id)
        return "" if node is None else node.hello.anchor

    def _ticket_secret_of(self, node_id: str) -> str | None:
        return self._ticket_secret if node_id == self.agent.node_id else self._hop_credential(node_id)

    def _node_said_hello(self, hello: Hello, observed: str | None) -> None:
        self.registrations.node_heard(hello)
        for report in hello.replicas:
            self.metrics.replica(hello.node_id, report)
        if hello.node_id != self.agent.node_id:
            self.reach.hello(hello, observed)

    def _node_removed(self, node_id: str) -> None:
        self.reach.lost(node_id)
        self.registrations.node_removed(node_id)
        self.metrics.node_removed(node_id)
        self.tasks.supervise(self.links.drop(node_id), f"drop.{node_id}")
        self.links.want_changed()  # others take over what only it was to hold

    def _node_told_of_replica(self, node_id: str, report: ReplicaReport) -> None:
        self.metrics.replica(node_id, report)
        self.members.replica_changed(node_id, report)
        self.registrations.replica_changed(node_id, report)

    async def _run_local_link(self) -> None:
        """The local node speaks with its balancer as a joined one does, over a link inside the process.

        A failure at either end costs the link, never the node: both begin anew with their whole state.
        """
        while True:
            node_end, balancer_end = local_link()
            try:
                async with asyncio.TaskGroup() as both_ends:
                    both_ends.create_task(
                        self.links.serve(balancer_end, node_id=self.agent.node_id, silence_s=None),
                        name="llb.local-link.balancer",
                    )
                    both_ends.create_task(self.agent.run(node_end), name="llb.local-link.node")
            except* Exception as failed:
                log.error("the link to the local node failed and begins anew", exc_info=failed)
            await asyncio.sleep(LINK_PAUSE_S)

    def _stats_changed(self, repo: str, stats: HfStats) -> None:
        for model in self.catalog:
            if model.repo == repo:
                self.bus.publish(ModelStatsUpdated(model_id=model.id, hf_stats=stats))
