"""HTTP client for engines and nodes, with a keep-alive connection pool per origin."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from contextvars import Context
from functools import cached_property

from msgspec import Struct

from llb.gateway.http.connection import HOP_BY_HOP_HEADERS, Connection, ConnectionOwner, PoolKey
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import AddressRefused, ConnectError, UpstreamClosed
from llb.policy.endpoints.addresses import is_forbidden_address
from llb.security import tls_trust

# Idle connections kept per origin; admission bounds the number in use.
MAX_IDLE_PER_POOL_KEY = 128
# Lifetime of an idle tunnel (dialled by the node): shorter than the node's own, so that this side closes
# first.
TUNNEL_KEEPALIVE_EXPIRY_S = 60.0
# Maximum number of addresses that are tried for a host name.
MAX_ADDRESSES = 4
# Maximum number of request head prefixes in the cache of a target; those of a hop change with the
# measurements.
MAX_HEAD_STARTS = 64
# Port in the pool key of tunnels
TUNNEL_PORT = 0
JSON_HEADER = (b"content-type", b"application/json")
# Headers that are not forwarded: this client sets framing and routing, and a caller's credentials must never
# reach an engine.
NON_FORWARDED_HEADERS = HOP_BY_HOP_HEADERS | {
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"x-api-key",
}


class UpstreamTarget(Struct, frozen=True, dict=True):
    """Server that requests are sent to, with the headers and the Bearer credential of every request.

    With `tunnel_id` nothing is dialled: requests use the connections that the other end has dialled
    under that name.
    """

    host: str
    port: int
    api_key: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    tunnel_id: str | None = None
    # for TLS, see `llb.security.tls_trust`; None without TLS
    trust_anchor: str | None = None
    # Before every path.
    base_path: bytes = b""
    # Whether this is an endpoint, whose address must not be a metadata service or link-local.
    is_external: bool = False

    @cached_property
    def pool_key(self) -> PoolKey:
        if self.tunnel_id is not None:
            return PoolKey(self.tunnel_id, TUNNEL_PORT)
        return PoolKey(self.host, self.port, self.trust_anchor, self.is_external)

    @cached_property
    def head_starts(self) -> dict[tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]], bytes]:
        """Beginnings of the heads of earlier requests, by method, path and headers."""
        return {}

    @cached_property
    def header_lines(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [b"Host: %b:%d\r\n" % (host.encode("ascii"), self.port)]
        if self.is_external and self.port == (80 if self.trust_anchor is None else 443):
            lines = [b"Host: %b\r\n" % host.encode("ascii")]
        if self.api_key is not None:
            lines.append(b"Authorization: Bearer %b\r\n" % self.api_key.encode("ascii"))
        lines.extend(b"%b: %b\r\n" % header for header in self.headers)
        return b"".join(lines)


class BegunRequest(Struct, eq=False):
    """Request, already sent if a connection was idle. `wait` continues it in either case."""

    _client: HttpClient
    _target: UpstreamTarget
    _head: bytes
    _body: bytes
    _connect_timeout_s: float
    _header_timeout_s: float
    _on_sent: Callable[[], None] | None
    # None while there is no connection.
    connection: Connection | None
    response: UpstreamResponse | None
    _connecting: asyncio.Task[None] | None = None

    def begin_connect(self, on_done: Callable[[], None]) -> None:
        """Send the request over a new connection, then call `on_done`, also after a failure.

        `wait` raises the failure.
        """

        def end(task: asyncio.Task[None]) -> None:
            # A failed task stays for `wait`. Reading its exception keeps asyncio from logging it.
            if not task.cancelled() and task.exception() is None:
                self._connecting = None
            on_done()

        # `wait` awaits the task and `close` cancels it. The connection outlives the request, so its log
        # records must not carry the id of the request.
        self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=Context())
        self._connecting.add_done_callback(end)

    def close(self) -> None:
        """End the exchange; no effect once the response is complete."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.response is not None and not self.response.is_complete:
            self.response.close()

    def begin_relay(self) -> None:
        """Note that the head of an answer has arrived and its bytes are passed on."""
        # The request can no longer be sent again.
        self._head = self._body = b""

    async def wait(self, silent_s: float = 0.0) -> UpstreamResponse:
        """Return the response once its head is complete; raises as `HttpClient.request`.

        `silent_s` is the time already waited for it.
        """
        if self.connection is not None and self.response is not None:
            try:
                return await self.connection.wait_for_head(
                    self.response, max(0.0, self._header_timeout_s - silent_s)
                )
            except UpstreamClosed as error:
                if not error.is_stale:
                    raise
                self._connecting = None
        await (self._connecting or self._connect())
        assert self.connection is not None  # noqa: S101  # it is connected
        assert self.response is not None  # noqa: S101
        return await self.connection.wait_for_head(self.response, self._header_timeout_s)

    async def _connect(self) -> None:
        """Send the request over a new connection."""
        self.connection = await self._client.connect(self._target, self._connect_timeout_s)
        if self._on_sent is not None:
            self._on_sent()
        self.response = self.connection.begin_request(self._head, self._body)


