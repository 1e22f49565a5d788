"""The upstream client: one keep-alive pool for every target that a request can be sent to."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from llb import trust
from llb.gateway.connection import HOP_BY_HOP, Connection, Origin, Response
from llb.gateway.faults import ConnectFailed, UpstreamClosed

# Idle connections kept per origin; admission bounds how many can be in use.
MAX_IDLE = 128
# Those that a node has dialled are spares: less than its own patience, so that we leave first.
SPARE_KEEP_S = 60.0
NOT_DIALLED = 0  # in place of the port, in an origin whose connections the other end dials
# Framing and routing are this client's own business, and a caller's credentials never travel to an engine.
NOT_FORWARDED = HOP_BY_HOP | {
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"x-api-key",
}


@dataclass(frozen=True)
class Target:
    """Where a request can be sent. `headers` go with every request; `api_key` becomes a Bearer credential.

    With `via` nobody is dialled: the connections are those that the other end has dialled under that name.
    """

    host: str
    port: int
    api_key: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    via: str | None = None
    trust: str | None = None  # over TLS: whom to believe, as `llb.trust` has it; None: no TLS

    @cached_property
    def origin(self) -> Origin:
        return Origin(self.host, self.port, self.trust) if self.via is None else Origin(self.via, NOT_DIALLED)

    @cached_property
    def header_lines(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [b"Host: %b:%d\r\n" % (host.encode("ascii"), self.port)]
        if self.api_key is not None:
            lines.append(b"Authorization: Bearer %b\r\n" % self.api_key.encode("ascii"))
        lines.extend(b"%b: %b\r\n" % header for header in self.headers)
        return b"".join(lines)


class Upstream:
    """Sends requests to targets over pooled connections. One for the whole process.

    `impatient`: a host that has vanished fails what waits for it within two seconds, with the kernel's help.
    """

    def __init__(self, *, impatient: bool = False) -> None:
        self._impatient = impatient
        self._idle: dict[Origin, list[Connection]] = {}
        self._awaited: dict[Origin, deque[asyncio.Future[Connection]]] = {}
        self._open: set[Connection] = set()
        self._closed = False

    async def request(
        self,
        target: Target,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        connect_timeout_s: float,
        header_timeout_s: float,
    ) -> Response:
        """The answer, once its head has come (any method but HEAD); the caller closes it. Raises `UpstreamFault`."""
        head = request_head(target, method, path, headers, len(body))
        kept = self._take(target.origin)
        if kept is not None:
            try:
                return await kept.exchange(head, body, header_timeout_s)
            except UpstreamClosed as fault:
                if not fault.stale:
                    raise
        connection = await self._connect(target.origin, connect_timeout_s)
        return await connection.exchange(head, body, header_timeout_s)

    async def open(self, target: Target, *, connect_timeout_s: float) -> Connection:
        """A connection of its own, for whoever keeps an exchange going by hand. Raises `UpstreamFault`."""
        return self._take(target.origin) or await self._connect(target.origin, connect_timeout_s)

    def adopt(self, target: Target, transport: asyncio.Transport) -> None:
        """Take over a connection that the other end has dialled: from now on requests to `target` can use it."""
        connection = Connection(target.origin, self._free, self._lost, keep_s=SPARE_KEEP_S)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._open.add(connection)
        connection.rest()

    def drop(self, target: Target) -> None:
        """Forget the idle connections of a target that is gone."""
        for connection in self._idle.pop(target.origin, ()):
            connection.fail(UpstreamClosed(before_first_byte=True))

    def abandon(self, target: Target, *, begun: bool = False) -> None:
        """A target is not there any more: fail the requests that wait for it, with `begun` also answers under way."""
        self.drop(target)
        for connection in tuple(self._open):
            if connection.origin == target.origin and (begun or connection.asking):
                connection.fail(UpstreamClosed(before_first_byte=connection.asking))

    async def close(self) -> None:
        """Abort every connection, also those in use; no request can be made afterwards."""
        self._closed = True
        for connection in tuple(self._open):
            connection.fail(UpstreamClosed(before_first_byte=False))
        self._idle.clear()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return sum(len(idle) for idle in self._idle.values())

    def _take(self, origin: Origin) -> Connection | None:
        """The most recently used idle connection that the peer has not given up."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        now = time.monotonic()
        while idle:
            connection = idle.pop()
            if now < connection.idle_until and not connection.closed:
                return connection
            connection.fail(UpstreamClosed(before_first_byte=True))
        return None

    async def _connect(self, origin: Origin, timeout_s: float) -> Connection:
        self._refuse_if_closed()
        if origin.port == NOT_DIALLED:
            return await self._dialled(origin, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(origin, self._free, self._lost, impatient=self._impatient),
                    origin.host,
                    origin.port,
                    ssl=None if origin.trust is None else trust.context(origin.trust),
                )
        except TimeoutError:
            raise ConnectFailed("connect deadline passed", timed_out=True) from None
        except ssl.SSLError as error:
            raise ConnectFailed(f"no TLS with it ({error.reason or 'the connection ended'})") from None
        except OSError as error:
            # Not its own text: that names the address.
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            raise ConnectFailed(reason) from None
        if connection.closed:  # accepted and closed at once; `_lost` knows nothing of it
            raise ConnectFailed("closed as soon as it was open")
        self._open.add(connection)
        if self._closed:
            connection.fail(UpstreamClosed(before_first_byte=True))
            self._refuse_if_closed()
        return connection

    async def _dialled(self, origin: Origin, timeout_s: float) -> Connection:
        """The next connection that the other end dials, or that becomes free."""
        try:
            async with asyncio.timeout(timeout_s):
                while (connection := await self._next(origin)).closed:
                    pass
                return connection
        except TimeoutError:
            raise ConnectFailed("the node did not dial in time", timed_out=True) from None

    async def _next(self, origin: Origin) -> Connection:
        line = self._awaited.setdefault(origin, deque())
        awaited: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        line.append(awaited)
        try:
            return await awaited
        except asyncio.CancelledError:
            if not awaited.cancelled():  # it came in the same turn of the loop: to whoever is next
                self._free(awaited.result())
            raise
        finally:
            if awaited in line:
                line.remove(awaited)
            if not line and self._awaited.get(origin) is line:
                del self._awaited[origin]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ConnectFailed("the client is closed")

    def _free(self, connection: Connection) -> None:
        for awaited in self._awaited.get(connection.origin, ()):
            if not awaited.done():
                awaited.set_result(connection)
                return
        idle = self._idle.setdefault(connection.origin, [])
        if self._closed or len(idle) >= MAX_IDLE:
            connection.fail(UpstreamClosed(before_first_byte=True))
        else:
            idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is None:
            return
        if connection in idle:
            idle.remove(connection)
        if not idle:
            # Ports of engines are chosen anew at every load: an empty list must not stay for ever.
            del self._idle[connection.origin]


def request_head(
    target: Target, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]], body_bytes: int
) -> bytes:
    """The bytes before the body; raises ValueError where a name or value would break out of its line."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method, path), target.header_lines]
    for name, value in headers:
        if name.lower() not in NOT_FORWARDED:
            lines.append(b"%b: %b\r\n" % (name, value))
    if body_bytes or method not in (b"GET", b"DELETE"):
        lines.append(b"Content-Length: %d\r\n" % body_bytes)
    lines.append(b"\r\n")
    head = b"".join(lines)
    expected = len(lines) + len(target.headers) + (target.api_key is not None)  # with its Host line
    if head.count(b"\r") != expected or head.count(b"\n") != expected or path.count(b" "):
        raise ValueError("a line break or space where none may be in the head of a request")
    return head
