"""A way to a joined node: who answers at an address shows that it is the node, and a pulse tells when it has gone."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from llb.base.net_addresses import build_base_url
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.nodes.liveness_probe import LivenessProbe
from llb.security import tls_trust, tokens
from llb.wire import ReachWay
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

NODE_CONNECT_TIMEOUT_S = (
    0.8  # longer, and a host that is switched off would delay a request by more than a second
)
TUNNEL_TIMEOUT_S = 1.0  # a node that is asked to dial; what comes later is found by the next look
PROOF_TIMEOUT_S = 2.0
MAX_PROOF_BYTES = 4096
# Requests over a connection that the node has dialled are not from its own host, although they may look so.
TUNNEL_HEADERS = ((b"x-llb-hop", b"1"),)


class _Proof(Struct):
    proof: str


@dataclass(eq=False)
class NodeRoute:
    """How a node is reached. `answer_s`: how long it takes to answer a small request there, as last measured."""

    kind: ReachWay
    base_url: str | None  # its base URL, where it is dialled
    target: UpstreamTarget
    latency_s: float
    liveness_probe: LivenessProbe
    lost_event: asyncio.Event = field(default_factory=asyncio.Event)


class RouteDiscovery:
    """Finds ways to one node."""

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
        """`anchor` is by what the node is believed over TLS; with `tls_only` it is dialled in no other way."""
        self._trust_anchor = trust_anchor
        self._tls_only = tls_only
        self._http_client = http_client
        self._node_id = node_id
        self._node_name = node_name
        self._credential = credential
        self._unverified_hosts: set[str] = set()

    async def find_direct(self, urls: tuple[str, ...]) -> NodeRoute | None:
        """The quickest of the addresses at which the node is found."""
        found = [answer for answer in await asyncio.gather(*(self._try_url(url) for url in urls)) if answer]
        for answer_s, url, target in sorted(found, key=lambda answer: answer[0]):
            if (pulse := await self._open_probe(target)) is not None:
                return NodeRoute(ReachWay.DIRECT, url, target, answer_s, pulse)
        return None

    async def find_tunnel(self) -> NodeRoute | None:
        """Over the connections that the node has dialled, or is about to dial."""
        target = tunnel_target(self._node_id, self._credential)
        answer_s = await self.measure_latency(target, TUNNEL_TIMEOUT_S)
        pulse = None if answer_s is None else await self._open_probe(target)
        return (
            None
            if answer_s is None or pulse is None
            else NodeRoute(ReachWay.REVERSE, None, target, answer_s, pulse)
        )

    async def measure_latency(
        self, target: UpstreamTarget, connect_timeout_s: float = NODE_CONNECT_TIMEOUT_S
    ) -> float | None:
        """How long the node takes to answer at `target`, on a connection that stands; None if it is not the node."""
        shortest_s: float | None = None
        for _ in range(2):  # the first one may have to connect, and wakes whoever sleeps
            began = time.monotonic()
            if not await self._verify_identity(target, connect_timeout_s):
                return None
            answer_s = time.monotonic() - began
            shortest_s = answer_s if shortest_s is None else min(answer_s, shortest_s)
        return shortest_s

    async def _try_url(self, url: str) -> tuple[float, str, UpstreamTarget] | None:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or (self._tls_only and not tls):
            return None
        target = UpstreamTarget(
            parts.hostname,
            parts.port or (443 if tls else 80),
            api_key=self._credential,
            trust_anchor=self._trust_anchor if tls else None,
        )
        answer_s = await self.measure_latency(target)
        return None if answer_s is None else (answer_s, url, target)

    async def _verify_identity(self, target: UpstreamTarget, connect_timeout_s: float) -> bool:
        """Whether the node is at `target`. Nobody is shown a credential before."""
        nonce = secrets.token_hex(16)
        try:
            response = await self._http_client.request(
                replace(target, api_key=None),
                b"GET",
                f"/hop/proof?nonce={nonce}".encode("ascii"),
                connect_timeout_s=connect_timeout_s,
                header_timeout_s=PROOF_TIMEOUT_S,
            )
            shown = msgspec.json.decode(
                await response.read(MAX_PROOF_BYTES, PROOF_TIMEOUT_S), type=_Proof
            ).proof
        except (TransportError, *DECODE_ERRORS, ValueError):
            return False
        if tokens.tokens_equal(shown, tokens.challenge_response(self._credential, self._node_id, nonce)):
            return True
        where = target.host if target.tunnel_id is None else "a connection of its own"
        if where not in self._unverified_hosts:
            self._unverified_hosts.add(where)
            log.warning(
                "what answers at %s is not the node %s, or it has forgotten that it joined",
                where,
                self._node_name,
            )
        return False

    async def _open_probe(self, target: UpstreamTarget) -> LivenessProbe | None:
        try:
            return await LivenessProbe.open(
                self._http_client, target, connect_timeout_s=NODE_CONNECT_TIMEOUT_S
            )
        except TransportError:
            return None


def tunnel_target(node_id: str, credential: str | None = None) -> UpstreamTarget:
    """The target of requests over the connections that a node has dialled."""
    return UpstreamTarget("localhost", 80, api_key=credential, headers=TUNNEL_HEADERS, tunnel_id=node_id)


def candidate_urls(addresses: tuple[str, ...], observed_address: str | None) -> tuple[str, ...]:
    """Where to look for a node: what it says, and where it dialled from with the ports that it says."""
    found = dict.fromkeys(addresses)
    if observed_address is not None:
        for url in addresses:
            parts = urlsplit(url)
            found[
                build_base_url(
                    parts.scheme, observed_address, parts.port or (443 if parts.scheme == "https" else 80)
                )
            ] = None
    return tuple(found)
