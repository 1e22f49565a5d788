"""Connections to joined nodes: a route to each, and the requests over it.

A route that fails is dropped at once, and verified before it is used again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec import Struct

from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.cluster.link.link_server import SILENCE_TIMEOUT_S
from llb.gateway.http.client import BegunRequest, HttpClient, UpstreamTarget
from llb.gateway.http.connection import PoolKey
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, TransportError, UpstreamTimeout
from llb.gateway.nodes.route_discovery import (
    NODE_CONNECT_TIMEOUT_S,
    NodeRoute,
    RouteDiscovery,
    candidate_urls,
    tunnel_target,
)
from llb.gateway.nodes.route_monitor import RouteMonitor
from llb.wire import Hello, ReachView, ReachWay

log = logging.getLogger(__name__)

WRONG_CREDENTIAL_REASON = (
    "it rejects this balancer's credential because its node.json was replaced: run leave and join on it again"
)


class _DisconnectedNode(Struct, frozen=True):
    """Node whose control link has ended: its responses may continue until it was silent for too long."""

    instance: str
    targets: dict[PoolKey, UpstreamTarget]
    expiry_timer: asyncio.TimerHandle


class BegunNodeRequest:
    """Request to a node: sent, if a connection was idle. The probe of its route watches the wait for it."""

    __slots__ = ("_begun", "_connections", "_is_waiting", "_node_id", "_route")

    def __init__(
        self, connections: NodeConnections, node_id: str, route: NodeRoute, begun: BegunRequest
    ) -> None:
        self._connections = connections
        self._node_id = node_id
        self._route = route
        self._begun = begun
        # Whether the probe counts this request.
        self._is_waiting = True

    @property
    def response(self) -> UpstreamResponse | None:
        return self._begun.response

    def begin_connect(self, on_done: Callable[[], None]) -> None:
        """Send the request over a new connection; see `BegunRequest.begin_connect`."""
        self._begun.begin_connect(on_done)

    def close(self) -> None:
        """End the exchange; no effect once the response is complete."""
        self._end_wait()
        self._begun.close()

    def begin_relay(self) -> None:
        """The head of an answer has come, and its bytes are passed on."""
        response = self._begun.response
        if self._is_waiting and response is not None:
            self._is_waiting = False
            response.defer_started(self._route.liveness_probe.end_wait)
            self._begun.begin_relay()

    async def wait(self) -> UpstreamResponse:
        """Return the response once its head is complete; raises as `NodeConnections.request`."""
        try:
            response = await self._begun.wait()
        except BaseException as error:
            self._end_wait()
            if isinstance(error, TransportError):
                self._connections.note_failure(self._node_id, self._route, error)
            raise
        self.begin_relay()
        if response.status == 401 and any(name == b"www-authenticate" for name, _ in response.headers):
            response.close()
            self._connections.note_wrong_credential(self._node_id, self._route)
            raise ConnectError("the node does not know its balancer")
        return response

    def _end_wait(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._route.liveness_probe.end_wait()


class NodeConnections:
    """Routes to every node whose control link is up, and requests over them."""

    def __init__(
        self, http_client: HttpClient, credential_of: Callable[[str], str | None], *, tls_only: bool = False
    ) -> None:
        """With `tls_only` a node without TLS is reached only over its own tunnels, which use TLS."""
        self._tls_only = tls_only
        self._http_client = http_client
        self._credential_of = credential_of
        self._monitors: dict[str, RouteMonitor] = {}
        self._disconnected: dict[str, _DisconnectedNode] = {}
        self._tasks = TaskSupervisor("node_connections")
        # Node id, number of idle tunnels to keep
        self.tunnels_wanted: Topic[str, int] = Topic()
        self.route_changed: Topic[str] = Topic()

    def route_of(self, node_id: str) -> NodeRoute | None:
        """Return the route in use, or None."""
        monitor = self._monitors.get(node_id)
        return None if monitor is None else monitor.route

    def may_recover(self, node_id: str) -> bool:
        """Whether a node has a route, or is expected to have one soon."""
        monitor = self._monitors.get(node_id)
        return monitor is not None and monitor.may_recover

    def base_url_of(self, node_id: str) -> str | None:
        """Return the base URL that a node is dialled at, or None."""
        route = self.route_of(node_id)
        return None if route is None else route.base_url

    def reach_view_of(self, node_id: str) -> ReachView:
        """Return the API's view of the route to a node."""
        route = self.route_of(node_id)
        if route is None:
            return ReachView(way=ReachWay.NONE)
        return ReachView(way=route.kind, answer_ms=round(route.latency_s * 1000, 1))

    async def request(
        self,
        node_id: str,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        header_timeout_s: float,
    ) -> UpstreamResponse:
        """Return a node's response once its head is complete; the caller closes it.

        Until the caller calls `mark_started()` the response fails within a second after the node was lost.
        Raises `TransportError`.
        """
        begun = self.begin_request(node_id, method, path, headers, body, header_timeout_s=header_timeout_s)
        return await begun.wait()

    def begin_request(
        self,
        node_id: str,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        header_timeout_s: float,
        own_header: tuple[bytes, bytes] | None = None,
    ) -> BegunNodeRequest:
        """Send a request if a connection is idle; the caller calls `wait`, `begin_relay` or `close`.

        `own_header` is one that no other request has. Raises `ConnectError`.
        """
        route = self.route_of(node_id)
        if route is None:
            raise ConnectError("no route to the node")
        route.liveness_probe.begin_wait()
        try:
            begun = self._http_client.begin_request(
                route.target,
                method,
                path,
                headers,
                body,
                connect_timeout_s=NODE_CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
                own_header=own_header,
            )
        except BaseException:
            route.liveness_probe.end_wait()
            raise
        return BegunNodeRequest(self, node_id, route, begun)

    def note_failure(self, node_id: str, route: NodeRoute, error: TransportError) -> None:
        """Verify a route before its next use if `error` may be a failure of the host."""
        if not _may_be_only_slow(error, route):
            self._mark_failed(node_id, route, f"a request failed ({error})")

    def note_wrong_credential(self, node_id: str, route: NodeRoute) -> None:
        """Drop a route whose other end does not accept the credential of this balancer."""
        self._mark_failed(node_id, route, WRONG_CREDENTIAL_REASON)

    # --- events of nodes ----------------------------------------------------------------------------

    def connect_node(self, hello: Hello, observed_address: str | None) -> None:
        """Start the search for a route to a node that has linked up, unless its current route is still good.

        Candidates are the node's own addresses and `observed_address`, from which it dialled.
        """
        node_id, urls = hello.node_id, candidate_urls(hello.addresses, observed_address)
        previous = self._monitors.get(node_id)
        is_same = previous is not None and (previous.instance, previous.urls) == (hello.instance, urls)
        if is_same and self.base_url_of(node_id) is not None:
            # Only its control link is new.
            return
        previous_targets = self._stop_previous(node_id, hello.instance)
        credential = self._credential_of(node_id)
        if credential is None:
            return
        monitor = self._monitors[node_id] = RouteMonitor(
            self._http_client,
            RouteDiscovery(
                self._http_client,
                node_id,
                hello.name,
                credential,
                trust_anchor=hello.anchor,
                tls_only=self._tls_only,
            ),
            hello,
            urls,
            self._tasks,
            on_tunnels_wanted=lambda count: self.tunnels_wanted.publish(node_id, count),
            on_route_changed=lambda: self.route_changed.publish(node_id),
        )
        monitor.targets |= previous_targets
        monitor.start()
        self.route_changed.publish(node_id)

    def disconnect_node(self, node_id: str, silent_s: float = 0.0) -> None:
        """Stop the search for a node that was removed, or whose link ended.

        `silent_s` is the time since the node's last message.
        """
        monitor = self._monitors.pop(node_id, None)
        if monitor is not None:
            monitor.stop()
            expiry_timer = asyncio.get_running_loop().call_later(
                max(0.0, SILENCE_TIMEOUT_S - silent_s), self._expire_disconnected, node_id
            )
            self._disconnected[node_id] = _DisconnectedNode(monitor.instance, monitor.targets, expiry_timer)

    def accept_tunnel(self, node_id: str, transport: asyncio.Transport) -> None:
        """Add a connection that a node has dialled to the pool."""
        self._http_client.adopt_connection(tunnel_target(node_id), transport)

    def expects_tunnel(self, node_id: str) -> bool:
        """Whether the node may dial tunnels: its control link is up."""
        return node_id in self._monitors

    async def close(self) -> None:
        """Stop every search; idempotent."""
        for node_id in tuple(self._monitors):
            self.disconnect_node(node_id)
        for disconnected in self._disconnected.values():
            disconnected.expiry_timer.cancel()
        await self._tasks.close()

    def _mark_failed(self, node_id: str, route: NodeRoute, reason: str) -> None:
        monitor = self._monitors.get(node_id)
        if monitor is not None:
            monitor.mark_failed(route, reason)

    def _stop_previous(self, node_id: str, instance: str) -> dict[PoolKey, UpstreamTarget]:
        """Stop the node's previous monitor, and return its targets if the node's process is the same one.

        Responses of an earlier process have ended with it: their requests fail.
        """
        monitor, disconnected = self._monitors.pop(node_id, None), self._disconnected.pop(node_id, None)
        if monitor is not None:
            monitor.stop()
        if disconnected is not None:
            disconnected.expiry_timer.cancel()
        previous = monitor or disconnected
        if previous is None:
            return {}
        if previous.instance == instance:
            return previous.targets
        self._fail_requests(previous.targets)
        return {}

    def _expire_disconnected(self, node_id: str) -> None:
        self._fail_requests(self._disconnected.pop(node_id).targets)

    def _fail_requests(self, targets: dict[PoolKey, UpstreamTarget]) -> None:
        for target in targets.values():
            self._http_client.fail_requests(target, include_started=True)


def _may_be_only_slow(error: TransportError, route: NodeRoute) -> bool:
    """Whether the host may be fine, and only its program slow to respond or to dial a tunnel."""
    if isinstance(error, ConnectError):
        return error.is_timeout and route.kind is ReachWay.REVERSE
    return isinstance(error, UpstreamTimeout)
