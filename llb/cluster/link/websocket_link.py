"""A link over a WebSocket: the messages of `wire` as JSON, one a frame. Both ends of both libraries look alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed

from llb.wire import (
    PROTOCOL_VERSION,
    BalancerMessage,
    LinkClosed,
    LinkRejected,
    NodeMessage,
    placeholder_hello,
)
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # a hello or a want of some thousand models

Sent = TypeVar("Sent")
Received = TypeVar("Received")

_encoder = msgspec.json.Encoder()
_node_decoder: msgspec.json.Decoder[NodeMessage] = msgspec.json.Decoder(NodeMessage)
decode_balancer_message: Callable[[bytes | str], BalancerMessage] = msgspec.json.Decoder(
    BalancerMessage
).decode


class _MinimalHello(msgspec.Struct, tag="hello"):
    """What every version of the protocol says in its hello: enough to be told why it is not understood."""

    protocol: int
    node_id: str
    version: str = ""


def decode_node_message(frame: bytes | str) -> NodeMessage:
    """Raises `msgspec.ValidationError` for a message of another version, but for the hello of one too new to be read."""
    try:
        return _node_decoder.decode(frame)
    except msgspec.ValidationError:
        with suppress(msgspec.ValidationError):
            hello = msgspec.json.decode(frame, type=_MinimalHello)
            if hello.protocol > PROTOCOL_VERSION:
                return placeholder_hello(hello.node_id, protocol=hello.protocol, version=hello.version)
        raise


class WebSocketLink(Generic[Sent, Received]):
    """One end. `socket` has `send`, `recv` (None at its end) and `close`, and raises one of `ended` when it is closed."""

    def __init__(
        self,
        websocket: Any,
        decode: Callable[[bytes | str], Received],
        *,
        closed_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self.rejection_message: str | None = None  # the other end's last word, where it sent us away
        self._websocket = websocket
        self._decode = decode
        # A deadline that passed is an OSError too.
        self._closed_errors: tuple[type[Exception], ...] = (ConnectionClosed, OSError, *closed_errors)

    async def send(self, message: Sent) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._websocket.send(_encoder.encode(message).decode())
        except self._closed_errors:
            raise LinkClosed from None

    async def receive(self) -> Received:
        while True:
            try:
                frame = await self._websocket.recv()
            except self._closed_errors:
                raise LinkClosed from None
            if frame is None:
                raise LinkClosed
            try:
                message = self._decode(frame)
            except msgspec.ValidationError as error:
                # The other end is of another version: what it says beyond ours is not for us.
                log.info("a message of a link was not understood: %s", error)
                continue
            except DECODE_ERRORS:
                log.warning("a link carried something that is no message; it is closed")
                raise LinkClosed from None
            if isinstance(message, LinkRejected):
                self.rejection_message = message.message
                raise LinkClosed
            return message

    async def close(self) -> None:
        with suppress(*self._closed_errors):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._websocket.close()
