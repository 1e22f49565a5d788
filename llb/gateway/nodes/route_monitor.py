"""Route monitor of one node: finds a route, watches it, and finds another when it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from llb.base.backoff import Backoff
from llb.base.tasks import TaskSupervisor
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.connection import PoolKey
from llb.gateway.nodes.route_discovery import NodeRoute, RouteDiscovery
from llb.wire import Hello, ReachWay

log = logging.getLogger(__name__)

# A node that returns must be in use within ten seconds.
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.1, 8.0
# A node without a route counts as recovering for this long; after that its control link shows whether it is
# gone.
RECOVERY_WINDOW_S = 4.0
# A route that held this long resets the back-off.
STABLE_AFTER_S = 30.0
# Interval at which latency is measured again, and at which a node behind a tunnel is dialled again: short at
# first, because its network may just be coming up.
MIN_RECHECK_INTERVAL_S, MAX_RECHECK_INTERVAL_S = 1.0, 60.0
# Idle tunnels that a node which cannot be dialled keeps open
IDLE_TUNNELS = 4


class RouteMonitor:
    """Background search for the route to one node, as long as the node's control link is up."""

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
        # Every target that this process of the node was reached at
        self.targets: dict[PoolKey, UpstreamTarget] = {}
        self._node_name = hello.name
        self._tasks = tasks
        self._http_client = http_client
        self._discovery = discovery
        self._on_tunnels_wanted = on_tunnels_wanted
        self._on_route_changed = on_route_changed
        self._is_recovery_expected = True
        self._recovery_timer = self._start_recovery_timer()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the search."""
        self._task = self._tasks.spawn(self._run(), f"route_monitor.{self._node_name}")

    def stop(self) -> None:
        """Stop the search and drop the route; its probe runs on while requests wait."""
        if self._task is not None:
            self._task.cancel()
        self._drop_route()
        self._recovery_timer.cancel()

    @property
    def may_recover(self) -> bool:
        """Whether the node has a route, or is expected to have one soon."""
        return self.route is not None or self._is_recovery_expected

    def mark_failed(self, route: NodeRoute, reason: str) -> None:
        """Drop `route`, if it is still in use."""
        if self.route is route:
            log.warning("lost the route to node %s: %s", self._node_name, reason)
            self._drop_route()

    async def _run(self) -> None:
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        is_failure_logged = False
        while True:
            route = await self._find_route()
            if route is not None:
                is_failure_logged = False
                started_at = time.monotonic()
                self._use_route(route)
                await self._watch_route()
                if time.monotonic() - started_at > STABLE_AFTER_S:
                    backoff.reset()
            elif not is_failure_logged:
                is_failure_logged = True
                log.warning(
                    "node %s cannot be reached at %s",
                    self._node_name,
                    ", ".join(self.urls) or "any of its addresses",
                )
            await asyncio.sleep(backoff.next_delay_s())

    def _drop_route(self) -> None:
        route, self.route = self.route, None
        if route is not None:
            route.liveness_probe.retire()
            self._http_client.close_idle(route.target)
            route.lost_event.set()
            self._recovery_timer.cancel()
            self._recovery_timer = self._start_recovery_timer()
            self._on_route_changed()

    def _start_recovery_timer(self) -> asyncio.TimerHandle:
        self._is_recovery_expected = True
        return asyncio.get_running_loop().call_later(RECOVERY_WINDOW_S, self._end_recovery_window)

    def _end_recovery_window(self) -> None:
        self._is_recovery_expected = False
        self._on_route_changed()

    async def _find_route(self) -> NodeRoute | None:
        route = await self._discovery.find_direct(self.urls)
        if route is not None:
            self._on_tunnels_wanted(0)
            return route
        self._on_tunnels_wanted(IDLE_TUNNELS)
        return await self._discovery.find_tunnel()

    def _use_route(self, route: NodeRoute) -> None:
        previous, self.route = self.route, route
        if previous is not None:
            previous.liveness_probe.retire()
            self._http_client.close_idle(previous.target)
        self.targets[route.target.pool_key] = route.target
        self._tasks.spawn(self._run_probe(route), f"liveness_probe.{self._node_name}")
        log.info(
            "node %s is reached %s (latency %.1f ms)",
            self._node_name,
            f"at {route.base_url}" if route.base_url is not None else "over tunnels that it dials",
            route.latency_s * 1000,
        )
        self._on_route_changed()

    async def _run_probe(self, route: NodeRoute) -> None:
        await route.liveness_probe.run()
        self.mark_failed(route, "its liveness probe failed")

    async def _watch_route(self) -> None:
        """Measure the route again from time to time, until it is lost."""
        recheck_intervals = Backoff(MIN_RECHECK_INTERVAL_S, MAX_RECHECK_INTERVAL_S)
        while (route := self.route) is not None:
            is_direct = route.kind is ReachWay.DIRECT
            try:
                async with asyncio.timeout(
                    MAX_RECHECK_INTERVAL_S if is_direct else recheck_intervals.next_delay_s()
                ):
                    await route.lost_event.wait()
            except TimeoutError:
                await self._recheck_route(route)

    async def _recheck_route(self, route: NodeRoute) -> None:
        is_direct = route.kind is ReachWay.DIRECT
        better_route = None if is_direct else await self._discovery.find_direct(self.urls)
        if better_route is not None:
            self._use_route(better_route)
            self._on_tunnels_wanted(0)
        elif (latency_s := await self._discovery.measure_latency(route.target)) is not None:
            route.latency_s = latency_s
