"""Feels whether a host is still there while requests wait for it: a silent engine and a pulled cable look alike otherwise."""

from __future__ import annotations

import asyncio

from llb import portable
from llb.gateway.connection import Connection
from llb.gateway.faults import UpstreamClosed, UpstreamFault
from llb.gateway.upstream import Target, Upstream

# With the first repetition of the kernel (0.2 to 0.3 s) a host that vanishes is found out within 0.8 s.
BEAT_EVERY_S = 0.1
UNACKNOWLEDGED_S = 0.35
# While nothing waits: so that the next request need not find it out.
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 1, 1, 2
FOREVER_S = 365 * 86_400.0
# Blanks before a JSON value that never comes.
HEAD = b"POST /hop/pulse HTTP/1.1\r\n%bContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BEAT = b"1\r\n \r\n"


class Pulse:
    """A request on a connection of its own whose body never ends: a byte every 0.1 s while something waits.

    What counts is that the other kernel acknowledges it, not that a program there finds the time to read: a host that is
    busy is not taken for one that has gone.
    """

    def __init__(self, upstream: Upstream, target: Target, connection: Connection) -> None:
        self._upstream = upstream
        self._target = target
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False

    @classmethod
    async def open(cls, upstream: Upstream, target: Target, *, connect_timeout_s: float) -> Pulse:
        """Raises `UpstreamFault`."""
        connection = await upstream.open(target, connect_timeout_s=connect_timeout_s)
        sock = connection.socket
        portable.end_unacknowledged(sock, UNACKNOWLEDGED_S)
        portable.probe_when_idle(sock, after_s=PROBE_AFTER_S, every_s=PROBE_EVERY_S, times=PROBES)
        return cls(upstream, target, connection)

    async def run(self) -> None:
        """Until the host or its program is gone: then the requests that wait there have failed. Or until it was retired."""
        try:
            response = await self._connection.exchange(HEAD % self._target.header_lines, b"", FOREVER_S)
            response.close()  # an answer is its end too
        except UpstreamFault:
            pass
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._waiting:
            self._upstream.abandon(self._target)

    def feel(self) -> None:
        """Something waits for the host, until `let_go()`."""
        self._waiting += 1
        if self._timer is None:
            self._beat()

    def let_go(self) -> None:
        """One that waited does not any more."""
        self._waiting -= 1
        self._close_if_done()

    def retire(self) -> None:
        """Nothing more will be sent there; what waits is still cared for."""
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._waiting:
            self._connection.fail(UpstreamClosed(before_first_byte=True))

    def _beat(self) -> None:
        self._timer = None
        if self._waiting and not self._connection.closed:
            self._connection.feed(BEAT)
            self._timer = self._loop.call_later(BEAT_EVERY_S, self._beat)
