"""Composition root of a balancer with its local node; order of start and stop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Any

from llb.catalog import load_catalog
from llb.cluster.link.local_link import run_local_link
from llb.config import Config
from llb.errors import SetupError
from llb.parts.accounts import AccountParts
from llb.parts.api import ApiParts
from llb.parts.base import BaseParts
from llb.parts.cluster import ClusterParts
from llb.parts.gateway import GatewayParts
from llb.parts.local_node import LocalNode
from llb.security import tokens
from llb.store.tables import settings

log = logging.getLogger(__name__)

LOCAL_JOIN_TIMEOUT_S = 2.0


class Balancer:
    """Balancer and local node of one process. Sanic calls `start()` and `stop()`."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for an invalid catalogue or setting."""
        self.config = config
        # The server replaces it by the port that was bound.
        self.port = config.port
        self.local_token = tokens.new_local_token()
        catalog = load_catalog(config.catalog)

        base = self.base = BaseParts(config)
        self.local_node = LocalNode(config, base.db, base.hub, base.log_buffer)
        self.agent = self.local_node.agent
        self.cluster = ClusterParts(base, catalog, self.local_node)
        self.accounts = AccountParts(
            config, base.db, local_token=self.local_token, node_id_of=self.cluster.node_id_of
        )
        self.gateway = GatewayParts(base, self.agent, self.cluster, self.accounts, get_port=lambda: self.port)
        self.api = ApiParts(
            base, self.agent, self.cluster, self.accounts, self.gateway, get_port=lambda: self.port
        )
        # A joined host has these, too: the server knows both kinds by them.
        self.db, self.tls, self.auth_middleware = base.db, base.tls, self.accounts.auth_middleware
        base.stored_settings.changed.subscribe(self._apply_settings)

    def _apply_settings(self, config: Config) -> None:
        self.local_node.engine_pool.set_keep_alive(config.keep_alive_s)
        self.local_node.engine_pool.set_load_defaults(slots=config.parallel, context=config.context)
        self.agent.set_slots_per_engine(config.parallel)
        self.base.hub.set_token(config.hub_token)
        self.cluster.memory_estimates.set_load_defaults(slots=config.parallel, context_length=config.context)
        self.gateway.admission.set_max_queue(config.max_queue)
        self.gateway.admission.set_queue_timeout(config.queue_timeout_s)
        self.gateway.history.set_retention(config.history_days, keeps_text=config.history_text)

    def blueprints(self) -> tuple[Any, ...]:
        """Return the blueprints of the API and the page."""
        return self.api.blueprints()

    async def start(self) -> None:
        """Start data directory, database, accounts, registrations and node, then background tasks.

        Raises `SetupError`.
        """
        base = self.base
        await base.lock_data_dir()
        base.log_buffer.start()
        try:
            await base.db.start()
            await base.clock_keeper.start()
            # llb starts also on a full disk, so that models can be removed.
            released_bytes = base.db.ballast.release()
            if base.tls is not None:
                await base.tls.start(base.db)
            await self.accounts.start()
            await base.stored_settings.start()
            node_id = await settings.get_or_create(base.db, "node_id", tokens.new_random_id)
            await self.cluster.start(node_id, self.config.name)
            base.redact_logs()
            await self.gateway.start()
            self.api.running_answers.start()
            await self.agent.start(node_id)
            base.db.ballast.take_back(released_bytes)
        except BaseException:
            await self.stop()
            raise
        base.spawn_tasks()
        base.tasks.spawn(run_local_link(self.cluster.link_server, self.agent), "local-link")
        base.tasks.spawn(self.cluster.hub_stats.run(), "hub-stats")
        base.tasks.spawn(self.cluster.members.run_flush_loop(), "members")
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
        previous = {model.id for model in self.cluster.view.catalog}
        ids = {model.id for model in catalog}
        self.cluster.replace_catalog(catalog)
        log.info(
            "the catalogue was read again: %d models, %d of them new, %d removed",
            len(ids),
            len(ids - previous),
            len(previous - ids),
        )

    async def drain(self, timeout_s: float) -> None:
        """Accept no new requests; let running answers end for up to `timeout_s`."""
        await self.gateway.dispatcher.drain(timeout_s)

    async def stop(self) -> None:
        """Stop in the reverse order of the start; idempotent.

        A part that fails to stop does not prevent the others from stopping.
        """
        base, cluster, accounts, gateway = self.base, self.cluster, self.accounts, self.gateway
        async with AsyncExitStack() as stack:
            stack.callback(base.unlock_data_dir)
            stack.callback(base.log_buffer.stop)
            stack.push_async_callback(base.db.close)
            stack.push_async_callback(base.clock_keeper.close)
            # Requests that are cut off by what follows are still recorded.
            stack.push_async_callback(gateway.metrics.close)
            stack.push_async_callback(gateway.history.close)
            stack.push_async_callback(gateway.budgets.close)
            stack.push_async_callback(accounts.denied_requests.close)
            stack.push_async_callback(accounts.authenticator.close)
            stack.push_async_callback(accounts.principal_watch.close)
            stack.push_async_callback(base.hub.aclose)
            stack.callback(cluster.view.close)
            stack.push_async_callback(cluster.members.close)
            stack.push_async_callback(gateway.chart_history.close)
            stack.push_async_callback(cluster.registrations.close)
            stack.push_async_callback(gateway.endpoint_service.close)
            stack.push_async_callback(self.agent.close)
            stack.push_async_callback(base.tasks.close)
            stack.push_async_callback(cluster.node_connections.close)
            stack.push_async_callback(gateway.node_commands.close)
            stack.push_async_callback(gateway.dispatcher.close)
            stack.push_async_callback(self.api.running_answers.close)

    async def issue_setup_token(self) -> str | None:
        """Return a token with which the first password can be chosen; None once there is one."""
        return await self.accounts.issue_setup_token()
