"""Link over a WebSocket: one JSON message of `wire` in each frame, for both WebSocket libraries in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed

from llb.texts.coded_text import encode_plain
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
# Enough for a hello or a desired state of some thousand models.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")

_encoder = msgspec.json.Encoder(enc_hook=encode_plain)
_node_decoder: msgspec.json.Decoder[NodeMessage] = msgspec.json.Decoder(NodeMessage)
decode_balancer_message: Callable[[bytes | str], BalancerMessage] = msgspec.json.Decoder(
    BalancerMessage
).decode


class _MinimalHello(msgspec.Struct, tag="hello"):
    """Fields of the hello of every protocol version, enough to answer with the reason of a rejection."""

    protocol: int
    node_id: str
    version: str = ""


def decode_node_message(frame: bytes | str) -> NodeMessage:
    """Decode a node's message. Raises `msgspec.ValidationError` for a message of an unknown type or shape.

    The hello of a newer protocol version decodes to a placeholder, so that its node can be sent the reason.
    """
    try:
        return _node_decoder.decode(frame)
    except msgspec.ValidationError:
        with suppress(msgspec.ValidationError):
            hello = msgspec.json.decode(frame, type=_MinimalHello)
            if hello.protocol > PROTOCOL_VERSION:
                return placeholder_hello(hello.node_id, protocol=hello.protocol, version=hello.version)
        raise


class WebSocketLink(Generic[SentT, ReceivedT]):
    """One end of a link over `websocket`, an object with `send`, `recv` (None at its end) and `close`.

    Its methods may raise any of `closed_errors` once it is closed.
    """

    def __init__(
        self,
        websocket: Any,
        decode: Callable[[bytes | str], ReceivedT],
        *,
        closed_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        # The reason, if the other end rejected this one.
        self.rejection_message: str | None = None
        self._websocket = websocket
        self._decode = decode
        # TimeoutError is an OSError.
        self._closed_errors: tuple[type[Exception], ...] = (ConnectionClosed, OSError, *closed_errors)

    async def send(self, message: SentT) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._websocket.send(_encoder.encode(message).decode())
        except self._closed_errors:
            raise LinkClosed from None

    async def receive(self) -> ReceivedT:
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
                # A newer version at the other end may send messages that this one does not know.
                log.info("ignored an unknown message of a link: %s", error)
                continue
            except DECODE_ERRORS:
                log.warning("closed a link that carried an invalid message")
                raise LinkClosed from None
            if isinstance(message, LinkRejected):
                self.rejection_message = message.message
                raise LinkClosed
            return message

    async def close(self) -> None:
        with suppress(*self._closed_errors):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._websocket.close()
