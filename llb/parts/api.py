"""Parts of the API: handlers of requests, conversations of the page, and the blueprints of all routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llb.api.audit_log import AuditLog
from llb.api.inference.anthropic import anthropic_blueprint
from llb.api.inference.handler import InferenceHandler
from llb.api.inference.ollama import ollama_blueprint, ollama_root_blueprint
from llb.api.inference.ollama_models import OllamaModels
from llb.api.inference.ollama_pull import PullFollower
from llb.api.inference.openai import openai_blueprint
from llb.api.internode.peer_files import peer_files_blueprint
from llb.api.internode.reverse_tunnel import reverse_tunnel_blueprint
from llb.api.playground.answer_routes import answers_blueprint
from llb.api.playground.conversation_routes import conversations_blueprint, presets_blueprint
from llb.api.playground.conversation_service import ConversationService
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
from llb.api.routes.node_join import JoinInstructions, node_join_blueprint
from llb.api.routes.nodes import nodes_blueprint
from llb.api.routes.page import page_blueprint
from llb.api.routes.requests import requests_blueprint
from llb.api.routes.system import system_blueprint
from llb.api.routes.tls import tls_blueprint
from llb.node.agent import NodeAgent
from llb.parts.accounts import AccountParts
from llb.parts.base import BaseParts
from llb.parts.cluster import ClusterParts
from llb.parts.gateway import GatewayParts


class ApiParts:
    """Routes of the balancer, and what only they use."""

    def __init__(
        self,
        base: BaseParts,
        agent: NodeAgent,
        cluster: ClusterParts,
        accounts: AccountParts,
        gateway: GatewayParts,
        *,
        get_port: Callable[[], int],
    ) -> None:
        self._base = base
        self._agent = agent
        self._cluster = cluster
        self._accounts = accounts
        self._gateway = gateway
        self._get_port = get_port
        self._audit = AuditLog(base.db)
        self._large_body_worker = LargeBodyWorker()
        self._recorder = RequestRecorder(gateway.history)
        self._inference = InferenceHandler(gateway.dispatcher, self._recorder, self._large_body_worker)
        self.running_answers = RunningAnswers(base.db, self._inference, base.event_bus)
        self.conversations = ConversationService(base.db, self.running_answers.running_of)
        self._event_feed = EventFeed(
            base.event_bus, cluster.view, gateway.endpoints.list_events, self.running_answers.event_of
        )

    def blueprints(self) -> tuple[Any, ...]:
        """Return the blueprints of the API and the page."""
        return (
            *self._account_blueprints(),
            *self._model_blueprints(),
            *self._node_blueprints(),
            *self._endpoint_blueprints(),
            *self._dialect_blueprints(),
            *self._playground_blueprints(),
            *self._report_blueprints(),
            openapi_blueprint(),
            page_blueprint(),
        )

    def ollama_port_blueprints(self) -> tuple[Any, ...]:
        """Return the blueprints of the Ollama port."""
        return (*self._dialect_blueprints(), ollama_root_blueprint())

    def _account_blueprints(self) -> tuple[Any, ...]:
        db, accounts = self._base.db, self._accounts
        return (
            accounts_blueprint(db, accounts.service, accounts.auth_middleware),
            keys_blueprint(db, accounts.key_service),
            audit_blueprint(db),
        )

    def _model_blueprints(self) -> tuple[Any, ...]:
        cluster, audit = self._cluster, self._audit
        return (
            models_blueprint(
                cluster.view,
                cluster.registrations,
                cluster.memory_estimates,
                self._gateway.node_commands,
                audit,
            ),
            downloads_blueprint(cluster.view, cluster.download_settings, audit),
            model_import_blueprint(cluster.view, cluster.registrations, self._agent, audit),
        )

    def _node_blueprints(self) -> tuple[Any, ...]:
        base, agent, cluster, audit = self._base, self._agent, self._cluster, self._audit
        return (
            nodes_blueprint(cluster.view, cluster.members, audit),
            logs_blueprint(base.log_buffer, cluster.view, agent, cluster.node_connections),
            node_join_blueprint(
                cluster.admission,
                cluster.members,
                cluster.link_server,
                audit,
                JoinInstructions(
                    base.config,
                    is_exposed=self._accounts.auth_middleware.is_exposed,
                    get_port=self._get_port,
                    tls=base.tls,
                ),
                uses_default_password=self._accounts.uses_default_password,
            ),
            tls_blueprint(base.tls),
            reverse_tunnel_blueprint(cluster.node_connections),
            peer_files_blueprint(
                agent.peer_file_server, lambda: agent.node_id, lambda: cluster.file_token_secret
            ),
        )

    def _endpoint_blueprints(self) -> tuple[Any, ...]:
        gateway, audit = self._gateway, self._audit
        return (
            endpoints_blueprint(gateway.endpoint_service, gateway.endpoints, self._cluster.view, audit),
            spill_rules_blueprint(gateway.spill_book, gateway.dispatcher.readiness, audit),
            budgets_blueprint(self._base.db, gateway.budgets, gateway.endpoints.is_provider, audit),
        )

    def _dialect_blueprints(self) -> tuple[Any, ...]:
        base, cluster, gateway = self._base, self._cluster, self._gateway
        models = OllamaModels(
            cluster.view,
            gateway.dispatcher,
            cluster.memory_estimates,
            get_keep_alive_s=lambda: base.stored_settings.config.keep_alive_s,
        )
        pull_follower = PullFollower(
            cluster.view, base.event_bus, cluster.registrations, self._audit, self._accounts.principal_watch
        )
        return (
            openai_blueprint(
                self._inference,
                gateway.endpoint_service.checks.cloud_list_headers,
                cluster.memory_estimates.plan_context_length,
            ),
            anthropic_blueprint(self._inference),
            ollama_blueprint(
                gateway.dispatcher,
                self._recorder,
                gateway.node_commands,
                models,
                pull_follower,
                self._audit,
                self._large_body_worker,
            ),
        )

    def _playground_blueprints(self) -> tuple[Any, ...]:
        worker, watch = self._large_body_worker, self._accounts.principal_watch
        return (
            conversations_blueprint(self.conversations, self.running_answers, worker),
            answers_blueprint(self.conversations, self.running_answers, watch, worker),
            presets_blueprint(self.conversations),
        )

    def _report_blueprints(self) -> tuple[Any, ...]:
        base, cluster, gateway = self._base, self._cluster, self._gateway
        return (
            requests_blueprint(base.db, gateway.history, cluster.view, gateway.chart_history),
            event_stream_blueprint(self._event_feed, self._accounts.principal_watch),
            metrics_blueprint(gateway.metrics),
            system_blueprint(
                base.config,
                cluster.view,
                base.storage_monitor,
                self._problems,
                lambda: self._agent.engine_info,
                base.stored_settings,
                self._audit,
            ),
        )

    def _problems(self) -> tuple[str, ...]:
        return (
            *self._base.problems(),
            *self._agent.hardware_problems,
            *self._accounts.auth_middleware.local_proof.detections.problems(),
        )
