"""Control link client: the node's end of the permanent link to its balancer."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from llb.base.backoff import Backoff
from llb.base.events import Topic
from llb.base.node_identity import Membership
from llb.cluster.join.dial import connect_socket, enable_dead_peer_detection, root_cause_message
from llb.cluster.link.websocket_link import MAX_MESSAGE_BYTES, WebSocketLink, decode_balancer_message
from llb.node.agent import NodeAgent
from llb.security import tls_trust
from llb.wire import BalancerMessage, NodeMessage, Welcome

log = logging.getLogger(__name__)

WEBSOCKET_OPEN_TIMEOUT_S = 5.0
# Pings detect a program that hangs; the kernel detects a vanished host (`enable_dead_peer_detection`).
PING_INTERVAL_S, PONG_TIMEOUT_S = 5.0, 10.0
BACKOFF_INITIAL_S, BACKOFF_MAX_S = 0.25, 1.0
# The cause of a rejection needs an operator and does not go away within seconds.
REJECTED_RETRY_DELAY_S = 60.0
# A link that lasted this long was healthy: the next delay is short again.
BACKOFF_RESET_AFTER_S = 10.0
# Nodes must not reconnect at the same moment after a restart of their balancer.
JITTER = 0.5
_MISDIRECTED_REQUEST = 421


class LinkEnd(StrEnum):
    """Why a link ended."""

    LOST = "lost"
    REJECTED = "rejected"


class _NoRedirectConnect(connect):
    """WebSocket client that follows no redirect.

    A balancer that has joined another one redirects there, but a node belongs to the balancer that it joined.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class ControlLinkClient:
    """Client that keeps a joined host connected. `problem` says why it is not, without an address."""

    def __init__(self, membership: Membership, agent: NodeAgent) -> None:
        self.problem: str | None = "the balancer has not answered yet"
        # True when the link is established, False when it has ended.
        self.link_changed: Topic[bool] = Topic()
        self._membership = membership
        self._agent = agent

    async def run(self) -> None:
        """Connect, serve the link, and connect again after it ended; until cancelled."""
        backoff = Backoff(
            BACKOFF_INITIAL_S, BACKOFF_MAX_S, jitter=JITTER, reset_after_s=BACKOFF_RESET_AFTER_S
        )
        rejected_backoff = Backoff(REJECTED_RETRY_DELAY_S, REJECTED_RETRY_DELAY_S, jitter=JITTER)
        while True:
            try:
                end = await self._serve_one_link()
            except Exception:
                # A defect costs the link, never the node: both ends start again with their full state.
                log.exception("the link to the balancer failed")
                end = self._record_problem("the link to the balancer failed; see the log of this host")
            delay_s = (rejected_backoff if end is LinkEnd.REJECTED else backoff).next_delay_s()
            await asyncio.sleep(delay_s)

    async def _serve_one_link(self) -> LinkEnd:
        """Connect and serve one link to its end."""
        try:
            sock = await connect_socket(self._membership.balancer_url)
            enable_dead_peer_detection(sock)
            async with _NoRedirectConnect(
                _websocket_url(self._membership.balancer_url),
                sock=sock,
                additional_headers={"Authorization": f"Bearer {self._membership.credential}"},
                ssl=tls_trust.get_client_context(self._membership.anchor)
                if self._membership.balancer_url.startswith("https:")
                else None,
                proxy=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=WEBSOCKET_OPEN_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PONG_TIMEOUT_S,
                close_timeout=1.0,
            ) as websocket:
                link: WebSocketLink[NodeMessage, BalancerMessage] = WebSocketLink(
                    websocket, decode_balancer_message
                )
                self.link_changed.publish(True)
                try:
                    await self._agent.run_link(link)
                finally:
                    self.link_changed.publish(False)
        except InvalidStatus as error:
            return self._handle_http_status(error.response.status_code)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            return self._record_problem(f"the balancer cannot be reached: {root_cause_message(error)}")
        if link.rejection_message is not None:
            return self._record_problem(link.rejection_message, LinkEnd.REJECTED)
        return self._record_problem("the connection to the balancer was lost")

    def _handle_http_status(self, status: int) -> LinkEnd:
        if status == 401:
            return self._record_problem(
                "the balancer does not know this node any more: run 'llb leave'; then use it on its own, "
                "or join again with a new token",
                LinkEnd.REJECTED,
            )
        if status == _MISDIRECTED_REQUEST:
            return self._record_problem(
                "the balancer does not accept the host name that this node uses for it: "
                "start it with --allowed-host"
            )
        if 300 <= status < 400:
            return self._record_problem(
                "the llb at the balancer's address redirects elsewhere, perhaps because it has joined "
                "another balancer: run 'llb leave', and join that one",
                LinkEnd.REJECTED,
            )
        return self._record_problem(
            f"the server at the balancer's address is not an llb that nodes can join ({status})"
        )

    def _record_problem(self, problem: str, end: LinkEnd = LinkEnd.LOST) -> LinkEnd:
        """Set `problem` and return `end`; a problem is logged once, however often the attempt is repeated."""
        if problem != self.problem:
            self.problem = problem
            level = logging.ERROR if end is LinkEnd.REJECTED else logging.WARNING
            log.log(level, "no link to %s: %s; trying again", self._membership.balancer_url, problem)
        return end

    def on_welcome(self, _welcome: Welcome) -> None:
        """The balancer has accepted this node."""
        self.problem = None
        log.info("connected to %s", self._membership.balancer_url)


def _websocket_url(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl() + "/ws/nodes"
