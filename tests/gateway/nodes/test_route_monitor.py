"""Route monitor: a route is used until it is lost, a better one replaces it, and the wait for one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.base.backoff import Backoff
from llb.base.tasks import TaskSupervisor
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.nodes import route_monitor
from llb.gateway.nodes.route_discovery import NodeRoute, RouteDiscovery
from llb.gateway.nodes.route_monitor import IDLE_TUNNELS, RouteMonitor
from llb.wire import Hello, ReachWay


class Probe:
    """A probe that runs until `fail`."""

    def __init__(self) -> None:
        self.is_retired = False
        self._failed = asyncio.Event()

    async def run(self) -> None:
        await self._failed.wait()

    def fail(self) -> None:
        self._failed.set()

    def retire(self) -> None:
        self.is_retired = True


def make_route(kind: ReachWay = ReachWay.DIRECT, port: int = 1) -> NodeRoute:
    target = UpstreamTarget("cellar", port)
    return NodeRoute(kind, None, target, 0.1, cast(Any, Probe()))


class Discovery:
    """Returns the routes that the test sets; each search is told."""

    def __init__(self) -> None:
        self.direct: NodeRoute | None = None
        self.tunnel: NodeRoute | None = None
        self.latency_s: float | None = 0.05
        self.searches = 0
        self.searched = asyncio.Condition()

    async def find_direct(self, _urls: tuple[str, ...]) -> NodeRoute | None:
        async with self.searched:
            self.searches += 1
            self.searched.notify_all()
        return self.direct

    async def find_tunnel(self) -> NodeRoute | None:
        return self.tunnel

    async def measure_latency(self, _target: UpstreamTarget) -> float | None:
        return self.latency_s


class Monitored:
    """A monitor with its fakes; `changes` counts what it announced."""

    def __init__(self) -> None:
        self.discovery = Discovery()
        self.closed: list[UpstreamTarget] = []
        self.wanted_tunnels: list[int] = []
        self.changes = 0
        self.changed = asyncio.Event()
        self.tasks = TaskSupervisor("test")
        self.monitor = RouteMonitor(
            cast(HttpClient, SimpleNamespace(close_idle=self.closed.append)),
            cast(RouteDiscovery, self.discovery),
            cast(Hello, SimpleNamespace(instance="first", name="cellar")),
            ("http://cellar:1",),
            self.tasks,
            on_tunnels_wanted=self.wanted_tunnels.append,
            on_route_changed=self._on_changed,
        )

    def _on_changed(self) -> None:
        self.changes += 1
        self.changed.set()

    async def next_change(self) -> None:
        await self.changed.wait()
        self.changed.clear()


@pytest.fixture
async def monitored(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Monitored]:
    # Another search follows at once.
    monkeypatch.setattr(Backoff, "next_delay_s", lambda _self: 0.0)
    made = Monitored()
    yield made
    made.monitor.stop()
    await made.tasks.close()


async def test_a_direct_route_needs_no_tunnels(monitored: Monitored) -> None:
    route = monitored.discovery.direct = make_route()
    monitored.monitor.start()
    await monitored.next_change()
    assert monitored.monitor.route is route
    assert monitored.monitor.targets == {route.target.pool_key: route.target}
    assert monitored.wanted_tunnels == [0]


async def test_a_node_that_cannot_be_dialled_is_asked_for_tunnels(monitored: Monitored) -> None:
    route = monitored.discovery.tunnel = make_route(ReachWay.REVERSE)
    monitored.monitor.start()
    await monitored.next_change()
    assert monitored.monitor.route is route
    assert monitored.wanted_tunnels[0] == IDLE_TUNNELS


async def test_a_route_whose_probe_fails_is_replaced(monitored: Monitored) -> None:
    lost = monitored.discovery.direct = make_route()
    monitored.monitor.start()
    await monitored.next_change()
    found = monitored.discovery.direct = make_route(port=2)
    cast(Any, lost.liveness_probe).fail()
    while monitored.monitor.route is not found:
        await monitored.next_change()
    assert lost.lost_event.is_set()
    assert lost.target in monitored.closed
    assert cast(Any, lost.liveness_probe).is_retired
    # Requests to the old one may still run.
    assert {*monitored.monitor.targets} == {lost.target.pool_key, found.target.pool_key}


async def test_a_failure_on_a_route_that_was_replaced_is_ignored(monitored: Monitored) -> None:
    route = monitored.discovery.direct = make_route()
    monitored.monitor.start()
    await monitored.next_change()
    monitored.monitor.mark_failed(make_route(port=2), "late")
    assert monitored.monitor.route is route
    monitored.discovery.direct = None
    monitored.monitor.mark_failed(route, "refused")
    route_after_failure: NodeRoute | None = monitored.monitor.route
    assert route_after_failure is None
    # A request may wait for the next one.
    assert monitored.monitor.may_recover


async def test_a_node_behind_tunnels_is_dialled_again(monitored: Monitored) -> None:
    tunnel = monitored.discovery.tunnel = make_route(ReachWay.REVERSE)
    monitored.monitor.start()
    await monitored.next_change()
    direct = monitored.discovery.direct = make_route()
    while monitored.monitor.route is not direct:
        await monitored.next_change()
    assert cast(Any, tunnel.liveness_probe).is_retired
    assert monitored.wanted_tunnels[-1] == 0


async def test_the_wait_for_a_route_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_monitor, "RECOVERY_WINDOW_S", 0.0)
    monitored = Monitored()
    was_expected = monitored.monitor.may_recover
    await monitored.next_change()
    assert (was_expected, monitored.monitor.may_recover) == (True, False)
    monitored.monitor.stop()


async def test_the_search_goes_on_while_no_route_is_found(monitored: Monitored) -> None:
    monitored.monitor.start()
    async with monitored.discovery.searched:
        await monitored.discovery.searched.wait_for(lambda: monitored.discovery.searches >= 3)
    assert monitored.monitor.route is None
    monitored.monitor.stop()
    await asyncio.sleep(0)
    searches = monitored.discovery.searches
    await asyncio.sleep(0)
    assert monitored.discovery.searches == searches
