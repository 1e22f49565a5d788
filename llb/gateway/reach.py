"""Where joined nodes are reached: every address that a node gives is asked to prove that it is the node."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from llb import auth
from llb.addresses import base_url
from llb.gateway.faults import UpstreamFault
from llb.gateway.upstream import Target, Upstream
from llb.tasks import TaskGroup
from llb.wire import Hello

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 0.8  # longer, and a host that is switched off would delay a request by more than a second
PROOF_TIMEOUT_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
PROOF_BYTES = 4096


class _Proof(Struct):
    proof: str


class Way(Struct, frozen=True):
    """How a node is reached: its base URL, and how long it took to answer there, in seconds."""

    address: str
    target: Target
    answer_s: float


class Reach:
    """The way to each node whose link stands. It is looked for at every hello, and anew when it fails."""

    def __init__(self, upstream: Upstream, credential_of: Callable[[str], str | None]) -> None:
        self._upstream = upstream
        self._credential_of = credential_of
        self._ways: dict[str, Way] = {}
        self._searches: dict[str, asyncio.Task[None]] = {}
        self._tasks = TaskGroup("reach")
        self.on_changed: Callable[[str], None] = lambda _node_id: None

    def way(self, node_id: str) -> Way | None:
        return self._ways.get(node_id)

    def hello(self, hello: Hello, observed: str | None) -> None:
        """A node is there: find the best of its addresses, and of the one from which it dialled."""
        self._search(hello.node_id, _candidates(hello.addresses, observed))

    def lost(self, node_id: str) -> None:
        """The node's link has ended, or the node was removed."""
        search = self._searches.pop(node_id, None)
        if search is not None:
            search.cancel()
        self._ways.pop(node_id, None)

    async def close(self) -> None:
        await self._tasks.close()

    def _search(self, node_id: str, candidates: tuple[str, ...]) -> None:
        self.lost(node_id)
        self._searches[node_id] = self._tasks.supervise(self._find(node_id, candidates), f"find.{node_id}")

    async def _find(self, node_id: str, candidates: tuple[str, ...]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            ways = [
                way for way in await asyncio.gather(*(self._try(node_id, url) for url in candidates)) if way
            ]
            if ways:
                best = min(ways, key=lambda way: way.answer_s)
                self._ways[node_id] = best
                log.info("node %s is reached at %s", node_id, best.address)
                self.on_changed(node_id)
                return
            log.warning("node %s is reached at none of %s", node_id, ", ".join(candidates) or "its addresses")
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _try(self, node_id: str, url: str) -> Way | None:
        """The way over `url`, if whoever answers there is the node."""
        credential = self._credential_of(node_id)
        parts = urlsplit(url)
        if credential is None or parts.scheme != "http" or not parts.hostname:
            return None
        nonce = secrets.token_hex(16)
        began = time.monotonic()
        try:
            response = await self._upstream.request(
                Target(parts.hostname, parts.port or 80),
                b"GET",
                f"/hop/proof?nonce={nonce}".encode("ascii"),
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=PROOF_TIMEOUT_S,
            )
            answer_s = time.monotonic() - began
            shown = msgspec.json.decode(await response.read(PROOF_BYTES, PROOF_TIMEOUT_S), type=_Proof).proof
        except (UpstreamFault, msgspec.DecodeError, UnicodeError, ValueError):
            return None
        if not auth.same_token(shown, auth.prove(credential, node_id, nonce)):
            log.warning("what answers at %s is not the node %s", url, node_id)
            return None
        return Way(url, Target(parts.hostname, parts.port or 80, api_key=credential), answer_s)


def _candidates(addresses: tuple[str, ...], observed: str | None) -> tuple[str, ...]:
    """Where to look for a node: what it says, and where it dialled from with the ports that it says."""
    found = dict.fromkeys(addresses)
    if observed is not None:
        for url in addresses:
            parts = urlsplit(url)
            found[base_url(parts.scheme, observed, parts.port or 80)] = None
    return tuple(found)
