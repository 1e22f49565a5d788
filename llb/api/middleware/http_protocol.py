"""Closing a connection whose client still sends: what it sends is read and thrown away for a while.

A socket that is closed with bytes unread is reset, and with that the client loses the answer that says why it was refused: a
program that sends its whole body before it reads would see a broken connection in place of `413`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sanic.http import Http
from sanic.server.protocols.websocket_protocol import WebSocketProtocol

LINGER_TIMEOUT_S = 5.0  # altogether, whatever still comes


class LingeringHttp(Http):
    """Sanic's HTTP/1.1, but for the end of a connection."""

    __slots__ = ()

    async def http1(self) -> None:
        await super().http1()  # type: ignore[no-untyped-call]
        if self.request is None or (self.request_body and not self.expecting_continue):
            await self._linger()

    async def _linger(self) -> None:
        """Wait until the client has closed too (which cancels this), at most `LINGER_S`."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()  # that was all that it gets
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_TIMEOUT_S):
                while True:
                    self.recv_buffer.clear()
                    await self._receive_more()


class LingeringProtocol(WebSocketProtocol):
    """What the server's sockets speak."""

    HTTP_CLASS = LingeringHttp

    def connection_lost(self, error: Exception | None) -> None:
        """Sanic looks at the time limits of a connection every half minute, and so keeps all of one that has ended for as long:
        20 kB each, which clients that connect anew for every request make many of."""
        timer: asyncio.TimerHandle | None = self._callback_check_timeouts
        if timer is not None:
            timer.cancel()
        super().connection_lost(error)  # type: ignore[no-untyped-call]
