"""Composition root of a balancer with its local node; order of start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack, suppress
from typing import Any

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_service import KeyService
from llb.accounts.principal_watch import PrincipalWatch
from llb.accounts.service import AccountService
from llb.api.audit_log import AuditLog, DeniedRequestAudit
from llb.api.inference.anthropic import anthropic_blueprint
from llb.api.inference.handler import InferenceHandler
from llb.api.inference.ollama import ollama_blueprint, ollama_root_blueprint
from llb.api.inference.ollama_models import OllamaModels
from llb.api.inference.ollama_pull import PullFollower
from llb.api.inference.openai import openai_blueprint
from llb.api.internode.peer_files import peer_files_blueprint
from llb.api.internode.reverse_tunnel import reverse_tunnel_blueprint
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.playground.conversation_service import ConversationService
from llb.api.playground.routes import answers_blueprint, conversations_blueprint, presets_blueprint
from llb.api.playground.running_answers import RunningAnswers
from llb.api.reference.openapi import openapi_blueprint
from llb.api.request_body import LargeBodyWorker
from llb.api.request_recorder import RequestRecorder
from llb.api.routes.accounts import accounts_blueprint
from llb.api.routes.audit import audit_blueprint
from llb.api.routes.budgets import budgets_blueprint
from llb.api.routes.endpoints.management import endpoints_blueprint
from llb.api.routes.endpoints.spill_rules import spill_rules_blueprint
from llb.api.routes.event_stream import EventFeed, event_stream_blueprint
from llb.api.routes.keys import keys_blueprint
from llb.api.routes.logs import logs_blueprint
from llb.api.routes.metrics import metrics_blueprint
from llb.api.routes.models.catalog import models_blueprint
from llb.api.routes.models.downloads import downloads_blueprint
from llb.api.routes.models.imports import model_import_blueprint
from llb.api.routes.node_join import node_join_blueprint
from llb.api.routes.nodes import nodes_blueprint
from llb.api.routes.page import page_blueprint
from llb.api.routes.requests import requests_blueprint
from llb.api.routes.system import system_blueprint
from llb.api.routes.tls import tls_blueprint
from llb.base import data_dir
from llb.base.events import EventBus
from llb.base.logs.log_buffer import LogBuffer
from llb.base.tasks import TaskSupervisor
from llb.catalog import load_catalog
from llb.cluster.download_settings import DownloadSettings
from llb.cluster.link.link_server import LinkServer
from llb.cluster.link.local_link import run_local_link
from llb.cluster.members import Members
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.peer_sources import PeerSources
from llb.cluster.registrations import Registrations
from llb.cluster.stored_settings import StoredSettings
from llb.cluster.view import ClusterView
from llb.config import Config
from llb.engine.builds.overlays import overlay_store
from llb.engine.builds.selector import BuildSelector
from llb.engine.calibration import CALIBRATIONS_NAME, CalibrationStore
from llb.engine.pool import EnginePool
from llb.errors import SetupError
from llb.gateway.admission.capacity_sync import CapacitySync
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.admission.rate_limiter import ApiKeyRateLimiter
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.endpoints.service import EndpointService
from llb.gateway.http.client import HttpClient
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.observability.chart_history import ChartHistory
from llb.gateway.observability.metrics import Metrics
from llb.gateway.observability.request_log import RequestLog
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.spend.budget_ledger import BudgetLedger
from llb.gateway.spend.price_list import PriceList
from llb.gateway.spill.book import SpillBook
from llb.hardware import HardwareProbe, installed_version
from llb.hub import HubClient, HubStatsCache
from llb.node.agent import NodeAgent
from llb.node.files import ModelFiles
from llb.node.replica_worker import DISK_RESERVE_BYTES
from llb.policy.endpoints.addresses import BaseUrl, is_loopback_host
from llb.security import tokens
from llb.security.certificates import create_server_tls
from llb.security.redaction import SecretRedactor, redact_logs
from llb.security.secret_box import KEY_FILE_NAME, SecretBox
from llb.store.backup_rotation import BackupTimer
from llb.store.clock_keeper import ClockKeeper
from llb.store.database import Database
from llb.store.integrity_check import IntegrityCheck
from llb.store.storage_monitor import StorageMonitor
from llb.store.tables import settings, users
from llb.wire import (
    Event,
    Hello,
    HfStats,
    ModelStatsUpdated,
    ReachView,
    ReachWay,
    ReplicaReport,
)

log = logging.getLogger(__name__)

LOCAL_JOIN_TIMEOUT_S = 2.0


class Balancer:
    """Balancer and local node of one process. Sanic calls `start()` and `stop()`."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for an invalid catalogue or setting."""
        self.config = config
        # The server replaces it by the port that was bound.
        self.port = config.port
        catalog = load_catalog(config.catalog)
        self.local_token = tokens.new_local_token()
        self.event_bus: EventBus[Event] = EventBus()
        self.redactor = SecretRedactor()
        self.log_buffer = LogBuffer(self.redactor.redact)
        self.db = Database(config.database_path)
        self.clock_keeper = ClockKeeper(self.db)
        self.hub = HubClient(config.hub_endpoint, config.hub_token, offline=config.hub_offline)
        self.hub_stats = HubStatsCache(self.hub, [model.repo for model in catalog], self._on_stats_changed)

        self.tls = create_server_tls(config)
        self.http_client = HttpClient()
        self.node_connections = NodeConnections(
            self.http_client, self._hop_credential_of, tls_only=self.tls is not None
        )
        self.traffic = NodeTraffic()
        self.view = ClusterView(
            catalog,
            self.event_bus,
            self.hub_stats.get,
            address_of=self.node_connections.base_url_of,
            reach_view_of=self._reach_view_of,
            traffic=self.traffic,
        )
        self.members = Members(self.db, self.view, clock=self.db.clock.now)
        self.authenticator = AccountAuthenticator(self.db, node_id_of=self._node_id_of)
        self.accounts = AccountService(self.db, self.authenticator)
        self.key_service = KeyService(self.db, self.authenticator)
        self.principal_watch = PrincipalWatch(self.authenticator, clock=self.db.clock.latest)
        self.rate_limiter = ApiKeyRateLimiter()
        self.denied_requests = DeniedRequestAudit(self.db)
        self.auth_middleware = AuthMiddleware(
            config,
            self.authenticator,
            local_token=self.local_token,
            rate_limit_headers_of=self.rate_limiter.rate_limit_headers,
            on_access_denied=self.denied_requests.record_denial,
        )

        self.peer_sources = PeerSources(
            self.view,
            get_local_node_id=lambda: self.agent.node_id,
            address_of=self._peer_address_of,
            file_token_secret_of=self._file_token_secret_of,
            anchor_of=self._anchor_of,
        )
        self.download_settings = DownloadSettings(self.db)
        secret_box = SecretBox(config.home / KEY_FILE_NAME)
        self.stored_settings = StoredSettings(self.db, config, secret_box, self.redactor.register)
        self.registrations = Registrations(
            self.db, self.hub, self.view, self.peer_sources, downloads=self.download_settings
        )
        self.memory_estimates = MemoryEstimates(
            self.db,
            self.hub,
            self.view,
            self.registrations,
            get_own_capacity=lambda: self.agent.capacity,
            # The pool is made later.
            get_calibration=lambda model_id, shape: self.engine_pool.calibration(model_id, shape),  # noqa: PLW0108
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

        engine_builds = BuildSelector(overlay_store(config.home, installed_version()))
        self.engine_pool = EnginePool(
            slots=config.parallel,
            context=config.context,
            keep_alive_s=config.keep_alive_s,
            get_build=engine_builds.get_current,
            calibrations=CalibrationStore(config.home / CALIBRATIONS_NAME),
            on_log_line=self.log_buffer.add_engine_line,
        )
        self.agent = NodeAgent(
            config=config,
            db=self.db,
            hub=self.hub,
            files=ModelFiles(config.models_dir, clock=self.db.clock.earliest),
            hardware_probe=HardwareProbe(get_build=engine_builds.get_current),
            engine_builds=engine_builds,
            engine_pool=self.engine_pool,
        )
        self.node_commands = NodeCommands(self.view, self.agent, self.node_connections)
        self.admission = AdmissionController(
            config.max_queue, config.queue_timeout_s, on_load_wanted=self.node_commands.preload
        )
        self.performance = PerformanceModel(on_load_ended=self._on_load_ended)
        self.endpoints = EndpointRegistry(self.admission, self.performance)
        self.spill_book = SpillBook(self.db)
        self.metrics = Metrics(self.view, self.admission, self.endpoints, self.spill_book)
        self.capacity_sync = CapacitySync(
            self.view, self.admission, self.performance, self.node_connections, self.agent
        )
        self.endpoint_service = EndpointService(
            self.db,
            self.endpoints,
            self.http_client,
            secret_box,
            self.redactor,
            environment=os.environ,
            is_own_address=self._is_own_address,
        )
        self._large_body_worker = LargeBodyWorker()
        self.budgets = BudgetLedger(self.db)
        self.dispatcher = Dispatcher(
            AttemptContext(
                spend=SpendControl(self.budgets, PriceList.load()),
                view=self.view,
                admission=self.admission,
                http_client=self.http_client,
                agent=self.agent,
                node_connections=self.node_connections,
                performance=self.performance,
                traffic=self.traffic,
                endpoints=EndpointContext(
                    self.endpoints,
                    self.http_client,
                    self.redactor.redact,
                    self.endpoint_service.checks.ensure_listed,
                ),
                spill_book=self.spill_book,
                get_load_timeout_s=lambda: self.stored_settings.config.queue_timeout_s,
            ),
            self.rate_limiter,
            self.principal_watch,
        )
        self.history = RequestLog(
            self.db,
            retention_days=config.history_days,
            keeps_text=config.history_text,
            on_requests_ended=self.metrics.record_requests,
        )
        self._inference = InferenceHandler(
            self.dispatcher, RequestRecorder(self.history), self._large_body_worker
        )
        self.running_answers = RunningAnswers(self.db, self._inference, self.event_bus)
        self.conversations = ConversationService(self.db, self.running_answers.running_of)
        self.chart_history = ChartHistory(
            self.db,
            self.view,
            self.traffic,
            lambda: {queue.model_id: queue.queued for queue in self.admission.snapshot() if queue.queued},
        )
        self.integrity_check = IntegrityCheck(config.database_path)
        self.backup_timer = (
            None
            if config.backup_every_s is None
            else BackupTimer(
                self.db, config.backup_dir, interval_s=config.backup_every_s, keep=config.backup_keep
            )
        )
        self.storage_monitor = StorageMonitor(
            self.db, config.models_dir, download_reserve_bytes=DISK_RESERVE_BYTES
        )
        self.event_feed = EventFeed(
            self.event_bus, self.view, self.endpoints.list_events, self.running_answers.event_of
        )
        self.tasks = TaskSupervisor("llb")
        self._data_dir_lock: data_dir.DataDirLock | None = None
        # Secret of the local node's file tokens; kept in the database.
        self._file_token_secret: str | None = None
        self._subscribe()

    def _subscribe(self) -> None:
        """Connect events to their subscribers. Subscribers of one event are called in this order."""
        self.stored_settings.changed.subscribe(self._apply_settings)
        self.authenticator.accounts_changed.subscribe(self.principal_watch.check_soon)
        self.engine_pool.engine_changed.subscribe(self.agent.on_engine_changed)
        self.registrations.desired_state_changed.subscribe(self.link_server.push_desired_state)
        self.download_settings.changed.subscribe(self.link_server.push_desired_state)
        self.members.node_updated.subscribe(lambda _node_id: self.link_server.push_desired_state())
        self.members.node_removed.subscribe(self.node_connections.disconnect_node)
        self.members.node_removed.subscribe(self.registrations.on_node_removed)
        self.members.node_removed.subscribe(self.metrics.forget_node)
        self.members.node_removed.subscribe(self._disconnect_removed_node)
        self.view.node_changed.subscribe(self.capacity_sync.sync_node)
        self.endpoints.changed.subscribe(self._publish_endpoint)
        self.node_connections.route_changed.subscribe(self.view.on_route_changed)
        self.node_connections.tunnels_wanted.subscribe(self.link_server.request_tunnels)

    def _apply_settings(self, config: Config) -> None:
        self.engine_pool.set_keep_alive(config.keep_alive_s)
        self.engine_pool.set_load_defaults(slots=config.parallel, context=config.context)
        self.memory_estimates.set_load_defaults(slots=config.parallel, context_length=config.context)
        self.agent.set_slots_per_engine(config.parallel)
        self.hub.set_token(config.hub_token)
        self.admission.set_max_queue(config.max_queue)
        self.admission.set_queue_timeout(config.queue_timeout_s)
        self.history.set_retention(config.history_days, keeps_text=config.history_text)

    def blueprints(self) -> tuple[Any, ...]:
        """Blueprints of the API."""
        audit = AuditLog(self.db)
        return (
            accounts_blueprint(self.db, self.accounts, self.auth_middleware),
            keys_blueprint(self.db, self.key_service),
            audit_blueprint(self.db),
            models_blueprint(self.view, self.registrations, self.memory_estimates, self.node_commands, audit),
            downloads_blueprint(self.view, self.download_settings, audit),
            model_import_blueprint(self.view, self.registrations, self.agent, audit),
            nodes_blueprint(self.view, self.members, audit),
            logs_blueprint(self.log_buffer, self.view, self.agent, self.node_connections),
            endpoints_blueprint(self.endpoint_service, self.endpoints, self.view, audit),
            spill_rules_blueprint(self.spill_book, self.dispatcher.readiness, audit),
            node_join_blueprint(
                self.config,
                self.members,
                self.link_server,
                audit,
                is_exposed=self.auth_middleware.is_exposed,
                get_port=lambda: self.port,
                uses_default_password=self.uses_default_password,
                tls=self.tls,
            ),
            tls_blueprint(self.tls),
            reverse_tunnel_blueprint(self.node_connections),
            *self._dialect_blueprints(audit),
            conversations_blueprint(self.conversations, self.running_answers, self._large_body_worker),
            answers_blueprint(
                self.conversations, self.running_answers, self.principal_watch, self._large_body_worker
            ),
            presets_blueprint(self.conversations),
            requests_blueprint(self.db, self.history, self.view, self.chart_history),
            budgets_blueprint(self.db, self.budgets, self.endpoints.is_provider, audit),
            event_stream_blueprint(self.event_feed, self.principal_watch),
            metrics_blueprint(self.metrics),
            peer_files_blueprint(
                self.agent.peer_file_server, lambda: self.agent.node_id, lambda: self._file_token_secret
            ),
            system_blueprint(
                self.config,
                self.view,
                self.storage_monitor,
                self._problems,
                lambda: self.agent.engine_info,
                self.stored_settings,
                audit,
            ),
            openapi_blueprint(),
            page_blueprint(),
        )

    def ollama_port_blueprints(self) -> tuple[Any, ...]:
        """Blueprints of the Ollama port."""
        return (*self._dialect_blueprints(AuditLog(self.db)), ollama_root_blueprint())

    def _dialect_blueprints(self, audit: AuditLog) -> tuple[Any, ...]:
        models = OllamaModels(
            self.view,
            self.dispatcher,
            self.memory_estimates,
            get_keep_alive_s=lambda: self.stored_settings.config.keep_alive_s,
        )
        pull_follower = PullFollower(
            self.view, self.event_bus, self.registrations, audit, self.principal_watch
        )
        return (
            openai_blueprint(
                self._inference,
                self.endpoint_service.checks.cloud_list_headers,
                self.memory_estimates.plan_context_length,
            ),
            anthropic_blueprint(self._inference),
            ollama_blueprint(
                self.dispatcher,
                RequestRecorder(self.history),
                self.node_commands,
                models,
                pull_follower,
                audit,
                self._large_body_worker,
            ),
        )

    async def start(self) -> None:
        """Start data directory, database, accounts, registrations and node, then background tasks.

        Raises `SetupError`.
        """
        self._data_dir_lock = await asyncio.to_thread(
            data_dir.acquire_lock, self.config.home, self.config.models_dir
        )
        self.log_buffer.start()
        try:
            await self.db.start()
            await self.clock_keeper.start()
            # llb starts also on a full disk, so that models can be removed.
            released_bytes = self.db.ballast.release()
            if self.tls is not None:
                await self.tls.start(self.db)
            await self.accounts.ensure_admin(self.config.admin_password)
            if self.auth_middleware.is_exposed and await self.uses_default_password():
                raise SetupError(
                    f"Listening on {self.config.listen_host} with the default password lets anybody in: "
                    "set LLB_ADMIN_PASSWORD, or change the password with 'llb password'."
                )
            self.authenticator.start()
            self.principal_watch.start()
            await self.stored_settings.start()
            self.history.start()
            await self.chart_history.start()
            await self.budgets.start()
            self.metrics.start()
            self.running_answers.start()
            cluster_id = await settings.get_or_create(self.db, "cluster_id", tokens.new_random_id)
            node_id = await settings.get_or_create(self.db, "node_id", tokens.new_random_id)
            self._file_token_secret = await settings.get_or_create(
                self.db, "ticket_secret", tokens.new_session_token
            )
            await self.members.start(cluster_id, node_id, self.config.name)
            self.link_server.start(cluster_id)
            await self.download_settings.start()
            await self.registrations.start(cluster_id)
            redact_logs(self.redactor, logging.getLogger().handlers)
            await self.endpoint_service.start()
            await self.spill_book.start()
            await self.agent.start(node_id)
            self.db.ballast.take_back(released_bytes)
        except BaseException:
            await self.stop()
            raise
        self.tasks.spawn(self.storage_monitor.run(), "storage")
        self.tasks.spawn(self.integrity_check.run(), "integrity-check")
        if self.backup_timer is not None:
            self.tasks.spawn(self.backup_timer.run(), "backup")
        self.tasks.spawn(self.clock_keeper.run(), "clock")
        self.tasks.spawn(run_local_link(self.link_server, self.agent), "local-link")
        self.tasks.spawn(self.hub_stats.run(), "hub-stats")
        self.tasks.spawn(self.members.run_flush_loop(), "members")
        if self.tls is not None:
            self.tasks.spawn(self.tls.run_renewal(), "tls")
        # A model that was Ready before the restart is Ready from the first request on. The timeout limits
        # the delay by a slow GPU driver.
        with suppress(TimeoutError):
            async with asyncio.timeout(LOCAL_JOIN_TIMEOUT_S):
                await self.agent.desired_state_received.wait()

    async def reload(self) -> None:
        """Read the certificate and the catalogue again, without touching connections and engines.

        A file that cannot be used is logged and leaves the present one in force.
        """
        if self.tls is not None:
            await self.tls.reload()
        try:
            catalog = await asyncio.to_thread(load_catalog, self.config.catalog)
        except SetupError as error:
            log.error("the catalogue in use stays: %s", error)
            return
        previous = {model.id for model in self.view.catalog}
        ids = {model.id for model in catalog}
        self.view.replace_catalog(catalog)
        self.hub_stats.set_repos([model.repo for model in catalog])
        log.info(
            "the catalogue was read again: %d models, %d of them new, %d removed",
            len(ids),
            len(ids - previous),
            len(previous - ids),
        )

    async def drain(self, timeout_s: float) -> None:
        """Accept no new requests; let running answers end for up to `timeout_s`."""
        await self.dispatcher.drain(timeout_s)

    async def stop(self) -> None:
        """Stop in the reverse order of the start; idempotent.

        A part that fails to stop does not prevent the others from stopping.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._release_data_dir)
            stack.callback(self.log_buffer.stop)
            stack.push_async_callback(self.db.close)
            stack.push_async_callback(self.clock_keeper.close)
            stack.push_async_callback(self.metrics.close)
            stack.push_async_callback(self.history.close)
            stack.push_async_callback(self.budgets.close)
            stack.push_async_callback(self.denied_requests.close)
            stack.push_async_callback(self.authenticator.close)
            stack.push_async_callback(self.principal_watch.close)
            stack.push_async_callback(self.hub.aclose)
            stack.callback(self.view.close)
            stack.push_async_callback(self.members.close)
            stack.push_async_callback(self.chart_history.close)
            stack.push_async_callback(self.registrations.close)
            stack.push_async_callback(self.endpoint_service.close)
            stack.push_async_callback(self.agent.close)
            stack.push_async_callback(self.tasks.close)
            stack.push_async_callback(self.node_connections.close)
            stack.push_async_callback(self.node_commands.close)
            stack.push_async_callback(self.dispatcher.close)
            stack.push_async_callback(self.running_answers.close)

    def _release_data_dir(self) -> None:
        lock, self._data_dir_lock = self._data_dir_lock, None
        if lock is not None:
            lock.close()

    async def uses_default_password(self) -> bool:
        """Whether the administrator still has the default password."""
        return await users.is_default_password_in_use(self.db)

    async def issue_setup_token(self) -> str | None:
        """Return a token with which the first password can be chosen; None once there is one."""
        return self.accounts.setup_token.issue() if await self.uses_default_password() else None

    def _problems(self) -> tuple[str, ...]:
        damage = self.integrity_check.problem
        backup_failure = None if self.backup_timer is None else self.backup_timer.problem
        return (
            *(
                problem
                for problem in (damage, backup_failure, self.stored_settings.problem)
                if problem is not None
            ),
            *self.agent.hardware_problems,
            *self.auth_middleware.local_proof.knocks.problems(),
        )

    def _is_own_address(self, url: BaseUrl) -> bool:
        """Whether an endpoint would be this process itself."""
        host = url.host.lower()
        is_this_host = is_loopback_host(host) or host == self.config.name.lower()
        return is_this_host and url.port == self.port

    def _publish_endpoint(self, endpoint: Endpoint, is_removed: bool) -> None:
        self.event_bus.publish(self.endpoints.event_of(endpoint, is_removed=is_removed))

    def _node_id_of(self, credential: str) -> str | None:
        record = self.members.find_by_credential(credential)
        return None if record is None else record.id

    def _reach_view_of(self, node_id: str) -> ReachView:
        return (
            ReachView(way=ReachWay.LOCAL)
            if node_id == self.agent.node_id
            else self.node_connections.reach_view_of(node_id)
        )

    def _hop_credential_of(self, node_id: str) -> str | None:
        record = self.members.get_record(node_id)
        return None if record is None else record.hop_credential

    def _peer_address_of(self, node_id: str) -> str | None:
        if node_id == self.agent.node_id:
            return ""
        route = self.node_connections.route_of(node_id)
        return None if route is None else route.base_url

    def _anchor_of(self, node_id: str) -> str:
        node = self.view.nodes.get(node_id)
        return "" if node is None else node.hello.anchor

    def _file_token_secret_of(self, node_id: str) -> str | None:
        return self._file_token_secret if node_id == self.agent.node_id else self._hop_credential_of(node_id)

    def _on_hello(self, hello: Hello, observed: str | None) -> None:
        self.registrations.on_hello(hello)
        for report in hello.replicas:
            self.metrics.record_replica(hello.node_id, report)
        if hello.node_id != self.agent.node_id:
            self.node_connections.connect_node(hello, observed)

    def _disconnect_removed_node(self, node_id: str) -> None:
        self.tasks.spawn(self.link_server.disconnect_removed_node(node_id), f"disconnect.{node_id}")
        # The other nodes take over the replicas of the removed one.
        self.link_server.push_desired_state()

    def _on_load_ended(self, node_id: str, model_id: str, duration_s: float, has_failed: bool) -> None:
        # The metrics are made after the performance model, which they show.
        self.metrics.record_load(node_id, model_id, duration_s, has_failed)

    def _on_replica_report(self, node_id: str, report: ReplicaReport) -> None:
        self.metrics.record_replica(node_id, report)
        self.members.on_replica_report(node_id, report)
        self.registrations.on_replica_report(node_id, report)

    def _on_stats_changed(self, repo: str, stats: HfStats) -> None:
        for model in self.view.catalog:
            if model.repo == repo:
                self.event_bus.publish(ModelStatsUpdated(model_id=model.id, hf_stats=stats))
