"""Protocol of the server's connections: HTTP and WebSocket, with a limit of connections and deadlines."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from sanic.http import Stage
from sanic.models.server_types import ConnInfo

from llb.api.connection.connection_limiter import ConnectionLimiter, EvictionRank
from llb.api.connection.http_exchange import ServerHttp
from llb.api.connection.resources import ConnectionResources
from llb.api.connection.websocket import WebSocketUpgrade
from llb.errors import RequestTimedOut, ServerBusy
from llb.security.permissions import Principal
from llb.wire import OLLAMA_PORT_KEY_ID

# Bytes that wait in a transport: writing pauses at the upper bound and resumes at the lower one.
WRITE_LOW_BYTES, WRITE_HIGH_BYTES = 16 * 1024, 64 * 1024
# Longest time from the first byte of a head to its last.
HEAD_TIMEOUT_S = 60.0
# A body may take this long, and longer while it has brought this many bytes per second on average.
BODY_GRACE_S = 30.0
MIN_BODY_BYTES_PER_S = 1024
# Longest time in which a client without a credential reads 48 KiB of an answer; a slow body is faster.
ANSWER_TIMEOUT_S = 60.0
# A client that has not read for this long makes room for others.
STALLED_AFTER_S = 10.0
# A client that has closed its half of the connection may have left. A write shows whether it has: these are
# the seconds after which an interim response is written, the last one repeatedly.
HALF_CLOSED_PROBE_DELAYS_S = (0.1, 0.2, 1.0)
PROCESSING_RESPONSE = b"HTTP/1.1 102 Processing\r\n\r\n"
_BUSY_BODY = (
    b'{"error":{"message":"This server has no room for another connection; try again",'
    b'"type":"overloaded_error","code":"server_busy"}}'
)
_BUSY_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY_BODY), _BUSY_BODY)
)


class SmallEvent:
    """`asyncio.Event` that has no queue while nothing waits: it takes 0.7 kB, and a connection has two."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> bool:
        if self._is_set:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters = (*self._waiters, waiter)
        try:
            await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
        return True


