"""WebSocket connections: back-pressure, bounds of what a client may send, and how many one client may open.

Sanic creates a task for each read and writes pongs without waiting, so a client that sends without reading
could fill the memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct
from sanic import Request
from sanic.exceptions import RequestCancelled, SanicException, WebsocketClosed
from sanic.server.protocols.base_protocol import SanicProtocol
from sanic.server.protocols.websocket_protocol import WebSocketProtocol
from sanic.server.websockets.impl import WebsocketImplProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame
from websockets.protocol import CLOSED, OPEN
from websockets.server import ServerProtocol as WebSocketServerProtocol

from llb.api.middleware.client_info import ClientInfo
from llb.api.middleware.route_policy import decorator_mark_of
from llb.errors import RateLimited
from llb.policy.token_bucket import TokenBucket
from llb.security.permissions import Principal

H = TypeVar("H", bound=Callable[..., Any])
# The library reports each closed connection at INFO.
log = logging.getLogger("websockets.server")

MAX_SOCKETS_PER_CLIENT = 64
RETRY_AFTER_S = 10
# Parsed at once, between two turns of the event loop.
SLICE_BYTES = 4096
INVALID_UTF8, POLICY_VIOLATION, INTERNAL_ERROR = 1007, 1008, 1011
_BOUNDS_MARK = "__llb_websocket_bounds__"


class WebSocketBounds(Struct, frozen=True):
    """Limits of the messages of a client."""

    max_message_bytes: int
    # Messages, pings and pongs; a whole minute's may come at once. None: any number.
    frames_per_minute: int | None = None


def websocket_bounds(max_message_bytes: int, *, frames_per_minute: int | None = None) -> Callable[[H], H]:
    """Bound what the clients of a WebSocket route may send."""

    def mark(handler: H) -> H:
        setattr(handler, _BOUNDS_MARK, WebSocketBounds(max_message_bytes, frames_per_minute))
        return handler

    return mark


class WebSocketLimiter:
    """Counts the open WebSockets of each principal, or of each address without one."""

    def __init__(self, max_per_client: int = MAX_SOCKETS_PER_CLIENT) -> None:
        self._max_per_client = max_per_client
        self._counts: Counter[str] = Counter()

    def open(self, client: str) -> None:
        """Count a WebSocket. Raises `RateLimited`."""
        if self._counts[client] >= self._max_per_client:
            raise RateLimited(
                f"More than {self._max_per_client} WebSockets are open with this credential; close one first",
                retry_after_s=RETRY_AFTER_S,
            )
        self._counts[client] += 1

    def close(self, client: str) -> None:
        self._counts[client] -= 1
        if self._counts[client] <= 0:
            del self._counts[client]


class BoundedWebSocket(WebsocketImplProtocol):
    """Sanic's WebSocket that reads no more than it has processed and answered."""

    def __init__(
        self, ws_proto: WebSocketServerProtocol, bounds: WebSocketBounds | None, **kwargs: Any
    ) -> None:
        super().__init__(ws_proto, **kwargs)
        frames_per_minute = None if bounds is None else bounds.frames_per_minute
        self._frame_bucket = (
            None if frames_per_minute is None else TokenBucket(frames_per_minute, time.monotonic())
        )
        self._received = bytearray()
        self._processing: asyncio.Task[None] | None = None

    @property
    def _transport(self) -> asyncio.Transport | None:
        return cast(SanicProtocol, self.io_proto).transport

    def pause_frames(self) -> bool:
        """Do nothing: reading is paused while anything is processed."""
        return False

    def resume_frames(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self.ws_proto.state is CLOSED:
            return
        self._received += data
        if self._processing is None:
            if (transport := self._transport) is not None:
                transport.pause_reading()
            # Handles all of its errors, and ends with the connection.
            self._processing = asyncio.create_task(self._process())

    async def _process(self) -> None:
        try:
            while self._received and self.ws_proto.state is not CLOSED:
                data = bytes(self._received[:SLICE_BYTES])
                del self._received[:SLICE_BYTES]
                self.ws_proto.receive_data(data)
                to_send, events = self.ws_proto.data_to_send(), self.ws_proto.events_received()
                if not self._may_send(events):
                    self.fail_connection(POLICY_VIOLATION, "too many messages")
                    return
                await self.async_data_received(to_send, events)  # type: ignore[no-untyped-call]
                await asyncio.sleep(0)
        except UnicodeDecodeError:
            self.fail_connection(INVALID_UTF8)
            return
        except (ConnectionClosed, WebsocketClosed, RequestCancelled):
            return
        except Exception:
            # The task is not awaited, and without it nothing more would be read.
            log.exception("a WebSocket could not be read on")
            self.fail_connection(INTERNAL_ERROR)
            return
        finally:
            self._processing = None
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _may_send(self, events: Sequence[object]) -> bool:
        frame_count = sum(isinstance(event, Frame) for event in events)
        bucket = self._frame_bucket
        if bucket is None or not frame_count:
            return True
        now = time.monotonic()
        if bucket.available(now) < frame_count:
            return False
        bucket.consume(frame_count, now)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._processing is not None:
            self._processing.cancel()
        super().connection_lost(exc)  # type: ignore[no-untyped-call]


class WebSocketUpgrade(WebSocketProtocol):
    """Sanic's protocol with bounded WebSockets."""

    __slots__ = ("_websocket_client",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._websocket_client: str | None = None

    async def websocket_handshake(
        self, request: Request, subprotocols: Sequence[str] | None = None
    ) -> BoundedWebSocket:
        """Answer the handshake. Raises `RateLimited`, and `SanicException` for a malformed one."""
        # The route is set while the request is handled.
        assert request.route is not None  # noqa: S101
        bounds: WebSocketBounds | None = decorator_mark_of(request.route, _BOUNDS_MARK)
        client = _client_of(request)
        limiter: WebSocketLimiter = self.app.ctx.connections.websocket_limiter
        limiter.open(client)
        self._websocket_client = client
        ws_proto = WebSocketServerProtocol(
            max_size=self.websocket_max_size if bounds is None else bounds.max_message_bytes,
            state=OPEN,
            logger=log,
        )
        response = ws_proto.accept(self.sanic_request_to_ws_request(request))
        if response.status_code != 101:
            raise SanicException("The WebSocket handshake is malformed", 400)
        lines = [f"HTTP/1.1 {response.status_code} {response.reason_phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers.raw_items()]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode())  # type: ignore[no-untyped-call]
        self.websocket = BoundedWebSocket(
            ws_proto,
            bounds,
            ping_interval=self.websocket_ping_interval,
            ping_timeout=self.websocket_ping_timeout,
            close_timeout=self.websocket_timeout,
        )
        await self.websocket.connection_made(self, loop=self.loop)
        if self.recv_buffer:
            # Sent together with the handshake.
            data = bytes(self.recv_buffer)
            self.recv_buffer.clear()
            self.websocket.data_received(data)
        return self.websocket

    def connection_lost(self, error: Exception | None) -> None:
        client, self._websocket_client = self._websocket_client, None
        if client is not None:
            self.app.ctx.connections.websocket_limiter.close(client)
        super().connection_lost(error)  # type: ignore[no-untyped-call]


def _client_of(request: Request) -> str:
    principal: Principal | None = request.ctx.principal
    if principal is not None:
        return f"{principal.kind.value} {principal.account_id}"
    client: ClientInfo = request.ctx.client
    return f"address {client.address}"
