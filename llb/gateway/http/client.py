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

from llb.gateway.http.connection import HOP_BY_HOP_HEADERS, Connection, PoolKey, UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed
from llb.security import tls_trust

# Idle connections kept per origin; admission bounds how many can be in use.
MAX_IDLE_PER_POOL_KEY = 128
# Those that a node has dialled are spares: less than its own patience, so that we leave first.
TUNNEL_KEEPALIVE_EXPIRY_S = 60.0
TUNNEL_PORT = 0  # in place of the port, in an origin whose connections the other end dials
# Framing and routing are this client's own business, and a caller's credentials never travel to an engine.
NON_FORWARDED_HEADERS = HOP_BY_HOP_HEADERS | {
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"x-api-key",
}


@dataclass(frozen=True)
class UpstreamTarget:
    """Where a request can be sent. `headers` go with every request; `api_key` becomes a Bearer credential.

    With `via` nobody is dialled: the connections are those that the other end has dialled under that name.
    """

    host: str
    port: int
    api_key: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    tunnel_id: str | None = None
    trust_anchor: str | None = (
        None  # over TLS: whom to believe, as `llb.security.tls_trust` has it; None: no TLS
    )

    @cached_property
    def pool_key(self) -> PoolKey:
        return (
            PoolKey(self.host, self.port, self.trust_anchor)
            if self.tunnel_id is None
            else PoolKey(self.tunnel_id, TUNNEL_PORT)
        )

    @cached_property
    def header_lines(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [b"Host: %b:%d\r\n" % (host.encode("ascii"), self.port)]
        if self.api_key is not None:
            lines.append(b"Authorization: Bearer %b\r\n" % self.api_key.encode("ascii"))
        lines.extend(b"%b: %b\r\n" % header for header in self.headers)
        return b"".join(lines)


class HttpClient:
    """Sends requests to targets over pooled connections. One for the whole process.

    `impatient`: a host that has vanished fails what waits for it within two seconds, with the kernel's help.
    """

    def __init__(self, *, fail_fast: bool = False) -> None:
        self._fail_fast = fail_fast
        self._idle_pools: dict[PoolKey, list[Connection]] = {}
        self._tunnel_waiters: dict[PoolKey, deque[asyncio.Future[Connection]]] = {}
        self._connections: set[Connection] = set()
        self._is_closed = False

    async def request(
        self,
        target: UpstreamTarget,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        connect_timeout_s: float,
        header_timeout_s: float,
    ) -> UpstreamResponse:
        """The answer, once its head has come (any method but HEAD); the caller closes it. Raises `UpstreamFault`."""
        head = build_request_head(target, method, path, headers, len(body))
        kept = self._pop_idle(target.pool_key)
        if kept is not None:
            try:
                return await kept.send_request(head, body, header_timeout_s)
            except UpstreamClosed as fault:
                if not fault.is_stale:
                    raise
        connection = await self._connect(target.pool_key, connect_timeout_s)
        return await connection.send_request(head, body, header_timeout_s)

    async def open_connection(self, target: UpstreamTarget, *, connect_timeout_s: float) -> Connection:
        """A connection of its own, for whoever keeps an exchange going by hand. Raises `UpstreamFault`."""
        return self._pop_idle(target.pool_key) or await self._connect(target.pool_key, connect_timeout_s)

    def adopt_connection(self, target: UpstreamTarget, transport: asyncio.Transport) -> None:
        """Take over a connection that the other end has dialled: from now on requests to `target` can use it."""
        connection = Connection(
            target.pool_key,
            self._release_connection,
            self._discard_connection,
            keepalive_expiry_s=TUNNEL_KEEPALIVE_EXPIRY_S,
        )
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._connections.add(connection)
        connection.return_to_pool()

    def close_idle(self, target: UpstreamTarget) -> None:
        """Forget the idle connections of a target that is gone."""
        for connection in self._idle_pools.pop(target.pool_key, ()):
            connection.abort(UpstreamClosed(before_first_byte=True))

    def fail_requests(self, target: UpstreamTarget, *, include_started: bool = False) -> None:
        """A target is not there any more: fail the requests that wait for it, with `begun` also answers under way."""
        self.close_idle(target)
        for connection in tuple(self._connections):
            if connection.pool_key == target.pool_key and (
                include_started or connection.is_awaiting_response
            ):
                connection.abort(UpstreamClosed(before_first_byte=connection.is_awaiting_response))

    async def close(self) -> None:
        """Abort every connection, also those in use; no request can be made afterwards."""
        self._is_closed = True
        for connection in tuple(self._connections):
            connection.abort(UpstreamClosed(before_first_byte=False))
        self._idle_pools.clear()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return sum(len(idle) for idle in self._idle_pools.values())

    def _pop_idle(self, pool_key: PoolKey) -> Connection | None:
        """The most recently used idle connection that the peer has not given up."""
        idle = self._idle_pools.get(pool_key)
        if not idle:
            return None
        now = time.monotonic()
        while idle:
            connection = idle.pop()
            if now < connection.idle_until and not connection.is_closed:
                return connection
            connection.abort(UpstreamClosed(before_first_byte=True))
        return None

    async def _connect(self, pool_key: PoolKey, timeout_s: float) -> Connection:
        self._raise_if_closed()
        if pool_key.port == TUNNEL_PORT:
            return await self._wait_for_tunnel(pool_key, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(
                        pool_key,
                        self._release_connection,
                        self._discard_connection,
                        fail_fast=self._fail_fast,
                    ),
                    pool_key.host,
                    pool_key.port,
                    ssl=None
                    if pool_key.trust_anchor is None
                    else tls_trust.get_client_context(pool_key.trust_anchor),
                )
        except TimeoutError:
            raise ConnectError("connect deadline passed", is_timeout=True) from None
        except ssl.SSLError as error:
            raise ConnectError(f"no TLS with it ({error.reason or 'the connection ended'})") from None
        except OSError as error:
            # Not its own text: that names the address.
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            raise ConnectError(reason) from None
        if connection.is_closed:  # accepted and closed at once; `_lost` knows nothing of it
            raise ConnectError("closed as soon as it was open")
        self._connections.add(connection)
        if self._is_closed:
            connection.abort(UpstreamClosed(before_first_byte=True))
            self._raise_if_closed()
        return connection

    async def _wait_for_tunnel(self, pool_key: PoolKey, timeout_s: float) -> Connection:
        """The next connection that the other end dials, or that becomes free."""
        try:
            async with asyncio.timeout(timeout_s):
                while (connection := await self._next_tunnel(pool_key)).is_closed:
                    pass
                return connection
        except TimeoutError:
            raise ConnectError("the node did not dial in time", is_timeout=True) from None

    async def _next_tunnel(self, pool_key: PoolKey) -> Connection:
        line = self._tunnel_waiters.setdefault(pool_key, deque())
        awaited: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        line.append(awaited)
        try:
            return await awaited
        except asyncio.CancelledError:
            if not awaited.cancelled():  # it came in the same turn of the loop: to whoever is next
                self._release_connection(awaited.result())
            raise
        finally:
            if awaited in line:
                line.remove(awaited)
            if not line and self._tunnel_waiters.get(pool_key) is line:
                del self._tunnel_waiters[pool_key]

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise ConnectError("the client is closed")

    def _release_connection(self, connection: Connection) -> None:
        for awaited in self._tunnel_waiters.get(connection.pool_key, ()):
            if not awaited.done():
                awaited.set_result(connection)
                return
        idle = self._idle_pools.setdefault(connection.pool_key, [])
        if self._is_closed or len(idle) >= MAX_IDLE_PER_POOL_KEY:
            connection.abort(UpstreamClosed(before_first_byte=True))
        else:
            idle.append(connection)

    def _discard_connection(self, connection: Connection) -> None:
        self._connections.discard(connection)
        idle = self._idle_pools.get(connection.pool_key)
        if idle is None:
            return
        if connection in idle:
            idle.remove(connection)
        if not idle:
            # Ports of engines are chosen anew at every load: an empty list must not stay for ever.
            del self._idle_pools[connection.pool_key]


def build_request_head(
    target: UpstreamTarget,
    method: bytes,
    path: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body_bytes: int,
) -> bytes:
    """The bytes before the body; raises ValueError where a name or value would break out of its line."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method, path), target.header_lines]
    for name, value in headers:
        if name.lower() not in NON_FORWARDED_HEADERS:
            lines.append(b"%b: %b\r\n" % (name, value))
    if body_bytes or method not in (b"GET", b"DELETE"):
        lines.append(b"Content-Length: %d\r\n" % body_bytes)
    lines.append(b"\r\n")
    head = b"".join(lines)
    expected = len(lines) + len(target.headers) + (target.api_key is not None)  # with its Host line
    if head.count(b"\r") != expected or head.count(b"\n") != expected or path.count(b" "):
        raise ValueError("a line break or space where none may be in the head of a request")
    return head
