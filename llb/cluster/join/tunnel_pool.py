"""The connections that a node dials for its balancer, which cannot dial it: a few are always ready for a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from llb.base.node_identity import Membership
from llb.cluster.join.dial import connect_socket
from llb.security import tls_trust

log = logging.getLogger(__name__)

TUNNEL_PROTOCOL = "llb-hop"
SWITCHING_PROTOCOLS_RESPONSE = (
    f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {TUNNEL_PROTOCOL}\r\n\r\n".encode(
        "ascii"
    )
)
HANDSHAKE_TIMEOUT_S = 5.0
MAX_TUNNELS = 256  # connections: more than a node has slots
MAX_CONCURRENT_DIALS = 8  # dialled side by side
BACKOFF_INITIAL_S, BACKOFF_MAX_S = 0.1, 5.0


class TunnelConnection(Protocol):
    """A server's end of one connection."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    def connection_made(self, transport: asyncio.Transport, /) -> None: ...

    def data_received(self, data: bytes, /) -> None: ...

    def abort(self) -> None: ...


class TunnelPool:
    """Keeps as many idle connections to the balancer as it has asked for; each that it uses is replaced."""

    def __init__(
        self, membership: Membership, make_tunnel_protocol: Callable[[Callable[[], None]], TunnelConnection]
    ) -> None:
        """`serve` makes a server's end; it is given what to call when something has changed."""
        self._membership = membership
        self._make_tunnel_protocol = make_tunnel_protocol
        self._min_idle = 0
        self._connections: set[TunnelConnection] = set()
        self._activity = asyncio.Event()

    def set_min_idle(self, min_idle: int) -> None:
        """Keep this many. With 0, which also says that the link has ended, the idle ones are closed: after a cut cable
        they look alive on this host for a long time, and would be counted while the balancer waits for new ones."""
        self._min_idle = min_idle
        if min_idle == 0:
            idle = {connection for connection in self._connections if connection.is_idle}
            self._connections -= idle
            for connection in idle:
                connection.abort()
        self._activity.set()

    async def run(self) -> None:
        """Until cancelled; the connections are cut then."""
        pause_s = BACKOFF_INITIAL_S
        try:
            while True:
                self._activity.clear()
                missing = min(MAX_CONCURRENT_DIALS, self._count_missing())
                if missing <= 0:
                    await self._activity.wait()
                    continue
                problems = [
                    problem
                    for problem in await asyncio.gather(*(self._add_tunnel() for _ in range(missing)))
                    if problem
                ]
                if not problems:
                    pause_s = BACKOFF_INITIAL_S
                    continue
                log.warning("the balancer cannot be dialled for requests: %s; it is tried again", problems[0])
                await asyncio.sleep(pause_s)
                pause_s = min(BACKOFF_MAX_S, pause_s * 2)
        finally:
            for connection in tuple(self._connections):
                connection.abort()

    def _count_missing(self) -> int:
        self._connections = {connection for connection in self._connections if not connection.is_closed}
        idle = sum(connection.is_idle for connection in self._connections)
        return min(self._min_idle - idle, MAX_TUNNELS - len(self._connections))

    async def _add_tunnel(self) -> str | None:
        """One more connection; why not, if it fails."""
        try:
            transport, early = await self._dial_and_upgrade()
        except (OSError, TimeoutError) as error:
            return getattr(error, "strerror", None) or str(error) or "no answer in time"
        connection = self._make_tunnel_protocol(self._activity.set)
        transport.set_protocol(cast(asyncio.BaseProtocol, connection))
        connection.connection_made(transport)
        self._connections.add(connection)
        if early:
            connection.data_received(early)
        transport.resume_reading()
        return None

    async def _dial_and_upgrade(self) -> tuple[asyncio.Transport, bytes]:
        """A connection on which the balancer now asks, paused, and what it has asked already. Raises OSError."""
        url = urlsplit(self._membership.balancer_url)
        sock = await connect_socket(self._membership.balancer_url)
        secure: dict[str, Any] = (
            {"ssl": tls_trust.get_client_context(self._membership.anchor), "server_hostname": url.hostname}
            if url.scheme == "https"
            else {}
        )
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            transport, handshake = await asyncio.get_running_loop().create_connection(
                _UpgradeHandshake, sock=sock, **secure
            )
            try:
                transport.write(
                    f"GET /hop/dial HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: {TUNNEL_PROTOCOL}\r\n"
                    f"Authorization: Bearer {self._membership.credential}\r\n\r\n".encode("ascii")
                )
                head, early = await handshake.response
                if not head.startswith(b"HTTP/1.1 101 "):
                    raise OSError("it answered " + head.partition(b"\r\n")[0].decode("latin-1"))
            except BaseException:
                transport.abort()
                raise
            return transport, early


class _UpgradeHandshake(asyncio.Protocol):
    """Reads the head of one answer; the transport is paused behind it."""

    def __init__(self) -> None:
        self.response: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end and not self.response.done():
            self._transport.pause_reading()
            self.response.set_result((head, rest))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.response.done():
            self.response.set_exception(error or ConnectionError("it hung up"))
            self.response.exception()  # seen, also where nobody waits any more
