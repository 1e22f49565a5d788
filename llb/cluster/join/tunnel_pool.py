"""Tunnel pool: connections that a node opens for the requests of a balancer that cannot connect to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from llb.base.backoff import Backoff
from llb.base.node_identity import Membership
from llb.cluster.join.dial import connect_socket, root_cause_message
from llb.security import tls_trust

log = logging.getLogger(__name__)

TUNNEL_PROTOCOL = "llb-hop"
SWITCHING_PROTOCOLS_RESPONSE = (
    f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {TUNNEL_PROTOCOL}\r\n\r\n".encode(
        "ascii"
    )
)
HANDSHAKE_TIMEOUT_S = 5.0
# More than a node has slots.
MAX_TUNNELS = 256
MAX_CONCURRENT_DIALS = 8
BACKOFF_INITIAL_S, BACKOFF_MAX_S = 0.1, 5.0


class TunnelConnection(Protocol):
    """The HTTP server's protocol of one tunnel."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def is_closed(self) -> bool: ...

    def connection_made(self, transport: asyncio.Transport, /) -> None: ...

    def data_received(self, data: bytes, /) -> None: ...

    def abort(self) -> None: ...


class TunnelPool:
    """Pool of idle connections to the balancer; each one that the balancer uses is replaced."""

    def __init__(
        self, membership: Membership, make_tunnel_protocol: Callable[[Callable[[], None]], TunnelConnection]
    ) -> None:
        """`make_tunnel_protocol` builds a tunnel's server protocol from a callback for activity."""
        self._membership = membership
        self._make_tunnel_protocol = make_tunnel_protocol
        self._min_idle = 0
        self._connections: set[TunnelConnection] = set()
        self._activity = asyncio.Event()

    def set_min_idle(self, min_idle: int) -> None:
        """Set the number of idle tunnels to keep; 0, also when the link has ended, closes the idle ones.

        After a cable was cut they would look alive on this host for a long time, and would be counted while
        the balancer waits for new ones.
        """
        self._min_idle = min_idle
        if min_idle == 0:
            idle = {connection for connection in self._connections if connection.is_idle}
            self._connections -= idle
            for connection in idle:
                connection.abort()
        self._activity.set()

    async def run(self) -> None:
        """Keep the pool filled until cancelled, then close all tunnels."""
        backoff = Backoff(BACKOFF_INITIAL_S, BACKOFF_MAX_S)
        logged_problem = ""
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
                    backoff.reset()
                    logged_problem = ""
                    continue
                if problems[0] != logged_problem:
                    logged_problem = problems[0]
                    log.warning("no tunnel to the balancer: %s; trying again", logged_problem)
                await asyncio.sleep(backoff.next_delay_s())
        finally:
            for connection in tuple(self._connections):
                connection.abort()

    def _count_missing(self) -> int:
        self._connections = {connection for connection in self._connections if not connection.is_closed}
        idle = sum(connection.is_idle for connection in self._connections)
        return min(self._min_idle - idle, MAX_TUNNELS - len(self._connections))

    async def _add_tunnel(self) -> str | None:
        """Open one more tunnel; returns the reason if that failed."""
        try:
            transport, early_data = await self._dial_and_upgrade()
        except TimeoutError:
            return "it does not answer"
        except OSError as error:
            return root_cause_message(error)
        if self._min_idle == 0:
            # The link ended meanwhile, which has closed the idle ones.
            transport.abort()
            return None
        connection = self._make_tunnel_protocol(self._activity.set)
        transport.set_protocol(cast(asyncio.BaseProtocol, connection))
        connection.connection_made(transport)
        self._connections.add(connection)
        if early_data:
            connection.data_received(early_data)
        transport.resume_reading()
        return None

    async def _dial_and_upgrade(self) -> tuple[asyncio.Transport, bytes]:
        """An upgraded, paused connection and the bytes that have arrived on it. Raises OSError."""
        url = urlsplit(self._membership.balancer_url)
        sock = await connect_socket(self._membership.balancer_url)
        tls_options: dict[str, Any] = (
            {"ssl": tls_trust.get_client_context(self._membership.anchor), "server_hostname": url.hostname}
            if url.scheme == "https"
            else {}
        )
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            transport, handshake = await asyncio.get_running_loop().create_connection(
                _UpgradeHandshake, sock=sock, **tls_options
            )
            try:
                transport.write(
                    f"GET /hop/dial HTTP/1.1\r\nHost: {url.netloc}\r\n"
                    f"Connection: Upgrade\r\nUpgrade: {TUNNEL_PROTOCOL}\r\n"
                    f"Authorization: Bearer {self._membership.credential}\r\n\r\n".encode("ascii")
                )
                head, early_data = await handshake.response
                if not head.startswith(b"HTTP/1.1 101 "):
                    raise OSError("it answered " + head.partition(b"\r\n")[0].decode("latin-1"))
            except BaseException:
                transport.abort()
                raise
            return transport, early_data


class _UpgradeHandshake(asyncio.Protocol):
    """Reader of the head of one HTTP response; pauses the transport after it."""

    def __init__(self) -> None:
        self.response: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, early_data = self._buffer.partition(b"\r\n\r\n")
        if separator and not self.response.done():
            self._transport.pause_reading()
            self.response.set_result((head, early_data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.response.done():
            self.response.set_exception(error or ConnectionError("it closed the connection"))
            # Marks the exception as retrieved, even if the response is no longer awaited.
            self.response.exception()
