"""The balancer's side of the links: takes what nodes report into the view and sends them what they should hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from msgspec import structs

from llb.cluster.members import protocol_refusal
from llb.cluster.view import ClusterView
from llb.node.agent import HEARTBEAT_S
from llb.store.nodes import NodeRecord
from llb.wire import (
    PROTOCOL_VERSION,
    BalancerLink,
    BalancerMessage,
    Blame,
    Dial,
    Drain,
    Heartbeat,
    Hello,
    LinkClosed,
    NodeLink,
    NodeMessage,
    Refused,
    ReplicaReport,
    Want,
    Welcome,
)

log = logging.getLogger(__name__)

REMOVED = "this node was removed by the balancer: run 'llb leave'; then it stands alone, or joins again with a new token"
SECOND_HOST = (
    "another host is connected as this node: one home directory is a copy of the other. Remove node.json from the copy, "
    "and join it with a token of its own"
)
HELLO_TIMEOUT_S = 60.0  # a node asks its hardware first, and a slow driver takes its time
SILENCE_S = 15.0  # the contract: a node that says nothing for so long is offline
SECOND_S = 2 * HEARTBEAT_S  # a link that is alive is heard within it


class _Session:
    """One link that is being served."""

    def __init__(self, end: BalancerLink, instance: str, observed: str | None) -> None:
        self.end = end
        self.instance = instance
        self.observed = observed
        self.changed = asyncio.Event()  # there may be something to send
        self.stirred = asyncio.Event()  # it was heard, or it has ended
        self.spares = 0  # connections that the node is asked to dial
        self.ended = False


class Links:
    """Serves every connected node; one `serve()` a link."""

    def __init__(
        self,
        view: ClusterView,
        want_of: Callable[[str], Want],
        *,
        record_of: Callable[[Hello], Awaitable[NodeRecord | None]],
        on_hello: Callable[[Hello, str | None], None],
        on_replica: Callable[[str, ReplicaReport], None],
        on_blame: Callable[[str, Blame], None],
    ) -> None:
        self.cluster_id = ""  # told at the start: it is kept in the database
        self._view = view
        self._want_of = want_of
        self._record_of = record_of
        self._on_hello = on_hello
        self._on_replica = on_replica
        self._on_blame = on_blame
        self._sessions: dict[str, _Session] = {}

    def want_changed(self) -> None:
        """Wake the senders: some node is to hold something else than before."""
        for session in self._sessions.values():
            session.changed.set()

    def ask_to_dial(self, node_id: str, spares: int) -> None:
        """Have a node keep so many connections ready that it has dialled itself; 0: no more."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.spares = spares
            session.changed.set()

    async def drop(self, node_id: str) -> None:
        """A node was removed: tell it, and end its link."""
        session = self._sessions.pop(node_id, None)
        if session is not None:
            await self._refuse(session.end, node_id, REMOVED)

    async def serve(
        self,
        end: BalancerLink,
        *,
        node_id: str,
        observed: str | None = None,
        silence_s: float | None = SILENCE_S,
    ) -> None:
        """Speak with the node of `node_id` until its link ends, or is silent for `silence_s` (None: for ever).

        `observed` is the address from which it dialled.
        """
        try:
            hello = await asyncio.wait_for(end.receive(), HELLO_TIMEOUT_S)
        except (LinkClosed, TimeoutError):
            await end.close()
            return
        if not isinstance(hello, Hello) or hello.node_id != node_id:
            await self._refuse(end, node_id, "a node says hello first, and in its own name")
            return
        if (refusal := protocol_refusal(hello.protocol, hello.version)) is not None:
            await self._refuse(end, node_id, refusal)
            return
        session = _Session(end, hello.instance, observed)
        if not await self._take_over(session, hello):
            await self._refuse(end, node_id, SECOND_HOST)
            return
        try:
            await self._hear(session, hello)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._send(node_id, session), name=f"link.{node_id}.send")
                both_ways.create_task(
                    self._receive(node_id, session, silence_s), name=f"link.{node_id}.receive"
                )
        except* LinkClosed:
            pass
        finally:
            session.ended = True
            session.stirred.set()
            if self._is_current(session, node_id):
                del self._sessions[node_id]
                self._view.offline(node_id)
                self.want_changed()  # who copied from it is to be told of another
            await end.close()

    async def _take_over(self, session: _Session, hello: Hello) -> bool:
        """Make `session` the node's one link; False where another host is connected as the same node.

        A node that comes back finds its old link standing if nobody has noticed yet that it broke. That link is silent;
        the one of another host, with a copy of the home, is not.
        """
        while (before := self._sessions.get(hello.node_id)) is not None:
            if before.instance != session.instance:
                before.stirred.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(before.stirred.wait(), SECOND_S)
                    if not before.ended:
                        return False
            if self._sessions.get(hello.node_id) is before:
                del self._sessions[hello.node_id]
            await before.end.close()
        self._sessions[hello.node_id] = session
        return True

    async def _hear(self, session: _Session, hello: Hello) -> None:
        """Take a node's whole state in, and tell it what it is called here."""
        record = await self._record_of(hello)
        if record is None or not self._is_current(session, hello.node_id):
            # Removed, since it showed its credential.
            await self._refuse(session.end, hello.node_id, REMOVED)
            raise LinkClosed
        # The balancer's word counts for the name: it made the names of its nodes different.
        named = structs.replace(hello, name=record.name)
        self._view.hello(named, draining=record.draining, tags=record.tags)
        self._on_hello(named, session.observed)
        await session.end.send(
            Welcome(
                protocol=PROTOCOL_VERSION,
                cluster_id=self.cluster_id,
                node_id=hello.node_id,
                name=record.name,
                time=time.time(),
            )
        )

    async def _send(self, node_id: str, session: _Session) -> None:
        sent: Want | None = None
        draining, spares = False, 0
        while (node := self._view.nodes.get(node_id)) is not None:
            session.changed.clear()
            # Before its first heartbeat nobody knows what it has room for, and a want would take from it what it holds.
            if node.heartbeat is not None and (want := self._want_of(node_id)) != sent:
                await session.end.send(want)
                sent = want
            if node.draining != draining:
                draining = node.draining
                await session.end.send(Drain(draining=draining))
            if session.spares != spares:
                spares = session.spares
                await session.end.send(Dial(spares=spares))
            await session.changed.wait()
        raise LinkClosed

    async def _receive(self, node_id: str, session: _Session, silence_s: float | None) -> None:
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    message = await session.end.receive()
            except TimeoutError:
                log.warning("node %s was silent for %.0f s", self._name(node_id), silence_s)
                raise LinkClosed from None
            session.stirred.set()
            if not self._is_current(session, node_id):
                raise LinkClosed  # removed meanwhile, or a newer link speaks for it
            match message:
                case ReplicaReport():
                    self._view.replica(node_id, message)
                    self._on_replica(node_id, message)
                case Heartbeat():
                    self._view.beat(node_id, message)
                    self.want_changed()  # free memory and disk decide what can be placed
                case Blame():
                    self._on_blame(node_id, message)
                case Hello():
                    await self._hear(session, message)

    def _is_current(self, session: _Session, node_id: str) -> bool:
        return self._sessions.get(node_id) is session

    def _name(self, node_id: str) -> str:
        node = self._view.nodes.get(node_id)
        return node_id if node is None else node.hello.name

    async def _refuse(self, end: BalancerLink, node_id: str, sentence: str) -> None:
        log.warning("node %s was refused: %s", self._name(node_id), sentence)
        with suppress(LinkClosed):
            await end.send(Refused(message=sentence))
        await end.close()


Sent = TypeVar("Sent")
Received = TypeVar("Received")


class _LocalEnd(Generic[Sent, Received]):
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


def local_link() -> tuple[NodeLink, BalancerLink]:
    """The link of the local node: its two ends."""
    to_balancer: asyncio.Queue[NodeMessage | None] = asyncio.Queue()
    to_node: asyncio.Queue[BalancerMessage | None] = asyncio.Queue()
    return _LocalEnd(to_balancer, to_node), _LocalEnd(to_node, to_balancer)
