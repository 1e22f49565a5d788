"""Route discovery: a node proves itself before it gets a credential, and the quickest address wins."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import ConnectError
from llb.gateway.nodes import route_discovery
from llb.gateway.nodes.route_discovery import RouteDiscovery, candidate_urls, tunnel_target
from llb.security import tokens
from llb.wire import ReachWay
from tests.gateway.gateway_fixture import FakeResponse

CREDENTIAL = "node-credential"


class Network:
    """Hosts that prove to be the node, by the credential that each knows; and the time that each takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **credentials: str) -> None:
        self.credentials = credentials
        self.latencies_s: dict[str, float] = {}
        self.now_s = 0.0
        self.asked: list[UpstreamTarget] = []
        self.without_probe: set[str] = set()
        monkeypatch.setattr(route_discovery, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(route_discovery, "LivenessProbe", SimpleNamespace(open=self._open_probe))

    async def request(
        self, target: UpstreamTarget, _method: bytes, path: bytes, **_options: Any
    ) -> FakeResponse:
        self.asked.append(target)
        host = target.tunnel_id or target.host
        if host not in self.credentials:
            raise ConnectError("refused")
        self.now_s += self.latencies_s.get(host, 0.0)
        nonce = path.decode().partition("nonce=")[2]
        proof = tokens.challenge_response(self.credentials[host], "node", nonce)
        return FakeResponse([json.dumps({"proof": proof}).encode()])

    async def _open_probe(self, _client: Any, target: UpstreamTarget, **_options: Any) -> str:
        if target.host in self.without_probe:
            raise ConnectError("refused")
        return "probe"

    def discovery(self, **options: Any) -> RouteDiscovery:
        return RouteDiscovery(cast(HttpClient, self), "node", "cellar", CREDENTIAL, **options)


async def test_the_quickest_address_is_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, slow=CREDENTIAL, quick=CREDENTIAL, other="another credential")
    network.latencies_s = {"slow": 0.5, "quick": 0.1}
    urls = ("http://slow:1", "http://quick:2", "http://other:3", "http://gone:4", "nonsense")
    route = await network.discovery().find_direct(urls)
    assert route is not None
    assert (route.kind, route.base_url) == (ReachWay.DIRECT, "http://quick:2")
    assert route.latency_s == pytest.approx(0.1)
    assert route.target.api_key == CREDENTIAL


async def test_no_credential_is_sent_before_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, other="another credential")
    assert await network.discovery().find_direct(("http://other:1",)) is None
    assert [target.api_key for target in network.asked] == [None]


async def test_an_address_without_a_probe_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, quick=CREDENTIAL, slow=CREDENTIAL)
    network.latencies_s, network.without_probe = {"slow": 0.5}, {"quick"}
    route = await network.discovery().find_direct(("http://quick:1", "http://slow:2"))
    assert route is not None
    assert route.base_url == "http://slow:2"


@pytest.mark.parametrize(("tls_only", "found"), [(True, "https://b:2"), (False, "http://a:1")])
async def test_with_tls_only_other_addresses_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, tls_only: bool, found: str
) -> None:
    network = Network(monkeypatch, a=CREDENTIAL, b=CREDENTIAL)
    network.latencies_s = {"b": 0.5}
    discovery = network.discovery(tls_only=tls_only, trust_anchor="the balancer's own")
    route = await discovery.find_direct(("http://a:1", "https://b:2"))
    assert route is not None
    assert route.base_url == found
    assert route.target.trust_anchor == ("the balancer's own" if tls_only else None)


async def test_a_stranger_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(monkeypatch, other="another credential")
    discovery = network.discovery()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await discovery.find_direct(("http://other:1",)) is None
    assert [message for message in caplog.messages if "is not the node cellar" in message] == caplog.messages[
        :1
    ]


async def test_a_tunnel_is_found_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, node=CREDENTIAL)
    route = await network.discovery().find_tunnel()
    assert route is not None
    assert (route.kind, route.base_url, route.target.tunnel_id) == (ReachWay.REVERSE, None, "node")
    # Its source address is this host's, so that the node is told whose the request is.
    assert (b"x-llb-hop", b"1") in route.target.headers
    del network.credentials["node"]
    assert await network.discovery().find_tunnel() is None
    assert tunnel_target("node").api_key is None


async def test_an_answer_that_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, a=CREDENTIAL)

    async def answer(*_arguments: Any, **_options: Any) -> FakeResponse:
        return FakeResponse([b"<html>"])

    monkeypatch.setattr(network, "request", answer)
    assert await network.discovery().find_direct(("http://a:1",)) is None


def test_the_address_that_was_seen_is_tried_with_the_ports_of_the_node() -> None:
    own = ("http://10.0.0.5:5000", "https://cellar:5443")
    assert candidate_urls(own, None) == own
    assert candidate_urls(own, "192.0.2.7") == (*own, "http://192.0.2.7:5000", "https://192.0.2.7:5443")
    assert candidate_urls(own, "10.0.0.5")[:2] == own
    assert len(candidate_urls(own, "10.0.0.5")) == 3
    assert candidate_urls((), "192.0.2.7") == ()
