"""The balancer's side of the links: takes what nodes report into the view and sends them what they should hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from msgspec import structs

from llb.cluster.members import protocol_incompatibility
from llb.cluster.view import ClusterView
from llb.node.agent import HEARTBEAT_INTERVAL_S
from llb.store.tables.nodes import NodeRecord
from llb.wire import (
    PROTOCOL_VERSION,
    BadSourceReport,
    BalancerLink,
    BalancerMessage,
    DesiredState,
    Drain,
    Heartbeat,
    Hello,
    LinkClosed,
    LinkRejected,
    NodeLink,
    NodeMessage,
    OpenTunnels,
    ReplicaReport,
    Welcome,
)

log = logging.getLogger(__name__)

NODE_REMOVED_MESSAGE = "this node was removed by the balancer: run 'llb leave'; then it stands alone, or joins again with a new token"
DUPLICATE_NODE_MESSAGE = (
    "another host is connected as this node: one home directory is a copy of the other. Remove node.json from the copy, "
    "and join it with a token of its own"
)
HELLO_TIMEOUT_S = 60.0  # a node asks its hardware first, and a slow driver takes its time
SILENCE_TIMEOUT_S = 15.0  # the contract: a node that says nothing for so long is offline
DUPLICATE_CHECK_TIMEOUT_S = 2 * HEARTBEAT_INTERVAL_S  # a link that is alive is heard within it


class _LinkSession:
    """One link that is being served."""

    def __init__(self, link: BalancerLink, instance: str, observed_address: str | None) -> None:
        self.link = link
        self.instance = instance
        self.observed_address = observed_address
        self.send_needed = asyncio.Event()  # there may be something to send
        self.activity = asyncio.Event()  # it was heard, or it has ended
        self.tunnel_count = 0  # connections that the node is asked to dial
        self.is_closed = False


class LinkServer:
    """Serves every connected node; one `serve()` a link."""

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
        """`cluster_id` is kept in the database, so it is known only now."""
        self._cluster_id = cluster_id

    def push_desired_state(self) -> None:
        """Wake the senders: some node is to hold something else than before."""
        for session in self._sessions.values():
            session.send_needed.set()

    def request_tunnels(self, node_id: str, tunnel_count: int) -> None:
        """Have a node keep so many connections ready that it has dialled itself; 0: no more."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.tunnel_count = tunnel_count
            session.send_needed.set()

    async def disconnect_removed_node(self, node_id: str) -> None:
        """A node was removed: tell it, and end its link."""
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
        """Speak with the node of `node_id` until its link ends, or is silent for `silence_s` (None: for ever).

        `observed` is the address from which it dialled.
        """
        try:
            hello = await asyncio.wait_for(link.receive(), HELLO_TIMEOUT_S)
        except (LinkClosed, TimeoutError):
            await link.close()
            return
        if not isinstance(hello, Hello) or hello.node_id != node_id:
            await self._reject(link, node_id, "a node says hello first, and in its own name")
            return
        if (refusal := protocol_incompatibility(hello.protocol, hello.version)) is not None:
            await self._reject(link, node_id, refusal)
            return
        session = _LinkSession(link, hello.instance, observed_address)
        if not await self._replace_session(session, hello):
            await self._reject(link, node_id, DUPLICATE_NODE_MESSAGE)
            return
        try:
            await self._process_hello(session, hello)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._send_updates(node_id, session), name=f"link.{node_id}.send")
                both_ways.create_task(
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
                self.push_desired_state()  # who copied from it is to be told of another
            await link.close()

    async def _replace_session(self, session: _LinkSession, hello: Hello) -> bool:
        """Make `session` the node's one link; False where another host is connected as the same node.

        A node that comes back finds its old link standing if nobody has noticed yet that it broke. That link is silent;
        the one of another host, with a copy of the home, is not.
        """
        while (before := self._sessions.get(hello.node_id)) is not None:
            if before.instance != session.instance:
                before.activity.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(before.activity.wait(), DUPLICATE_CHECK_TIMEOUT_S)
                    if not before.is_closed:
                        return False
            if self._sessions.get(hello.node_id) is before:
                del self._sessions[hello.node_id]
            await before.link.close()
        self._sessions[hello.node_id] = session
        return True

    async def _process_hello(self, session: _LinkSession, hello: Hello) -> None:
        """Take a node's whole state in, and tell it what it is called here."""
        record = await self._record_hello(hello)
        if record is None or not self._is_current(session, hello.node_id):
            # Removed, since it showed its credential.
            await self._reject(session.link, hello.node_id, NODE_REMOVED_MESSAGE)
            raise LinkClosed
        # The balancer's word counts for the name: it made the names of its nodes different.
        named = structs.replace(hello, name=record.name)
        self._view.on_hello(named, draining=record.draining, tags=record.tags)
        self._on_hello(named, session.observed_address)
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
        sent: DesiredState | None = None
        draining, spares = False, 0
        while (node := self._view.nodes.get(node_id)) is not None:
            session.send_needed.clear()
            # Before its first heartbeat nobody knows what it has room for, and a want would take from it what it holds.
            if node.heartbeat is not None and (want := self._desired_state_of(node_id)) != sent:
                await session.link.send(want)
                sent = want
            if node.draining != draining:
                draining = node.draining
                await session.link.send(Drain(draining=draining))
            if session.tunnel_count != spares:
                spares = session.tunnel_count
                await session.link.send(OpenTunnels(spares=spares))
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
                raise LinkClosed  # removed meanwhile, or a newer link speaks for it
            match message:
                case ReplicaReport():
                    self._view.on_replica_report(node_id, message)
                    self._on_replica_report(node_id, message)
                case Heartbeat():
                    self._view.on_heartbeat(node_id, message)
                    self.push_desired_state()  # free memory and disk decide what can be placed
                case BadSourceReport():
                    self._on_bad_source(node_id, message)
                case Hello():
                    await self._process_hello(session, message)

    def _is_current(self, session: _LinkSession, node_id: str) -> bool:
        return self._sessions.get(node_id) is session

    def _node_name_of(self, node_id: str) -> str:
        node = self._view.nodes.get(node_id)
        return node_id if node is None else node.hello.name

    async def _reject(self, link: BalancerLink, node_id: str, message: str) -> None:
        log.warning("node %s was refused: %s", self._node_name_of(node_id), message)
        with suppress(LinkClosed):
            await link.send(LinkRejected(message=message))
        await link.close()


Sent = TypeVar("Sent")
Received = TypeVar("Received")


class _InProcessLink(Generic[Sent, Received]):
    """One end of an in-process link: the same objects, in order, without being encoded."""

    def __init__(self, outbox: asyncio.Queue[Sent | None], inbox: asyncio.Queue[Received | None]) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._closed = False

    async def send(self, message: Sent) -> None:
        if self._closed:
            raise LinkClosed
        self._outbox.put_nowait(message)

    async def receive(self) -> Received:
        message = None if self._closed else await self._inbox.get()
        if message is None:
            self._closed = True
            raise LinkClosed
        return message

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._outbox.put_nowait(None)  # the other end reads what was sent before, then the end


def create_local_link() -> tuple[NodeLink, BalancerLink]:
    """The link of the local node: its two ends."""
    to_balancer: asyncio.Queue[NodeMessage | None] = asyncio.Queue()
    to_node: asyncio.Queue[BalancerMessage | None] = asyncio.Queue()
    return _InProcessLink(to_balancer, to_node), _InProcessLink(to_node, to_balancer)
