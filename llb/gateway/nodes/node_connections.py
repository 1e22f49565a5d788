"""Where joined nodes are reached, and requests to them. A way that fails is left alone, and proved before it is used again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llb.base.events import Topic
from llb.base.tasks import TaskSupervisor
from llb.cluster.link.link_server import SILENCE_TIMEOUT_S
from llb.gateway.http.client import HttpClient, UpstreamTarget
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
from llb.wire import Hello, ReachView, ReachWay

log = logging.getLogger(__name__)

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.1, 8.0  # whoever comes back is to be used within ten seconds
RECOVERY_WINDOW_S = 4.0  # so long a node without a way is one that is just being looked for: by then its link says if it is gone
STABLE_AFTER_S = 30.0  # a way that held for so long was good: the next pause is short again
# At what a way costs, and whether a node that dials could be dialled: soon at first, its network may just be coming up.
MIN_RECHECK_INTERVAL_S, MAX_RECHECK_INTERVAL_S = 1.0, 60.0
IDLE_TUNNELS = 4  # connections that a node which cannot be dialled keeps ready
WRONG_CREDENTIAL_REASON = (
    "it does not take this balancer's credential: its node.json was replaced; let it leave and join again"
)


class _RouteMonitor:
    """Looks for the way to one node, and for another when it fails, for as long as the node's link stands."""

    def __init__(
        self,
        http_client: HttpClient,
        discovery: RouteDiscovery,
        hello: Hello,
        urls: tuple[str, ...],
        tasks: TaskSupervisor,
        *,
        on_tunnels_wanted: Callable[[int], None],
        on_route_changed: Callable[[], None],
    ) -> None:
        self.instance = hello.instance
        self.urls = urls
        self.route: NodeRoute | None = None
        self.targets: dict[
            PoolKey, UpstreamTarget
        ] = {}  # at which this process of the node was asked, by origin
        self._node_name = hello.name
        self._tasks = tasks
        self._task = tasks.spawn(self._run(), f"search.{hello.name}")
        self._is_recovery_expected = True  # that a way is found in a moment
        self._recovery_timer = self._start_recovery_timer()
        self._http_client = http_client
        self._discovery = discovery
        self._on_tunnels_wanted = on_tunnels_wanted
        self._on_route_changed = on_route_changed

    def stop(self) -> None:
        """Look no more. The requests that wait are still cared for by their way's pulse."""
        self._task.cancel()
        self._drop_route()
        self._recovery_timer.cancel()

    @property
    def may_recover(self) -> bool:
        """Whether the node is there, or is hoped to be found in a moment."""
        return self.route is not None or self._is_recovery_expected

    def mark_failed(self, route: NodeRoute, reason: str) -> None:
        """`way` is not to be used any more, if it still is."""
        if self.route is route:
            log.warning("node %s is left alone: %s", self._node_name, reason)
            self._drop_route()

    async def _run(self) -> None:
        pause_s, said = MIN_BACKOFF_S, False
        while True:
            way = await self._find_route()
            if way is not None:
                said, began = False, time.monotonic()
                self._use_route(way)
                await self._monitor_route()
                if time.monotonic() - began > STABLE_AFTER_S:
                    pause_s = MIN_BACKOFF_S
            elif not said:
                said = True
                log.warning(
                    "node %s is reached at none of %s",
                    self._node_name,
                    ", ".join(self.urls) or "its addresses",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_BACKOFF_S, pause_s * 2)

    def _drop_route(self) -> None:
        way, self.route = self.route, None
        if way is not None:
            way.liveness_probe.retire()
            self._http_client.close_idle(way.target)
            way.lost_event.set()
            self._recovery_timer.cancel()
            self._recovery_timer = self._start_recovery_timer()
            self._on_route_changed()

    def _start_recovery_timer(self) -> asyncio.TimerHandle:
        self._is_recovery_expected = True
        return asyncio.get_running_loop().call_later(RECOVERY_WINDOW_S, self._give_up_recovery)

    def _give_up_recovery(self) -> None:
        self._is_recovery_expected = False
        self._on_route_changed()

    async def _find_route(self) -> NodeRoute | None:
        way = await self._discovery.find_direct(self.urls)
        if way is not None:
            self._on_tunnels_wanted(0)
            return way
        self._on_tunnels_wanted(IDLE_TUNNELS)
        return await self._discovery.find_tunnel()

    def _use_route(self, route: NodeRoute) -> None:
        before, self.route = self.route, route
        if before is not None:
            before.liveness_probe.retire()
            self._http_client.close_idle(before.target)
        self.targets[route.target.pool_key] = route.target
        self._tasks.spawn(self._run_probe(route), f"pulse.{self._node_name}")
        log.info(
            "node %s is reached %s, and answers within %.1f ms",
            self._node_name,
            f"at {route.base_url}" if route.base_url is not None else "over connections that it dials itself",
            route.latency_s * 1000,
        )
        self._on_route_changed()

    async def _run_probe(self, route: NodeRoute) -> None:
        await route.liveness_probe.run()
        self.mark_failed(route, "it has gone")

    async def _monitor_route(self) -> None:
        pause_s = MIN_RECHECK_INTERVAL_S
        while (way := self.route) is not None:
            try:
                async with asyncio.timeout(
                    MAX_RECHECK_INTERVAL_S if way.kind is ReachWay.DIRECT else pause_s
                ):
                    await way.lost_event.wait()
            except TimeoutError:
                pause_s = min(MAX_RECHECK_INTERVAL_S, pause_s * 2)
                await self._recheck_route(way)

    async def _recheck_route(self, route: NodeRoute) -> None:
        better = None if route.kind is ReachWay.DIRECT else await self._discovery.find_direct(self.urls)
        if better is not None:
            self._use_route(better)
            self._on_tunnels_wanted(0)
        elif (answer_s := await self._discovery.measure_latency(route.target)) is not None:
            route.latency_s = answer_s


