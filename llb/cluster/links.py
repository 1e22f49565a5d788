"""The balancer's side of the links: takes what nodes report into the view and sends them what they should hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from llb.cluster.view import ClusterView
from llb.wire import (
    PROTOCOL_VERSION,
    BalancerLink,
    BalancerMessage,
    Heartbeat,
    Hello,
    LinkClosed,
    NodeLink,
    NodeMessage,
    ReplicaReport,
    Want,
    Welcome,
)

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 60.0


class Links:
    """Serves every connected node; one `serve()` a link."""

    def __init__(
        self,
        view: ClusterView,
        want_of: Callable[[str], Want],
        *,
        on_hello: Callable[[str], None],
        on_replica: Callable[[str, ReplicaReport], None],
    ) -> None:
        self._view = view
        self._want_of = want_of
        self._on_hello = on_hello
        self._on_replica = on_replica
        self._changed: dict[str, asyncio.Event] = {}

    def want_changed(self) -> None:
        """Wake the senders: some node is to hold something else than before."""
        for changed in self._changed.values():
            changed.set()

    async def serve(self, end: BalancerLink) -> None:
        """Speak with one node until its link ends."""
        hello = await asyncio.wait_for(end.receive(), HELLO_TIMEOUT_S)
        if not isinstance(hello, Hello):
            log.warning("a node spoke before its hello; its link is closed")
            await end.close()
            return
        node_id = hello.node_id
        changed = self._changed[node_id] = asyncio.Event()
        self._view.hello(hello)
        self._on_hello(node_id)
        try:
            want = self._want_of(node_id)
            await end.send(Welcome(protocol=PROTOCOL_VERSION, cluster_id=want.cluster_id, node_id=node_id))
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._send_wants(node_id, end, changed), name=f"link.{node_id}.send")
                both_ways.create_task(self._receive(node_id, end), name=f"link.{node_id}.receive")
        except* LinkClosed:
            pass
        finally:
            if self._changed.get(node_id) is changed:
                del self._changed[node_id]
                self._view.offline(node_id)
            await end.close()

    async def _send_wants(self, node_id: str, end: BalancerLink, changed: asyncio.Event) -> None:
        sent: Want | None = None
        while True:
            changed.clear()
            want = self._want_of(node_id)
            if want != sent:
                await end.send(want)
                sent = want
            await changed.wait()

    async def _receive(self, node_id: str, end: BalancerLink) -> None:
        while True:
            message = await end.receive()
            match message:
                case ReplicaReport():
                    self._view.replica(node_id, message)
                    self._on_replica(node_id, message)
                case Heartbeat():
                    self._view.beat(node_id, message)
                    self.want_changed()  # free memory and disk decide what can be placed
                case Hello():
                    self._view.hello(message)
                    self._on_hello(node_id)


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
