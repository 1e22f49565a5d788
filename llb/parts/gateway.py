"""Parts of the gateway: admission, endpoints, the dispatcher, and what it records of requests."""

from __future__ import annotations

import os
from collections.abc import Callable

from llb.gateway.admission.capacity_sync import CapacitySync
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.dispatcher import Dispatcher
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.endpoints.service import EndpointService
from llb.gateway.nodes.node_commands import NodeCommands
from llb.gateway.observability.chart_history import ChartHistory
from llb.gateway.observability.metrics import Metrics
from llb.gateway.observability.request_log import RequestLog
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.spend.budget_ledger import BudgetLedger
from llb.gateway.spend.price_list import PriceList
from llb.gateway.spill.book import SpillBook
from llb.node.agent import NodeAgent
from llb.parts.accounts import AccountParts
from llb.parts.base import BaseParts
from llb.parts.cluster import ClusterParts
from llb.policy.endpoints.addresses import BaseUrl, is_loopback_host


class GatewayParts:
    """The way of a request to an engine of a node or to an endpoint."""

    def __init__(
        self,
        base: BaseParts,
        agent: NodeAgent,
        cluster: ClusterParts,
        accounts: AccountParts,
        *,
        get_port: Callable[[], int],
    ) -> None:
        """`get_port` returns the port of this process, at which no endpoint can be."""
        config, db = base.config, base.db
        self._config = config
        self._event_bus = base.event_bus
        self._get_port = get_port
        view = cluster.view
        self.node_commands = NodeCommands(view, agent, cluster.node_connections)
        self.admission = AdmissionController(
            config.max_queue, config.queue_timeout_s, on_load_wanted=self.node_commands.preload
        )
        self.performance = PerformanceModel()
        self.endpoints = EndpointRegistry(self.admission, self.performance)
        self.spill_book = SpillBook(db)
        self.metrics = Metrics(view, self.admission, self.endpoints, self.spill_book)
        self.capacity_sync = CapacitySync(
            view, self.admission, self.performance, cluster.node_connections, agent
        )
        self.endpoint_service = EndpointService(
            db,
            self.endpoints,
            cluster.http_client,
            base.secret_box,
            base.redactor,
            environment=os.environ,
            is_own_address=self._is_own_address,
        )
        self.budgets = BudgetLedger(db)
        self.dispatcher = Dispatcher(
            AttemptContext(
                spend=SpendControl(self.budgets, PriceList.load()),
                view=view,
                admission=self.admission,
                http_client=cluster.http_client,
                agent=agent,
                engine_pool=agent.engine_pool,
                node_connections=cluster.node_connections,
                performance=self.performance,
                traffic=cluster.traffic,
                endpoints=EndpointContext(
                    self.endpoints,
                    cluster.http_client,
                    base.redactor.redact,
                    self.endpoint_service.checks.ensure_listed,
                ),
                spill_book=self.spill_book,
                get_load_timeout_s=lambda: base.stored_settings.config.queue_timeout_s,
            ),
            accounts.rate_limiter,
            accounts.principal_watch,
        )
        self.history = RequestLog(
            db,
            retention_days=config.history_days,
            keeps_text=config.history_text,
            on_requests_ended=self.metrics.record_requests,
        )
        self.chart_history = ChartHistory(
            db,
            view,
            cluster.traffic,
            lambda: {queue.model_id: queue.queued for queue in self.admission.snapshot() if queue.queued},
        )
        self.performance.load_ended.subscribe(self.metrics.record_load)
        self.endpoints.changed.subscribe(self._publish_endpoint)
        view.node_changed.subscribe(self.capacity_sync.sync_node)
        cluster.replica_reported.subscribe(self.metrics.record_replica)
        cluster.members.node_removed.subscribe(self.metrics.forget_node)

    async def start(self) -> None:
        """Load budgets, endpoints and spill rules, and start to record requests. Raises `SetupError`."""
        self.history.start()
        await self.chart_history.start()
        await self.budgets.start()
        self.metrics.start()
        await self.endpoint_service.start()
        await self.spill_book.start()

    def _is_own_address(self, url: BaseUrl) -> bool:
        """Whether an endpoint would be this process itself."""
        host = url.host.lower()
        is_this_host = is_loopback_host(host) or host == self._config.name.lower()
        return is_this_host and url.port == self._get_port()

    def _publish_endpoint(self, endpoint: Endpoint, is_removed: bool) -> None:
        self._event_bus.publish(self.endpoints.event_of(endpoint, is_removed=is_removed))
