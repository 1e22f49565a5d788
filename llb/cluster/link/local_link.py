"""Local link: the control link of the node in the balancer's own process."""

from __future__ import annotations

import asyncio
import logging
from typing import Generic, TypeVar

from llb.base.tasks import run_together
from llb.cluster.link.link_server import LinkServer
from llb.node.agent import NodeAgent
from llb.wire import BalancerLink, BalancerMessage, LinkClosed, NodeLink, NodeMessage

log = logging.getLogger(__name__)

# Before a failed link is opened again.
RETRY_DELAY_S = 1.0

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")


class _InProcessLink(Generic[SentT, ReceivedT]):
    """One end of an in-process link, which passes message objects without encoding them."""

    def __init__(self, outbox: asyncio.Queue[SentT | None], inbox: asyncio.Queue[ReceivedT | None]) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._closed = False

    async def send(self, message: SentT) -> None:
        if self._closed:
            raise LinkClosed
        self._outbox.put_nowait(message)

    async def receive(self) -> ReceivedT:
        message = None if self._closed else await self._inbox.get()
        if message is None:
            self._closed = True
            raise LinkClosed
        return message

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            # The other end reads the messages sent before, then the end.
            self._outbox.put_nowait(None)
            # A `receive` of this end that waits.
            self._inbox.put_nowait(None)


def create_local_link() -> tuple[NodeLink, BalancerLink]:
    """Create the two ends of the local node's link."""
    to_balancer: asyncio.Queue[NodeMessage | None] = asyncio.Queue()
    to_node: asyncio.Queue[BalancerMessage | None] = asyncio.Queue()
    return _InProcessLink(to_balancer, to_node), _InProcessLink(to_node, to_balancer)


async def run_local_link(link_server: LinkServer, agent: NodeAgent) -> None:
    """Run the link of the local node, which uses the protocol of a joined node inside the process.

    A failure at either end closes only the link; both ends then exchange their whole state again.
    """
    while True:
        node_end, balancer_end = create_local_link()
        try:
            await run_together(
                asyncio.create_task(
                    link_server.serve_link(balancer_end, node_id=agent.node_id, silence_timeout_s=None),
                    name="llb.local-link.balancer",
                ),
                asyncio.create_task(agent.run_link(node_end), name="llb.local-link.node"),
            )
        except* Exception as failed:
            # A defect costs the link, never the node: both ends start again with their full state.
            log.error("the link to the local node failed; opening it again", exc_info=failed)
        await asyncio.sleep(RETRY_DELAY_S)