@dataclass(frozen=True)
class _DisconnectedNode:
    """A node whose link has ended: the answers that it had begun may go on until it was silent for too long."""

    instance: str
    targets: dict[PoolKey, UpstreamTarget]
    expiry_timer: asyncio.TimerHandle


class NodeConnections:
    """The way to each node whose link stands, and the requests along it."""

    def __init__(
        self, http_client: HttpClient, credential_of: Callable[[str], str | None], *, tls_only: bool = False
    ) -> None:
        """With `tls_only` a node that speaks no TLS is reached over the connections that it dials, which do."""
        self._tls_only = tls_only
        self._http_client = http_client
        self._credential_of = credential_of
        self._monitors: dict[str, _RouteMonitor] = {}
        self._disconnected: dict[str, _DisconnectedNode] = {}
        self._tasks = TaskSupervisor("reach")
        # Node id, number of idle tunnels to keep.
        self.tunnels_wanted: Topic[str, int] = Topic()
        self.route_changed: Topic[str] = Topic()

    def route_of(self, node_id: str) -> NodeRoute | None:
        search = self._monitors.get(node_id)
        return None if search is None else search.route

    def may_recover(self, node_id: str) -> bool:
        """Whether a node has a way, or is likely to have one in a moment."""
        search = self._monitors.get(node_id)
        return search is not None and search.may_recover

    def base_url_of(self, node_id: str) -> str | None:
        """The base URL at which a node is dialled."""
        way = self.route_of(node_id)
        return None if way is None else way.base_url

    def reach_view_of(self, node_id: str) -> ReachView:
        """How a node is reached, as the API shows it."""
        way = self.route_of(node_id)
        if way is None:
            return ReachView(way=ReachWay.NONE)
        return ReachView(way=way.kind, answer_ms=round(way.latency_s * 1000, 1))

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
        """A node's answer, once its head has come; the caller closes it, and says when somebody has `heard()` of it. Until
        then it fails within a second where the node has gone: here, or when it is read. Raises `UpstreamFault`."""
        way = self.route_of(node_id)
        if way is None:
            raise ConnectError("there is no way to the node")
        way.liveness_probe.begin_wait()
        try:
            response = await self._http_client.request(
                way.target,
                method,
                path,
                headers,
                body,
                connect_timeout_s=NODE_CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        except BaseException as error:
            way.liveness_probe.end_wait()
            if isinstance(error, TransportError) and not _is_only_slow(error, way):
                self._mark_failed(node_id, way, f"a request to it failed ({error})")
            raise
        response.defer_started(way.liveness_probe.end_wait)
        if response.status == 401 and any(name == b"www-authenticate" for name, _ in response.headers):
            response.close()
            self._mark_failed(node_id, way, WRONG_CREDENTIAL_REASON)
            raise ConnectError("the node does not know its balancer")
        return response

    # --- what is heard of nodes ---------------------------------------------------------------------

    def connect_node(self, hello: Hello, observed_address: str | None) -> None:
        """A node is there: find the best of its addresses, and of the one from which it dialled."""
        node_id, urls = hello.node_id, candidate_urls(hello.addresses, observed_address)
        before = self._monitors.get(node_id)
        same = before is not None and (before.instance, before.urls) == (hello.instance, urls)
        if same and self.base_url_of(node_id) is not None:
            return  # only its link is new
        asked_at = self._take_previous_targets(node_id, hello.instance)
        credential = self._credential_of(node_id)
        if credential is None:
            return
        search = self._monitors[node_id] = _RouteMonitor(
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
            on_tunnels_wanted=lambda spares: self.tunnels_wanted.publish(node_id, spares),
            on_route_changed=lambda: self.route_changed.publish(node_id),
        )
        search.targets |= asked_at
        self.route_changed.publish(node_id)

    def disconnect_node(self, node_id: str, silent_s: float = 0.0) -> None:
        """The node's link has ended, `silent_s` after it was last heard; or the node was removed."""
        search = self._monitors.pop(node_id, None)
        if search is not None:
            search.stop()
            end = asyncio.get_running_loop().call_later(
                max(0.0, SILENCE_TIMEOUT_S - silent_s), self._expire_disconnected, node_id
            )
            self._disconnected[node_id] = _DisconnectedNode(search.instance, search.targets, end)

    def accept_tunnel(self, node_id: str, transport: asyncio.Transport) -> None:
        """Take a connection that a node has dialled."""
        self._http_client.adopt_connection(tunnel_target(node_id), transport)

    def expects_tunnel(self, node_id: str) -> bool:
        """Whether the node's link stands, so that it may dial."""
        return node_id in self._monitors

    async def close(self) -> None:
        """Idempotent."""
        for node_id in tuple(self._monitors):
            self.disconnect_node(node_id)
        for gone in self._disconnected.values():
            gone.expiry_timer.cancel()
        await self._tasks.close()

    def _mark_failed(self, node_id: str, route: NodeRoute, reason: str) -> None:
        search = self._monitors.get(node_id)
        if search is not None:
            search.mark_failed(route, reason)

    def _take_previous_targets(self, node_id: str, instance: str) -> dict[PoolKey, UpstreamTarget]:
        """Where this process of the node has been asked before. What another one was answering has ended with it."""
        search, gone = self._monitors.pop(node_id, None), self._disconnected.pop(node_id, None)
        if search is not None:
            search.stop()
        if gone is not None:
            gone.expiry_timer.cancel()
        before = search or gone
        if before is None or before.instance == instance:
            return {} if before is None else before.targets
        self._fail_requests(before.targets)
        return {}

    def _expire_disconnected(self, node_id: str) -> None:
        self._fail_requests(self._disconnected.pop(node_id).targets)

    def _fail_requests(self, targets: dict[PoolKey, UpstreamTarget]) -> None:
        for target in targets.values():
            self._http_client.fail_requests(target, include_started=True)


def _is_only_slow(error: TransportError, route: NodeRoute) -> bool:
    """Whether the node may well be there: it is its program that has to answer, or to dial in time."""
    if isinstance(error, ConnectError):
        return error.is_timeout and route.kind is ReachWay.REVERSE
    return isinstance(error, UpstreamTimeout)
