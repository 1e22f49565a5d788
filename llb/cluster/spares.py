"""The connections that a node dials for its balancer, which cannot dial it: a few are always ready for a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from llb import trust
from llb.cluster.dialling import open_socket
from llb.membership import Membership

log = logging.getLogger(__name__)

UPGRADE = "llb-hop"
SWITCHED = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode(
    "ascii"
)
ANSWER_TIMEOUT_S = 5.0
MOST = 256  # connections: more than a node has slots
AT_ONCE = 8  # dialled side by side
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class Served(Protocol):
    """A server's end of one connection."""

    @property
    def idle(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    def connection_made(self, transport: asyncio.Transport, /) -> None: ...

    def data_received(self, data: bytes, /) -> None: ...

    def abort(self) -> None: ...


class Spares:
    """Keeps as many idle connections to the balancer as it has asked for; each that it uses is replaced."""

    def __init__(self, membership: Membership, serve: Callable[[Callable[[], None]], Served]) -> None:
        """`serve` makes a server's end; it is given what to call when something has changed."""
        self._membership = membership
        self._serve = serve
        self._wanted = 0
        self._connections: set[Served] = set()
        self._stirred = asyncio.Event()

    def ask(self, spares: int) -> None:
        """Keep this many. With 0, which also says that the link has ended, the idle ones are closed: after a cut cable
        they look alive on this host for a long time, and would be counted while the balancer waits for new ones."""
        self._wanted = spares
        if spares == 0:
            idle = {connection for connection in self._connections if connection.idle}
            self._connections -= idle
            for connection in idle:
                connection.abort()
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled; the connections are cut then."""
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                self._stirred.clear()
                missing = min(AT_ONCE, self._missing())
                if missing <= 0:
                    await self._stirred.wait()
                    continue
                problems = [
                    problem
                    for problem in await asyncio.gather(*(self._dial() for _ in range(missing)))
                    if problem
                ]
                if not problems:
                    pause_s = FIRST_PAUSE_S
                    continue
                log.warning("the balancer cannot be dialled for requests: %s; it is tried again", problems[0])
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        finally:
            for connection in tuple(self._connections):
                connection.abort()

    def _missing(self) -> int:
        self._connections = {connection for connection in self._connections if not connection.ended}
        idle = sum(connection.idle for connection in self._connections)
        return min(self._wanted - idle, MOST - len(self._connections))

    async def _dial(self) -> str | None:
        """One more connection; why not, if it fails."""
        try:
            transport, early = await self._open()
        except (OSError, TimeoutError) as error:
            return getattr(error, "strerror", None) or str(error) or "no answer in time"
        connection = self._serve(self._stirred.set)
        transport.set_protocol(cast(asyncio.BaseProtocol, connection))
        connection.connection_made(transport)
        self._connections.add(connection)
        if early:
            connection.data_received(early)
        transport.resume_reading()
        return None

    async def _open(self) -> tuple[asyncio.Transport, bytes]:
        """A connection on which the balancer now asks, paused, and what it has asked already. Raises OSError."""
        url = urlsplit(self._membership.balancer_url)
        sock = await open_socket(self._membership.balancer_url)
        secure: dict[str, Any] = (
            {"ssl": trust.context(self._membership.anchor), "server_hostname": url.hostname}
            if url.scheme == "https"
            else {}
        )
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            transport, handshake = await asyncio.get_running_loop().create_connection(
                _Handshake, sock=sock, **secure
            )
            try:
                transport.write(
                    f"GET /hop/dial HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
                    f"Authorization: Bearer {self._membership.credential}\r\n\r\n".encode("ascii")
                )
                head, early = await handshake.answer
                if not head.startswith(b"HTTP/1.1 101 "):
                    raise OSError("it answered " + head.partition(b"\r\n")[0].decode("latin-1"))
            except BaseException:
                transport.abort()
                raise
            return transport, early


class _Handshake(asyncio.Protocol):
    """Reads the head of one answer; the transport is paused behind it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, rest = self._read.partition(b"\r\n\r\n")
        if end and not self.answer.done():
            self._transport.pause_reading()
            self.answer.set_result((head, rest))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(error or ConnectionError("it hung up"))
            self.answer.exception()  # seen, also where nobody waits any more