class HttpClient:
    """Client that sends requests to targets over pooled connections. One serves the whole process.

    With `fail_fast` the kernel fails requests that wait for a vanished host within two seconds.
    """

    def __init__(self, *, fail_fast: bool = False) -> None:
        self._fail_fast = fail_fast
        self._idle_pools: dict[PoolKey, list[Connection]] = {}
        self._tunnel_waiters: dict[PoolKey, deque[asyncio.Future[Connection]]] = {}
        self._connections: set[Connection] = set()
        self._is_closed = False
        self._owner = ConnectionOwner(self._release_connection, self._discard_connection)

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
        on_sent: Callable[[], None] | None = None,
    ) -> UpstreamResponse:
        """Return the response once its head is complete; the caller closes it. Any method but HEAD.

        `on_sent` is called as soon as the request is written to a connection. Raises `TransportError`.
        """
        begun = self.begin_request(
            target,
            method,
            path,
            headers,
            body,
            connect_timeout_s=connect_timeout_s,
            header_timeout_s=header_timeout_s,
            on_sent=on_sent,
        )
        return await begun.wait()

    def begin_request(
        self,
        target: UpstreamTarget,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        connect_timeout_s: float,
        header_timeout_s: float,
        on_sent: Callable[[], None] | None = None,
        own_header: tuple[bytes, bytes] | None = None,
    ) -> BegunRequest:
        """Send a request if a connection is idle; `BegunRequest.wait` does the rest of `request`.

        `own_header` is unique to this request, so the head prefix is cached without it.
        """
        head = build_request_head(target, method, path, headers, len(body), own_header=own_header)
        connection, response = self._pop_idle(target.pool_key), None
        if connection is not None:
            if on_sent is not None:
                on_sent()
            response = connection.begin_request(head, body)
        return BegunRequest(
            self, target, head, body, connect_timeout_s, header_timeout_s, on_sent, connection, response
        )

    async def connect(self, target: UpstreamTarget, timeout_s: float) -> Connection:
        """Return a new connection to `target`. Raises `TransportError`."""
        return await self._connect(target.pool_key, timeout_s)

    async def request_streamed(
        self,
        target: UpstreamTarget,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        pieces: AsyncIterable[bytes],
        *,
        body_bytes: int | None,
        connect_timeout_s: float,
        header_timeout_s: float,
    ) -> UpstreamResponse:
        """Like `request`, with a body that is read while it is sent; its `body_bytes` may be unknown (None).

        It is not read before the target has accepted the head, and never held. As it cannot be sent twice,
        the connection is a new one. Raises `TransportError` and the errors of `pieces`.
        """
        head = build_request_head(target, method, path, headers, body_bytes, expects_continue=True)
        connection = await self._connect(target.pool_key, connect_timeout_s)
        return await connection.send_streamed_request(
            head, pieces, is_chunked=body_bytes is None, header_timeout_s=header_timeout_s
        )

    async def open_connection(self, target: UpstreamTarget, *, connect_timeout_s: float) -> Connection:
        """Return a connection for an exchange that the caller drives. Raises `TransportError`."""
        return self._pop_idle(target.pool_key) or await self._connect(target.pool_key, connect_timeout_s)

    def adopt_connection(self, target: UpstreamTarget, transport: asyncio.Transport) -> None:
        """Add a connection that the other end has dialled to the pool of `target`."""
        connection = Connection(
            target.pool_key,
            self._owner,
            keepalive_expiry_s=TUNNEL_KEEPALIVE_EXPIRY_S,
        )
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._connections.add(connection)
        connection.return_to_pool()

    def close_idle(self, target: UpstreamTarget) -> None:
        """Close the idle connections of a target that is gone."""
        for connection in self._idle_pools.pop(target.pool_key, ()):
            connection.abort(UpstreamClosed(before_first_byte=True))

    def fail_requests(self, target: UpstreamTarget, *, include_started: bool = False) -> None:
        """Fail the requests that wait for a lost target; with `include_started` also running responses."""
        self.close_idle(target)
        for connection in tuple(self._connections):
            if connection.pool_key == target.pool_key and (
                include_started or connection.is_awaiting_response
            ):
                connection.abort(UpstreamClosed(before_first_byte=connection.is_awaiting_response))

    async def close(self) -> None:
        """Abort every connection, including those in use; later requests fail."""
        self._is_closed = True
        for connection in tuple(self._connections):
            connection.abort(UpstreamClosed(before_first_byte=False))
        self._idle_pools.clear()
        self._owner.read_timer.close()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return sum(len(idle) for idle in self._idle_pools.values())

    def _pop_idle(self, pool_key: PoolKey) -> Connection | None:
        """Return the most recently used idle connection that the peer has not closed."""
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
                connection = await self._dial(pool_key)
        except TimeoutError:
            raise ConnectError("connect timeout", is_timeout=True) from None
        except ssl.SSLError as error:
            raise ConnectError(f"TLS handshake failed ({error.reason or 'connection closed'})") from None
        except OSError as error:
            # The error's own text would name the address.
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__
            raise ConnectError(reason) from None
        if connection.is_closed:
            # The peer accepted and closed at once, before the connection was registered for
            # `_discard_connection`.
            raise ConnectError("the peer closed the connection at once")
        self._connections.add(connection)
        if self._is_closed:
            connection.abort(UpstreamClosed(before_first_byte=True))
            self._raise_if_closed()
        return connection

    async def _dial(self, pool_key: PoolKey) -> Connection:
        hosts = [pool_key.host]
        if pool_key.is_external:
            # Dial the address that was checked: the name may resolve to another one the next time.
            hosts = await resolve_allowed(pool_key.host, pool_key.port)
        is_tls = pool_key.trust_anchor is not None
        for number, host in enumerate(hosts, 1):
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(
                        pool_key,
                        self._owner,
                        fail_fast=self._fail_fast,
                    ),
                    host,
                    pool_key.port,
                    ssl=tls_trust.get_client_context(pool_key.trust_anchor or "") if is_tls else None,
                    server_hostname=pool_key.host if is_tls else None,
                )
            except OSError as error:
                if number == len(hosts) or isinstance(error, ssl.SSLError):
                    raise
            else:
                return connection
        raise OSError("no address")

    async def _wait_for_tunnel(self, pool_key: PoolKey, timeout_s: float) -> Connection:
        """Return the next tunnel that the other end dials or that becomes idle."""
        try:
            async with asyncio.timeout(timeout_s):
                while (connection := await self._next_tunnel(pool_key)).is_closed:
                    pass
                return connection
        except TimeoutError:
            raise ConnectError("the node did not dial in time", is_timeout=True) from None

    async def _next_tunnel(self, pool_key: PoolKey) -> Connection:
        waiters = self._tunnel_waiters.setdefault(pool_key, deque())
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # The tunnel arrived in the same iteration of the loop: pass it to the next waiter.
                self._release_connection(waiter.result())
            raise
        finally:
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters and self._tunnel_waiters.get(pool_key) is waiters:
                del self._tunnel_waiters[pool_key]

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise ConnectError("the client is closed")

    def _release_connection(self, connection: Connection) -> None:
        pool_key = connection.pool_key
        if self._tunnel_waiters:
            for waiter in self._tunnel_waiters.get(pool_key, ()):
                if not waiter.done():
                    waiter.set_result(connection)
                    return
        idle = self._idle_pools.get(pool_key)
        if idle is None:
            idle = self._idle_pools[pool_key] = []
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
            # Every load of an engine takes a new port: empty pools would accumulate.
            del self._idle_pools[connection.pool_key]


