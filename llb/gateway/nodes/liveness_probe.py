"""Liveness probe: detection of a vanished host while requests wait for it."""

from __future__ import annotations

import asyncio

from llb.base import platform_compat
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.connection import Connection
from llb.gateway.http.upstream_errors import TransportError, UpstreamClosed

# Together with the kernel's first retransmission (0.2 to 0.3 s), a vanished host is detected within 0.8 s.
PROBE_INTERVAL_S = 0.1
# The first byte comes after the request: the other host would read it before, and most answers are quicker.
FIRST_PROBE_DELAY_S = 0.01
TCP_USER_TIMEOUT_S = 0.35
# Used while no request waits, so that the loss is known before the next request.
TCP_KEEPALIVE_IDLE_S, TCP_KEEPALIVE_INTERVAL_S, TCP_KEEPALIVE_PROBES = 1, 1, 2
NO_TIMEOUT_S = 365 * 86_400.0
# The body is blanks before a JSON value that never comes.
PROBE_HEAD = (
    b"POST /hop/pulse HTTP/1.1\r\n%bContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
PROBE_CHUNK = b"1\r\n \r\n"


class LivenessProbe:
    """Request with an endless body on a connection of its own: a byte every 0.1 s while other requests wait.

    A silent engine and a pulled cable look alike without it. The acknowledgement of the other kernel counts,
    not a response of a program there: a busy host must not be taken for a lost one.
    """

    def __init__(self, http_client: HttpClient, target: UpstreamTarget, connection: Connection) -> None:
        self._http_client = http_client
        self._target = target
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._pending_requests = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_retired = False

    @classmethod
    async def open(
        cls, http_client: HttpClient, target: UpstreamTarget, *, connect_timeout_s: float
    ) -> LivenessProbe:
        """Connect a probe to `target`. Raises `TransportError`."""
        connection = await http_client.open_connection(target, connect_timeout_s=connect_timeout_s)
        sock = connection.socket
        platform_compat.set_tcp_user_timeout(sock, TCP_USER_TIMEOUT_S)
        platform_compat.enable_tcp_keepalive(
            sock,
            idle_s=TCP_KEEPALIVE_IDLE_S,
            interval_s=TCP_KEEPALIVE_INTERVAL_S,
            probe_count=TCP_KEEPALIVE_PROBES,
        )
        return cls(http_client, target, connection)

    async def run(self) -> None:
        """Wait until the probe is retired or its target is lost; then fail the requests that still wait."""
        try:
            response = await self._connection.send_request(
                PROBE_HEAD % self._target.header_lines, b"", NO_TIMEOUT_S
            )
            # A healthy node never responds.
            response.close()
        except TransportError:
            pass
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._pending_requests:
            self._http_client.fail_requests(self._target)

    def begin_wait(self) -> None:
        """Probe the host for one more waiting request, until `end_wait()`."""
        self._pending_requests += 1
        if self._timer is None:
            self._timer = self._loop.call_later(FIRST_PROBE_DELAY_S, self._send_chunk)

    def end_wait(self) -> None:
        """Stop probing for one request."""
        self._pending_requests -= 1
        self._close_if_done()

    def retire(self) -> None:
        """Close the probe as soon as no request waits; no new ones will come."""
        self._is_retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_retired and not self._pending_requests:
            self._connection.abort(UpstreamClosed(before_first_byte=True))

    def _send_chunk(self) -> None:
        self._timer = None
        if self._pending_requests and not self._connection.is_closed:
            self._connection.send_body(PROBE_CHUNK)
            self._timer = self._loop.call_later(PROBE_INTERVAL_S, self._send_chunk)
