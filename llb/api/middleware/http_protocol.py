"""HTTP protocol of the server: Sanic's, with a lingering close.

A socket that is closed with unread bytes is reset, and the client loses the response that says why its
request was refused: a program that sends its whole body before it reads would see a broken connection
instead of `413`. So the server reads and discards what the client still sends, for a while.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sanic.http import Http
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

# In all, however much the client still sends.
LINGER_TIMEOUT_S = 5.0


class LingeringHttp(Http):
    """Sanic's HTTP/1.1 with a lingering close."""

    __slots__ = ()

    async def http1(self) -> None:
        await super().http1()  # type: ignore[no-untyped-call]
        if self.request is None or (self.request_body and not self.expecting_continue):
            await self._linger()

    async def _linger(self) -> None:
        """Discard input until the client closes too, which cancels this, at most for `LINGER_TIMEOUT_S`."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while True:
                    self.recv_buffer.clear()
                    await self._receive_more()


class LingeringProtocol(WebSocketProtocol):
    """Protocol of the server's connections: HTTP and WebSocket."""

    HTTP_CLASS = LingeringHttp

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel the connection's timer.

        Sanic checks the time limits of a connection every 30 s, and keeps a closed one in memory until then:
        20 kB each, which is much when clients open a connection for every request.
        """
        timer: asyncio.TimerHandle | None = self._callback_check_timeouts
        if timer is not None:
            timer.cancel()
        super().connection_lost(error)  # type: ignore[no-untyped-call]
