"""Link server: the balancer's end of the control links, for reports of nodes and their desired state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec import structs

from llb.cluster.node_membership import protocol_incompatibility
from llb.cluster.view import ClusterView
from llb.node.agent import HEARTBEAT_INTERVAL_S
from llb.store.tables.nodes import NodeRecord
from llb.wire import (
    PROTOCOL_VERSION,
    BadSourceReport,
    BalancerLink,
    DesiredState,
    Drain,
    Heartbeat,
    Hello,
    LinkClosed,
    LinkRejected,
    OpenTunnels,
    ReplicaReport,
    Welcome,
)

log = logging.getLogger(__name__)

NODE_REMOVED_MESSAGE = (
    "this node was removed by the balancer: run 'llb leave'; then use it on its own, "
    "or join again with a new token"
)
NO_HELLO_MESSAGE = "the first message of a node must be a hello"
FOREIGN_HELLO_MESSAGE = "a node must say hello with its own node id"
DUPLICATE_NODE_MESSAGE = (
    "another host is connected as this node: one home directory is a copy of the other. "
    "Remove node.json from the copy, and join it with a token of its own"
)
# A node probes its hardware before its hello, and a slow driver takes long.
HELLO_TIMEOUT_S = 60.0
# Part of the API contract: a node that is silent for this long is offline.
SILENCE_TIMEOUT_S = 15.0
# A link that is alive carries a heartbeat within this time.
DUPLICATE_CHECK_TIMEOUT_S = 2 * HEARTBEAT_INTERVAL_S


class _LinkSession:
    """One link that is being served."""

    def __init__(self, link: BalancerLink, instance: str, observed_address: str | None) -> None:
        self.link = link
        self.instance = instance
        self.observed_address = observed_address
        self.send_needed = asyncio.Event()
        # Set when a message has arrived, or the link has ended.
        self.activity = asyncio.Event()
        # Idle tunnels that the node is asked to keep.
        self.tunnel_count = 0
        self.is_closed = False


class LinkServer:
    """Server of the links of all connected nodes, with one `serve_link()` for each."""

    def __init__(
        self,
        view: ClusterView,
        desired_state_of: Callable[[str], DesiredState],
        *,
        record_hello: Callable[[Hello], Awaitable[NodeRecord | None]],
        on_hello: Callable[[Hello, str | None], None],
        on_replica_report: Callable[[str, ReplicaReport], None],
        on_bad_source: Callable[[str, BadSourceReport], None],
    ) -> None:
        self._cluster_id = ""
        self._view = view
        self._desired_state_of = desired_state_of
        self._record_hello = record_hello
        self._on_hello = on_hello
        self._on_replica_report = on_replica_report
        self._on_bad_source = on_bad_source
        self._sessions: dict[str, _LinkSession] = {}

    def start(self, cluster_id: str) -> None:
        """Set the cluster id, which is kept in the database and therefore not known earlier."""
        self._cluster_id = cluster_id

    def push_desired_state(self) -> None:
        """Wake the senders of all links, because the desired state of some node may have changed."""
        for session in self._sessions.values():
            session.send_needed.set()

    def request_tunnels(self, node_id: str, tunnel_count: int) -> None:
        """Ask a node to keep `tunnel_count` idle tunnels to this balancer; 0 for none."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.tunnel_count = tunnel_count
            session.send_needed.set()

    async def disconnect_removed_node(self, node_id: str) -> None:
        """Send a removed node the reason, and close its link."""
        session = self._sessions.pop(node_id, None)
        if session is not None:
            await self._reject(session.link, node_id, NODE_REMOVED_MESSAGE)

    async def serve_link(
        self,
        link: BalancerLink,
        *,
        node_id: str,
        observed_address: str | None = None,
        silence_timeout_s: float | None = SILENCE_TIMEOUT_S,
    ) -> None:
        """Serve a node's link until it ends, or is silent for `silence_timeout_s` (None: no limit).

        `observed_address` is the address from which the node connected.
        """
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await link.receive()
        except (LinkClosed, TimeoutError):
            await link.close()
            return
        if not isinstance(hello, Hello):
            await self._reject(link, node_id, NO_HELLO_MESSAGE)
            return
        if (refusal := _hello_refusal(node_id, hello)) is not None:
            await self._reject(link, node_id, refusal)
            return
        session = _LinkSession(link, hello.instance, observed_address)
        if not await self._replace_session(session, hello):
            await self._reject(link, node_id, DUPLICATE_NODE_MESSAGE)
            return
        try:
            await self._process_hello(session, hello)
            async with asyncio.TaskGroup() as link_tasks:
                link_tasks.create_task(self._send_updates(node_id, session), name=f"link.{node_id}.send")
                link_tasks.create_task(
                    self._receive_reports(node_id, session, silence_timeout_s), name=f"link.{node_id}.receive"
                )
        except* LinkClosed:
            pass
        finally:
            session.is_closed = True
            session.activity.set()
            if self._is_current(session, node_id):
                del self._sessions[node_id]
                self._view.mark_offline(node_id)
                # Nodes that copied from it need another source.
                self.push_desired_state()
            await link.close()

    async def _replace_session(self, session: _LinkSession, hello: Hello) -> bool:
        """Make `session` the node's only link; False if another host is connected as the same node.

        When a node reconnects, its old link may still be registered because its end has not been noticed.
        That link is silent; the link of another host, with a copy of the home directory, is not.
        """
        while (previous := self._sessions.get(hello.node_id)) is not None:
            if previous.instance != session.instance:
                previous.activity.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(DUPLICATE_CHECK_TIMEOUT_S):
                        await previous.activity.wait()
                    if not previous.is_closed:
                        return False
            if self._sessions.get(hello.node_id) is previous:
                del self._sessions[hello.node_id]
            await previous.link.close()
        self._sessions[hello.node_id] = session
        return True

    async def _process_hello(self, session: _LinkSession, hello: Hello) -> None:
        """Apply a node's full state, and welcome it with the name that it has here."""
        record = await self._record_hello(hello)
        if record is None or not self._is_current(session, hello.node_id):
            # The node was removed after it was authenticated.
            await self._reject(session.link, hello.node_id, NODE_REMOVED_MESSAGE)
            raise LinkClosed
        # The balancer decides the name, because it keeps the names of its nodes unique.
        renamed_hello = structs.replace(hello, name=record.name)
        self._view.on_hello(renamed_hello, draining=record.draining, tags=record.tags)
        self._on_hello(renamed_hello, session.observed_address)
        await session.link.send(
            Welcome(
                protocol=PROTOCOL_VERSION,
                cluster_id=self._cluster_id,
                node_id=hello.node_id,
                name=record.name,
                time=time.time(),
            )
        )

    async def _send_updates(self, node_id: str, session: _LinkSession) -> None:
        sent_state: DesiredState | None = None
        sent_draining, sent_tunnel_count = False, 0
        while (node := self._view.nodes.get(node_id)) is not None:
            session.send_needed.clear()
            # Before its first heartbeat the node's capacity is unknown: a desired state computed without it
            # would make the node drop the models that it holds.
            if node.heartbeat is not None and (state := self._desired_state_of(node_id)) != sent_state:
                await session.link.send(state)
                sent_state = state
            if node.draining != sent_draining:
                sent_draining = node.draining
                await session.link.send(Drain(draining=sent_draining))
            if session.tunnel_count != sent_tunnel_count:
                sent_tunnel_count = session.tunnel_count
                await session.link.send(OpenTunnels(spares=sent_tunnel_count))
            await session.send_needed.wait()
        raise LinkClosed

    async def _receive_reports(
        self, node_id: str, session: _LinkSession, silence_timeout_s: float | None
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(silence_timeout_s):
                    message = await session.link.receive()
            except TimeoutError:
                log.warning("node %s was silent for %.0f s", self._node_name_of(node_id), silence_timeout_s)
                raise LinkClosed from None
            session.activity.set()
            if not self._is_current(session, node_id):
                # The node was removed meanwhile, or has a newer link.
                raise LinkClosed
            match message:
                case ReplicaReport():
                    self._view.on_replica_report(node_id, message)
                    self._on_replica_report(node_id, message)
                case Heartbeat():
                    self._view.on_heartbeat(node_id, message)
                    # Placement depends on free memory and disk.
                    self.push_desired_state()
                case BadSourceReport():
                    self._on_bad_source(node_id, message)
                case Hello():
                    # Before anything is stored: its node id is what the record is found by.
                    if (refusal := _hello_refusal(node_id, message)) is not None:
                        await self._reject(session.link, node_id, refusal)
                        raise LinkClosed
                    await self._process_hello(session, message)

    def _is_current(self, session: _LinkSession, node_id: str) -> bool:
        return self._sessions.get(node_id) is session

    def _node_name_of(self, node_id: str) -> str:
        node = self._view.nodes.get(node_id)
        return node_id if node is None else node.hello.name

    async def _reject(self, link: BalancerLink, node_id: str, message: str) -> None:
        log.warning("node %s was rejected: %s", self._node_name_of(node_id), message)
        with suppress(LinkClosed):
            await link.send(LinkRejected(message=message))
        await link.close()


def _hello_refusal(node_id: str, hello: Hello) -> str | None:
    """Why a hello on the link of `node_id` is not accepted; None if it is."""
    if hello.node_id != node_id:
        return FOREIGN_HELLO_MESSAGE
    return protocol_incompatibility(hello.protocol, hello.version)
