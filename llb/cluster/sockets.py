"""A link over a WebSocket: the messages of `wire` as JSON, one a frame. Both ends of both libraries look alike."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed

from llb.wire import BalancerMessage, LinkClosed, NodeMessage, Refused

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # a hello or a want of some thousand models

Sent = TypeVar("Sent")
Received = TypeVar("Received")

_encoder = msgspec.json.Encoder()
from_node: msgspec.json.Decoder[NodeMessage] = msgspec.json.Decoder(NodeMessage)
from_balancer: msgspec.json.Decoder[BalancerMessage] = msgspec.json.Decoder(BalancerMessage)


class SocketLink(Generic[Sent, Received]):
    """One end. `socket` has `send`, `recv` (None at its end) and `close`, and raises one of `ended` when it is closed."""

    def __init__(
        self,
        socket: Any,
        decoder: msgspec.json.Decoder[Received],
        *,
        ended: tuple[type[Exception], ...] = (),
    ) -> None:
        self.refusal: str | None = None  # the other end's last word, where it sent us away
        self._socket = socket
        self._decoder = decoder
        # A deadline that passed is an OSError too.
        self._ended: tuple[type[Exception], ...] = (ConnectionClosed, OSError, *ended)

    async def send(self, message: Sent) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send(_encoder.encode(message).decode())
        except self._ended:
            raise LinkClosed from None

    async def receive(self) -> Received:
        while True:
            try:
                frame = await self._socket.recv()
            except self._ended:
                raise LinkClosed from None
            if frame is None:
                raise LinkClosed
            try:
                message = self._decoder.decode(frame)
            except msgspec.ValidationError as error:
                # The other end is of another version: what it says beyond ours is not for us.
                log.info("a message of a link was not understood: %s", error)
                continue
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("a link carried something that is no message; it is closed")
                raise LinkClosed from None
            if isinstance(message, Refused):
                self.refusal = message.message
                raise LinkClosed
            return message

    async def close(self) -> None:
        with suppress(*self._ended):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._socket.close()
