"""TLS acceptor: connections count from the moment they are accepted, not from the end of their handshake.

A loop with a TLS context notifies the protocol only after the handshake. Until then the connection holds a
descriptor that no limit counts, so silent clients could take all of them.
"""

from __future__ import annotations

import asyncio
import ssl
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

from llb.api.connection.connection_limiter import ConnectionLimiter, EvictionRank
from llb.api.connection.websocket import WebSocketUpgrade
from llb.base.tasks import TaskSupervisor

T = TypeVar("T")

HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S = 10.0, 5.0


def begin(coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Run `coroutine` up to its first wait; await the result for the rest.

    A task would begin later: uvloop reads as soon as `connection_made` returns, and bytes that arrive before
    `start_tls` has set its protocol would be lost. Python 3.12 has `eager_start` for this.
    """
    return _continue(coroutine, coroutine.send(None))


@types.coroutine
def _continue(coroutine: Coroutine[Any, Any, T], pending: Any) -> Generator[Any, Any, T]:
    try:
        yield pending
    except BaseException as error:
        coroutine.throw(error)
        raise
    result: T = yield from coroutine
    return result


class TlsAcceptor:
    """Makes a `TlsHandshake` for each connection; takes the place of a protocol class."""

    # Sanic passes its settings for WebSockets to protocols that have this.
    websocket_handshake = WebSocketUpgrade.websocket_handshake

    def __init__(
        self,
        context: ssl.SSLContext,
        limiter: ConnectionLimiter,
        make_protocol: Callable[..., asyncio.Protocol],
    ) -> None:
        """`make_protocol` makes the protocol above TLS, from the arguments of `__call__`."""
        self.context = context
        self.limiter = limiter
        # Before the end of their handshake.
        self.handshakes: set[TlsHandshake] = set()
        # Each ends with its handshake, whose deadline is short.
        self.tasks = TaskSupervisor("tls")
        self._make_protocol = make_protocol

    def __call__(self, **kwargs: Any) -> TlsHandshake:
        return TlsHandshake(self, lambda: self._make_protocol(**kwargs))

    def close(self) -> None:
        """Close the connections whose handshake is not complete."""
        for handshake in tuple(self.handshakes):
            handshake.evict()


class TlsHandshake(asyncio.Protocol):
    """Connection until the end of its handshake. Then another protocol has it, above TLS."""

    __slots__ = ("_acceptor", "_early_data", "_make_protocol", "_task", "_transport")

    def __init__(self, acceptor: TlsAcceptor, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._acceptor = acceptor
        self._make_protocol = make_protocol
        # Bytes that arrived with the last ones of the handshake.
        self._early_data = b""
        # Below TLS; None once it is closed.
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    async def _complete_handshake(
        self, transport: asyncio.Transport, handshake: Awaitable[asyncio.Transport | None]
    ) -> None:
        try:
            tls = await handshake
        except (OSError, TimeoutError):
            transport.abort()
            return
        finally:
            self._forget()
        if tls is None or tls.is_closing():
            return
        protocol = self._make_protocol()
        tls.set_protocol(protocol)
        protocol.connection_made(tls)
        if self._early_data:
            protocol.data_received(self._early_data)

    def _forget(self) -> None:
        self._acceptor.limiter.remove(self)
        self._acceptor.handshakes.discard(self)

    # --- the limiter ---

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def eviction_rank(self) -> EvictionRank:
        return EvictionRank.ANONYMOUS_HEAD

    @property
    def unread_bytes(self) -> int:
        return 0

    def evict(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def check_deadline(self, now: float) -> None:
        """Do nothing: the handshake has a deadline of its own."""

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = connection = cast(asyncio.Transport, transport)
        peer = connection.get_extra_info("peername")
        if not self._acceptor.limiter.admit(self, str(peer[0]) if isinstance(peer, tuple) else ""):
            connection.abort()
            return
        self._acceptor.handshakes.add(self)
        handshake = begin(
            asyncio.get_running_loop().start_tls(
                connection,
                self,
                self._acceptor.context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        )
        self._task = self._acceptor.tasks.spawn(self._complete_handshake(connection, handshake), "handshake")

    def data_received(self, data: bytes) -> None:
        self._early_data += data

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        self._transport = None