async def resolve_allowed(host: str, port: int) -> list[str]:
    """Return the addresses of an endpoint. Raises `AddressRefused` if one of them is forbidden, OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    if any(is_forbidden_address(address) for address in addresses):
        raise AddressRefused("its address is one that no endpoint may have")
    return addresses[:MAX_ADDRESSES]


def build_request_head(
    target: UpstreamTarget,
    method: bytes,
    path: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body_bytes: int | None,
    *,
    expects_continue: bool = False,
    own_header: tuple[bytes, bytes] | None = None,
) -> bytes:
    """Return the request line and the headers; `body_bytes` None is a body in chunks.

    The part before `own_header` is cached for the next request. Raises ValueError if a name or value would
    break out of its line.
    """
    known = target.head_starts.get((method, path, tuple(headers)))
    if known is None:
        known = _build_head_start(target, method, path, headers)
        if len(target.head_starts) >= MAX_HEAD_STARTS:
            target.head_starts.clear()
        target.head_starts[method, path, tuple(headers)] = known
    more = b"Expect: 100-continue\r\n" if expects_continue else b""
    if own_header is not None:
        line = b"%b: %b" % own_header
        if b"\r" in line or b"\n" in line:
            raise ValueError("unexpected line break in a header")
        more = b"%b\r\n%b" % (line, more)
    if body_bytes is None:
        return b"%b%bTransfer-Encoding: chunked\r\n\r\n" % (known, more)
    if body_bytes or method not in (b"GET", b"DELETE"):
        return b"%b%bContent-Length: %d\r\n\r\n" % (known, more, body_bytes)
    return b"%b%b\r\n" % (known, more)


def _build_head_start(
    target: UpstreamTarget, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """Return the request line and the headers without the framing."""
    lines = [b"%b %b%b HTTP/1.1\r\n" % (method, target.base_path, path), target.header_lines]
    for name, value in headers:
        if name.lower() not in NON_FORWARDED_HEADERS:
            lines.append(b"%b: %b\r\n" % (name, value))
    start = b"".join(lines)
    # `lines` counts the target's lines as one: its Host header.
    line_count = len(lines) + len(target.headers) + (target.api_key is not None)
    if start.count(b"\r") != line_count or start.count(b"\n") != line_count or path.count(b" "):
        raise ValueError("unexpected line break or space in the request head")
    return start
