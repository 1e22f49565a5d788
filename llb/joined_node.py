"""Composition root of a joined host: a node, its link to the balancer, and a proxy to the balancer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from msgspec import structs

from llb import __version__
from llb.accounts.authenticator import BalancerAuthenticator
from llb.api.internode.node_api import node_api_blueprint
from llb.api.internode.node_status import node_status_blueprint
from llb.api.internode.peer_files import peer_files_blueprint
from llb.api.internode.proxy import InFlightCounter
from llb.api.internode.public_proxy import public_proxy_blueprint
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.routes.logs import node_logs_blueprint
from llb.base import data_dir, node_identity
from llb.base.logs.log_buffer import LogBuffer
from llb.base.net_addresses import build_base_urls
from llb.base.node_identity import Membership
from llb.base.tasks import TaskSupervisor
from llb.cluster.join.join_client import (
    determine_trust_anchor,
    is_same_balancer,
    notify_leave,
    request_join,
)
from llb.cluster.join.tunnel_pool import TunnelConnection, TunnelPool
from llb.cluster.link.control_link_client import ControlLinkClient
from llb.config import Config
from llb.errors import SetupError
from llb.gateway.http.client import HttpClient
from llb.hub import HubClient
from llb.node.replica_worker import DISK_RESERVE_BYTES
from llb.parts.local_node import LocalNode
from llb.security import tls_trust, tokens
from llb.security.certificates import create_server_tls
from llb.security.redaction import SecretRedactor
from llb.store.clock_keeper import ClockKeeper
from llb.store.database import Database
from llb.store.storage_monitor import DATABASE_LOST, StorageMonitor
from llb.store.tables import settings
from llb.wire import PROTOCOL_VERSION, JoinReply, JoinRequest, LeaveReply, Welcome

log = logging.getLogger(__name__)


class JoinedNode:
    """Node without a balancer of its own. Sanic calls `start()` and `stop()`."""

    def __init__(
        self, config: Config, make_tunnel_protocol: Callable[[Callable[[], None]], TunnelConnection]
    ) -> None:
        """`make_tunnel_protocol` makes the server's end of a connection that this host has dialled."""
        # Checked by `create_app`.
        assert config.join is not None  # noqa: S101
        self.config = config
        self.balancer_url: str = config.join
        # The server replaces it by the port that was bound.
        self.port = config.port
        self.local_token = tokens.new_local_token()
        self.membership: Membership | None = None
        self.left_cluster = asyncio.Event()
        self.log_buffer = LogBuffer(SecretRedactor().redact)
        self.db = Database(config.database_path)
        self.clock_keeper = ClockKeeper(self.db)
        self.hub = HubClient(config.hub_endpoint, config.hub_token, offline=config.hub_offline)
        self.auth_middleware = AuthMiddleware(
            config,
            BalancerAuthenticator(
                lambda: None if self.membership is None else self.membership.hop_credential
            ),
            local_token=self.local_token,
        )
        self.local_node = LocalNode(
            config, self.db, self.hub, self.log_buffer, get_addresses=self._advertised_addresses
        )
        self.agent = self.local_node.agent
        self.tls = create_server_tls(config)
        self.http_client = HttpClient(fail_fast=True)
        self.in_flight = InFlightCounter()
        self.link_client: ControlLinkClient | None = None
        self._make_tunnel_protocol = make_tunnel_protocol
        self.tasks = TaskSupervisor("joined")
        # Running answers use the tunnels, so the tunnels close after the link.
        self.tunnel_tasks = TaskSupervisor("tunnels")
        self.storage_monitor = StorageMonitor(
            self.db, config.models_dir, download_reserve_bytes=DISK_RESERVE_BYTES
        )
        self._data_dir_lock: data_dir.DataDirLock | None = None

    def blueprints(self) -> tuple[Any, ...]:
        """Blueprints for the balancer, for the command line of this host, and the proxy for everyone else."""
        return (
            node_api_blueprint(self.agent, self.http_client, self.in_flight, lambda: self.membership),
            node_logs_blueprint(self.log_buffer),
            peer_files_blueprint(
                self.agent.peer_file_server,
                lambda: self.agent.node_id,
                lambda: None if self.membership is None else self.membership.hop_credential,
            ),
            node_status_blueprint(self.balancer_url, self, self.left_cluster),
            public_proxy_blueprint(
                self.balancer_url, lambda: self.agent.balancer_anchor, self.http_client, self.in_flight
            ),
        )

    async def start(self) -> None:
        """Start data directory, database, membership (joining with the token if needed), node and link.

        Raises `SetupError`.
        """
        self._data_dir_lock = await asyncio.to_thread(
            data_dir.acquire_lock, self.config.home, self.config.models_dir
        )
        self.log_buffer.start()
        try:
            await self.db.start()
            await self.clock_keeper.start()
            # A full disk must not prevent it.
            with self.db.ballast.released():
                if self.tls is not None:
                    await self.tls.start(self.db)
                self.membership = await self._ensure_joined()
            await self.agent.start(
                self.membership.node_id,
                anchor="" if self.tls is None else self.tls.anchor,
                balancer_anchor=self.membership.anchor,
            )
        except BaseException:
            await self.stop()
            raise
        tunnel_pool = TunnelPool(self.membership, self._make_tunnel_protocol)
        link_client = self.link_client = ControlLinkClient(self.membership, self.agent)
        self.agent.welcomed.subscribe(link_client.on_welcome)
        self.agent.welcomed.subscribe(self._on_welcome)
        self.agent.tunnels_requested.subscribe(tunnel_pool.set_min_idle)
        # While the link is down there are no requests for tunnels; the idle ones are closed.
        link_client.link_changed.subscribe(
            lambda is_connected: None if is_connected else tunnel_pool.set_min_idle(0)
        )
        self.tunnel_tasks.spawn(tunnel_pool.run(), "tunnel-pool")
        self.tasks.spawn(self.link_client.run(), "link")
        self.tasks.spawn(self.storage_monitor.run(), "storage")
        self.tasks.spawn(self.clock_keeper.run(), "clock")
        if self.tls is not None:
            self.tasks.spawn(self.tls.run_renewal(), "tls")

    async def reload(self) -> None:
        """Read the certificate again, without touching connections and engines."""
        if self.tls is not None:
            await self.tls.reload()

    async def drain(self, timeout_s: float) -> None:
        """Close the link, so that the balancer sends no more requests, and let running answers end."""
        await self.tasks.close()
        await self.in_flight.wait_idle(timeout_s)

    async def stop(self) -> None:
        """Stop in the reverse order of the start; idempotent.

        A part that fails to stop does not prevent the others from stopping.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._release_data_dir)
            stack.callback(self.log_buffer.stop)
            stack.push_async_callback(self.db.close)
            stack.push_async_callback(self.clock_keeper.close)
            stack.push_async_callback(self.hub.aclose)
            stack.push_async_callback(self.agent.close)
            stack.push_async_callback(self.http_client.close)
            stack.push_async_callback(self.tunnel_tasks.close)
            stack.push_async_callback(self.tasks.close)

    def _release_data_dir(self) -> None:
        lock, self._data_dir_lock = self._data_dir_lock, None
        if lock is not None:
            lock.close()

    async def issue_setup_token(self) -> str | None:
        """None: a joined host has no accounts."""
        return None

    async def leave(self) -> LeaveReply:
        """Leave the cluster, and notify the balancer if it can be reached; the files stay."""
        member, self.membership = self.membership, None
        if member is None:
            return LeaveReply()
        # First, or the balancer would report on the link that this node was removed.
        await self.tasks.close()
        untold = await notify_leave(member)
        await asyncio.to_thread(node_identity.remove_membership, self.config.home)
        return LeaveReply(untold=untold)

    @property
    def problem(self) -> str | None:
        """Why the link is not connected, as a sentence; None while it is."""
        if self.storage_monitor.is_database_lost:
            return DATABASE_LOST
        return "it is starting" if self.link_client is None else self.link_client.problem

    async def _ensure_joined(self) -> Membership:
        known = node_identity.read_membership(self.config.home)
        if known is not None and known.balancer_url == self.balancer_url:
            # A token is ignored, so that a service unit can keep it.
            return known
        token, fingerprint = tokens.split_join_token(self.config.join_token or "")
        anchor = await determine_trust_anchor(self.balancer_url, fingerprint)
        if anchor == tls_trust.SYSTEM_TRUST and known is not None:
            anchor = known.anchor
        if known is not None and await is_same_balancer(self.balancer_url, known, anchor):
            # The same balancer at another address or name.
            moved = structs.replace(known, balancer_url=self.balancer_url, anchor=anchor)
            await asyncio.to_thread(node_identity.write_membership, self.config.home, moved)
            return moved
        if not token:
            if known is not None:
                raise SetupError(
                    f"This host has joined {known.balancer_url}: run 'llb leave' first, or give the token of "
                    f"{self.balancer_url} with --token."
                )
            raise SetupError(
                f"A token is needed to join {self.balancer_url}: create one there with 'llb join-token', "
                "and give it with --token or LLB_JOIN_TOKEN."
            )
        reply = await self._request_join(token, anchor)
        if reply.name != self.config.name:
            log.warning(
                "another node is already called %s: this one is called %s", self.config.name, reply.name
            )
        joined = Membership(
            balancer_url=self.balancer_url,
            cluster_id=reply.cluster_id,
            node_id=reply.node_id,
            name=reply.name,
            credential=reply.credential,
            hop_credential=reply.hop_credential,
            anchor=anchor,
        )
        await asyncio.to_thread(node_identity.write_membership, self.config.home, joined)
        # Last: a wrong token must not end the existing membership.
        if known is not None and (untold := await notify_leave(known)) is not None:
            log.warning(
                "%s could not be notified that this node left (%s): remove the node there",
                known.balancer_url,
                untold,
            )
        return joined

    async def _request_join(self, token: str, anchor: str) -> JoinReply:
        request = JoinRequest(
            token=token,
            name=self.config.name,
            protocol=PROTOCOL_VERSION,
            version=__version__,
            cluster_id=await settings.get(self.db, "cluster_id") or "",
        )
        return await request_join(self.balancer_url, request, anchor)

    def _on_welcome(self, welcome: Welcome) -> None:
        """Store the name that the balancer gives this node; it may have been renamed."""
        member = self.membership
        if member is None or not welcome.name or welcome.name == member.name:
            return
        log.warning("this node is now called %s", welcome.name)
        self.membership = structs.replace(member, name=welcome.name)
        self.tasks.spawn(self._store_membership(self.membership), "store-membership")

    async def _store_membership(self, membership: Membership) -> None:
        """Store the membership in a thread; the link continues if the disk does not take it."""

        def store() -> None:
            with self.db.ballast.released():
                node_identity.write_membership(self.config.home, membership)

        try:
            await asyncio.to_thread(store)
        except OSError as error:
            # The balancer sends the name again at the next connection.
            log.warning("the name of this node could not be stored: %s", error.strerror or error)

    def _advertised_addresses(self) -> tuple[str, ...]:
        if self.config.advertise is not None:
            return (self.config.advertise,)
        return build_base_urls("http" if self.tls is None else "https", self.config.listen_host, self.port)
