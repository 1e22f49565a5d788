"""Route discovery: how a joined node is reached, over an address of its own or over tunnels that it dials."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from llb.base.net_addresses import build_base_url, port_of_url
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.nodes.liveness_probe import LivenessProbe
from llb.security import tls_trust, tokens
from llb.wire import ReachWay
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

# A longer timeout would let a host that is switched off delay a request by more than a second.
NODE_CONNECT_TIMEOUT_S = 0.8
# For the first tunnel of a node; a later one is found by the next search.
TUNNEL_TIMEOUT_S = 1.0
PROOF_TIMEOUT_S = 2.0
MAX_PROOF_BYTES = 4096
# Requests over a tunnel do not come from the node's own host, although their source address says so.
TUNNEL_HEADERS = ((b"x-llb-hop", b"1"),)


class _Proof(Struct):
    proof: str


class NodeRoute(Struct, eq=False):
    """Verified route to a node."""

    kind: ReachWay
    # None for a tunnel
    base_url: str | None
    target: UpstreamTarget
    # of a small request, as last measured
    latency_s: float
    liveness_probe: LivenessProbe
    lost_event: asyncio.Event = field(default_factory=asyncio.Event)


class RouteDiscovery:
    """Search for routes to one node."""

    def __init__(
        self,
        http_client: HttpClient,
        node_id: str,
        node_name: str,
        credential: str,
        *,
        trust_anchor: str = tls_trust.SYSTEM_TRUST,
        tls_only: bool = False,
    ) -> None:
        """With `tls_only` the node is dialled over TLS only, and verified by `trust_anchor`."""
        self._trust_anchor = trust_anchor
        self._tls_only = tls_only
        self._http_client = http_client
        self._node_id = node_id
        self._node_name = node_name
        self._credential = credential
        self._unverified_hosts: set[str] = set()

    async def find_direct(self, urls: tuple[str, ...]) -> NodeRoute | None:
        """Return the route of lowest latency among `urls`, or None."""
        attempts = await asyncio.gather(*(self._try_url(url) for url in urls))
        reachable = [attempt for attempt in attempts if attempt is not None]
        for latency_s, url, target in sorted(reachable, key=lambda attempt: attempt[0]):
            if (probe := await self._open_probe(target)) is not None:
                return NodeRoute(ReachWay.DIRECT, url, target, latency_s, probe)
        return None

    async def find_tunnel(self) -> NodeRoute | None:
        """Return the route over the tunnels that the node has dialled or is about to dial, or None."""
        target = tunnel_target(self._node_id, self._credential)
        latency_s = await self.measure_latency(target, TUNNEL_TIMEOUT_S)
        if latency_s is None or (probe := await self._open_probe(target)) is None:
            return None
        return NodeRoute(ReachWay.REVERSE, None, target, latency_s, probe)

    async def measure_latency(
        self, target: UpstreamTarget, connect_timeout_s: float = NODE_CONNECT_TIMEOUT_S
    ) -> float | None:
        """Return the node's latency at `target` in seconds, without the connect; None if it is not there."""
        latencies_s: list[float] = []
        # The first request may have to connect, and wakes hosts from power saving.
        for _ in range(2):
            started_at = time.monotonic()
            if not await self._verify_identity(target, connect_timeout_s):
                return None
            latencies_s.append(time.monotonic() - started_at)
        return min(latencies_s)

    async def _try_url(self, url: str) -> tuple[float, str, UpstreamTarget] | None:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or (self._tls_only and not tls):
            return None
        target = UpstreamTarget(
            parts.hostname,
            port_of_url(parts),
            api_key=self._credential,
            trust_anchor=self._trust_anchor if tls else None,
        )
        latency_s = await self.measure_latency(target)
        return None if latency_s is None else (latency_s, url, target)

    async def _verify_identity(self, target: UpstreamTarget, connect_timeout_s: float) -> bool:
        """Whether the node is at `target`. The credential is not sent: the node proves that it knows it."""
        nonce = secrets.token_hex(16)
        try:
            response = await self._http_client.request(
                replace(target, api_key=None),
                b"GET",
                f"/hop/proof?nonce={nonce}".encode("ascii"),
                connect_timeout_s=connect_timeout_s,
                header_timeout_s=PROOF_TIMEOUT_S,
            )
            proof = msgspec.json.decode(
                await response.read(MAX_PROOF_BYTES, PROOF_TIMEOUT_S), type=_Proof
            ).proof
        except (TransportError, *DECODE_ERRORS, ValueError):
            return False
        if tokens.tokens_equal(proof, tokens.challenge_response(self._credential, self._node_id, nonce)):
            return True
        host = target.host if target.tunnel_id is None else "the other end of its tunnel"
        if host not in self._unverified_hosts:
            self._unverified_hosts.add(host)
            log.warning("%s is not the node %s, or has lost its membership", host, self._node_name)
        return False

    async def _open_probe(self, target: UpstreamTarget) -> LivenessProbe | None:
        try:
            return await LivenessProbe.open(
                self._http_client, target, connect_timeout_s=NODE_CONNECT_TIMEOUT_S
            )
        except TransportError:
            return None


def tunnel_target(node_id: str, credential: str | None = None) -> UpstreamTarget:
    """Return the target of requests over the tunnels that a node has dialled."""
    return UpstreamTarget("localhost", 80, api_key=credential, headers=TUNNEL_HEADERS, tunnel_id=node_id)


def candidate_urls(addresses: tuple[str, ...], observed_address: str | None) -> tuple[str, ...]:
    """Return the URLs to try: the node's own, then the observed address with the ports of those."""
    urls = dict.fromkeys(addresses)
    if observed_address is not None:
        for url in addresses:
            parts = urlsplit(url)
            urls[build_base_url(parts.scheme, observed_address, port_of_url(parts))] = None
    return tuple(urls)
