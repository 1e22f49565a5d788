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

from llb import auth, trust
from llb.addresses import base_url
from llb.gateway.faults import UpstreamFault
from llb.gateway.pulse import Pulse
from llb.gateway.upstream import Target, Upstream
from llb.wire import ReachWay
from llb.wire.reading import UNREADABLE

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 0.8  # longer, and a host that is switched off would delay a request by more than a second
DIAL_TIMEOUT_S = 1.0  # a node that is asked to dial; what comes later is found by the next look
PROOF_TIMEOUT_S = 2.0
PROOF_BYTES = 4096
# Requests over a connection that the node has dialled are not from its own host, although they may look so.
NOT_LOCAL = ((b"x-llb-hop", b"1"),)


class _Proof(Struct):
    proof: str


@dataclass(eq=False)
class Way:
    """How a node is reached. `answer_s`: how long it takes to answer a small request there, as last measured."""

    kind: ReachWay
    address: str | None  # its base URL, where it is dialled
    target: Target
    answer_s: float
    pulse: Pulse
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Finder:
    """Finds ways to one node."""

    def __init__(
        self,
        upstream: Upstream,
        node_id: str,
        name: str,
        credential: str,
        *,
        anchor: str = trust.SYSTEM,
        tls_only: bool = False,
    ) -> None:
        """`anchor` is by what the node is believed over TLS; with `tls_only` it is dialled in no other way."""
        self._anchor = anchor
        self._tls_only = tls_only
        self._upstream = upstream
        self._node_id = node_id
        self._name = name
        self._credential = credential
        self._strangers: set[str] = set()

    async def direct(self, urls: tuple[str, ...]) -> Way | None:
        """The quickest of the addresses at which the node is found."""
        found = [answer for answer in await asyncio.gather(*(self._try(url) for url in urls)) if answer]
        for answer_s, url, target in sorted(found, key=lambda answer: answer[0]):
            if (pulse := await self._pulse(target)) is not None:
                return Way(ReachWay.DIRECT, url, target, answer_s, pulse)
        return None

    async def reverse(self) -> Way | None:
        """Over the connections that the node has dialled, or is about to dial."""
        target = dialled_by(self._node_id, self._credential)
        answer_s = await self.measure(target, DIAL_TIMEOUT_S)
        pulse = None if answer_s is None else await self._pulse(target)
        return (
            None
            if answer_s is None or pulse is None
            else Way(ReachWay.REVERSE, None, target, answer_s, pulse)
        )

    async def measure(self, target: Target, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> float | None:
        """How long the node takes to answer at `target`, on a connection that stands; None if it is not the node."""
        shortest_s: float | None = None
        for _ in range(2):  # the first one may have to connect, and wakes whoever sleeps
            began = time.monotonic()
            if not await self._proves(target, connect_timeout_s):
                return None
            answer_s = time.monotonic() - began
            shortest_s = answer_s if shortest_s is None else min(answer_s, shortest_s)
        return shortest_s

    async def _try(self, url: str) -> tuple[float, str, Target] | None:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or (self._tls_only and not tls):
            return None
        target = Target(
            parts.hostname,
            parts.port or (443 if tls else 80),
            api_key=self._credential,
            trust=self._anchor if tls else None,
        )
        answer_s = await self.measure(target)
        return None if answer_s is None else (answer_s, url, target)

    async def _proves(self, target: Target, connect_timeout_s: float) -> bool:
        """Whether the node is at `target`. Nobody is shown a credential before."""
        nonce = secrets.token_hex(16)
        try:
            response = await self._upstream.request(
                replace(target, api_key=None),
                b"GET",
                f"/hop/proof?nonce={nonce}".encode("ascii"),
                connect_timeout_s=connect_timeout_s,
                header_timeout_s=PROOF_TIMEOUT_S,
            )
            shown = msgspec.json.decode(await response.read(PROOF_BYTES, PROOF_TIMEOUT_S), type=_Proof).proof
        except (UpstreamFault, *UNREADABLE, ValueError):
            return False
        if auth.same_token(shown, auth.prove(self._credential, self._node_id, nonce)):
            return True
        where = target.host if target.via is None else "a connection of its own"
        if where not in self._strangers:
            self._strangers.add(where)
            log.warning(
                "what answers at %s is not the node %s, or it has forgotten that it joined", where, self._name
            )
        return False

    async def _pulse(self, target: Target) -> Pulse | None:
        try:
            return await Pulse.open(self._upstream, target, connect_timeout_s=CONNECT_TIMEOUT_S)
        except UpstreamFault:
            return None


def dialled_by(node_id: str, credential: str | None = None) -> Target:
    """The target of requests over the connections that a node has dialled."""
    return Target("localhost", 80, api_key=credential, headers=NOT_LOCAL, via=node_id)


def candidates(addresses: tuple[str, ...], observed: str | None) -> tuple[str, ...]:
    """Where to look for a node: what it says, and where it dialled from with the ports that it says."""
    found = dict.fromkeys(addresses)
    if observed is not None:
        for url in addresses:
            parts = urlsplit(url)
            found[
                base_url(parts.scheme, observed, parts.port or (443 if parts.scheme == "https" else 80))
            ] = None
    return tuple(found)