class ServerProtocol(WebSocketUpgrade):
    """Protocol of the server's connections: HTTP and WebSocket."""

    HTTP_CLASS = ServerHttp
    __slots__ = ("_blocked_since", "_half_closed_probe", "_is_refused", "_is_unused", "is_authenticated")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._can_write: Any = SmallEvent(is_set=True)
        self._data_received: Any = SmallEvent()
        self.is_authenticated = False
        # Whether Sanic has received nothing yet, and so has no task for this connection.
        self._is_unused = True
        self._is_refused = False
        self._half_closed_probe: asyncio.TimerHandle | None = None
        # time.monotonic() since when the client has to read before more is written; None if it need not.
        self._blocked_since: float | None = None

    @property
    def resources(self) -> ConnectionResources:
        return cast(ConnectionResources, self.app.ctx.connections)

    @property
    def limiter(self) -> ConnectionLimiter:
        return self.resources.limiter

    @property
    def peer_address(self) -> str:
        """IP address of the other end."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def note_principal(self, principal: Principal | None) -> None:
        """Note that a valid credential came over this connection."""
        if not self.is_authenticated and principal is not None and principal.id != OLLAMA_PORT_KEY_ID:
            self.note_accepted()

    def note_accepted(self) -> None:
        """Note that a valid credential came over this connection, checked here or by another host."""
        self.is_authenticated = True
        self.limiter.on_authenticated(self)

    @property
    def awaits_request(self) -> bool:
        """Whether all that has come is answered, and the next bytes begin a request."""
        http: ServerHttp | None = self.http
        if http is None:
            return self._is_unused and not self._is_refused
        return http.awaits_request and not self.recv_buffer

    # --- the limiter ---

    @property
    def is_open(self) -> bool:
        return self.transport is not None

    @property
    def eviction_rank(self) -> EvictionRank:
        http: ServerHttp | None = self.http
        if self.websocket is not None:
            return EvictionRank.WORKING
        if self.is_stalled:
            return EvictionRank.BODY if self.is_authenticated else EvictionRank.ANONYMOUS_HEAD
        if http is None or http.stage in (Stage.IDLE, Stage.REQUEST):
            return EvictionRank.IDLE if self.is_authenticated else EvictionRank.ANONYMOUS_HEAD
        if http.stage is Stage.HANDLER and http.body_since is not None:
            return EvictionRank.BODY if self.is_authenticated else EvictionRank.ANONYMOUS_BODY
        return EvictionRank.WORKING

    @property
    def is_stalled(self) -> bool:
        """Whether an answer waits for its client, which has not read for a while."""
        since = self._blocked_since
        return since is not None and time.monotonic() - since > STALLED_AFTER_S

    @property
    def unread_bytes(self) -> int:
        """Bytes of an answer that wait for a client which does not read."""
        return self.transport.get_write_buffer_size() if self.is_stalled and self.transport else 0

    def evict(self) -> None:
        """Close the connection; a request that has begun is answered, unless its client does not read."""
        if self.is_stalled:
            self.abort()  # type: ignore[no-untyped-call]
            return
        self._end(ServerBusy("This server needs the connection for others, which sent their requests faster"))

    def check_deadline(self, now: float) -> None:
        """Close the connection if its client is too slow."""
        http: ServerHttp | None = self.http
        if self.websocket is not None or (http is None and not self._is_unused):
            return
        if self._is_unread(now):
            self.abort()  # type: ignore[no-untyped-call]
        elif http is None or http.stage is Stage.IDLE:
            if now - self._time > self.keep_alive_timeout:
                self._end(RequestTimedOut("No request came"))
        elif http.stage is Stage.REQUEST:
            if now - http.head_since > HEAD_TIMEOUT_S:
                self._end(
                    RequestTimedOut(f"The head of a request must be complete within {HEAD_TIMEOUT_S:.0f} s")
                )
        elif http.body_since is not None:
            allowed_s = BODY_GRACE_S
            if self.is_authenticated:
                allowed_s += http.received_body_bytes / MIN_BODY_BYTES_PER_S
            if now - http.body_since > allowed_s:
                self._end(RequestTimedOut("The body of the request came too slowly"))

    def _is_unread(self, now: float) -> bool:
        """Whether a client without a credential reads too slowly."""
        since = self._blocked_since
        return since is not None and not self.is_authenticated and now - since > ANSWER_TIMEOUT_S

    def check_timeouts(self) -> None:
        """Do nothing: `check_deadline` takes the place of the timer that Sanic has for each connection."""

    def _end(self, error: Exception) -> None:
        http: ServerHttp | None = self.http
        if http is None or self._task is None or http.stage is Stage.IDLE:
            # Also aborts a connection whose client does not take part in the close, for example with TLS.
            self.close()
            return
        http.is_evicted = True
        http.exception = error
        self._task.cancel()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if not self.limiter.admit(self, str(peer[0]) if isinstance(peer, tuple) else ""):
            self._is_refused = True
            cast(asyncio.Transport, transport).write(_BUSY_RESPONSE)
            transport.close()
            return
        # Like Sanic's method, but without its task, which a connection to the front does not need.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(low=WRITE_LOW_BYTES, high=WRITE_HIGH_BYTES)
        self.connections.add(self)
        self.recv_buffer = bytearray()
        self.conn_info = ConnInfo(cast(Any, transport), unix=self._unix)
        self._time = time.monotonic()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_unused:
            self._is_unused = False
            # Sanic's own task, which Sanic cancels.
            self._task = self.loop.create_task(self.connection_task())  # type: ignore[no-untyped-call]
        super().data_received(data)  # type: ignore[no-untyped-call]

    def pause_writing(self) -> None:
        self._blocked_since = time.monotonic()
        super().pause_writing()  # type: ignore[no-untyped-call]

    def resume_writing(self) -> None:
        self._blocked_since = None
        super().resume_writing()  # type: ignore[no-untyped-call]

    def eof_received(self) -> bool | None:
        """Wait for the response to a complete request: the client may have closed its half only.

        Whether it has left entirely shows when something is written.
        """
        http: ServerHttp | None = self.http
        if self.websocket is not None or http is None:
            return super().eof_received()
        transport = cast(asyncio.Transport, self.transport)
        is_complete = http.stage in (Stage.HANDLER, Stage.RESPONSE) and not http.request_body
        if self._is_refused or not is_complete or not transport.can_write_eof():
            return False
        http.keep_alive = False
        self._probe_half_closed(0)
        return True

    def _probe_half_closed(self, number: int) -> None:
        delay_s = HALF_CLOSED_PROBE_DELAYS_S[min(number, len(HALF_CLOSED_PROBE_DELAYS_S) - 1)]
        self._half_closed_probe = self.loop.call_later(delay_s, self._write_probe, number)

    def _write_probe(self, number: int) -> None:
        http: ServerHttp | None = self.http
        if http is None or http.stage is not Stage.HANDLER or self.transport is None:
            return
        if http.request.version != "1.1":
            # HTTP/1.0 has no interim responses, and most clients that close have left.
            self.transport.abort()
            return
        self.transport.write(PROCESSING_RESPONSE)
        self._probe_half_closed(number + 1)

    def connection_lost(self, error: Exception | None) -> None:
        if self._half_closed_probe is not None:
            self._half_closed_probe.cancel()
        self.limiter.remove(self)
        if not self._is_refused:
            super().connection_lost(error)
