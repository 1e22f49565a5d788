"""Link over a WebSocket: messages of other versions, rejections, and the errors of a closed connection."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosedError

from llb.cluster.link import websocket_link
from llb.cluster.link.websocket_link import WebSocketLink, decode_balancer_message, decode_node_message
from llb.wire import PROTOCOL_VERSION, Drain, Hello, LinkClosed
from tests.cluster.test_view import HELLO


class FakeWebSocket:
    """WebSocket that receives these frames, then the end."""

    def __init__(self, *frames: str | bytes | Exception) -> None:
        self.frames = [*frames]
        self.sent: list[str] = []
        self.failure: Exception | None = None
        self.closed = 0

    async def recv(self) -> str | bytes | None:
        frame = self.frames.pop(0) if self.frames else None
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def send(self, text: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append(text)

    async def close(self) -> None:
        self.closed += 1
        if self.failure is not None:
            raise self.failure


def link_over(*frames: str | bytes | Exception) -> WebSocketLink[Any, Any]:
    return WebSocketLink(FakeWebSocket(*frames), decode_balancer_message, closed_errors=(KeyError,))


DRAIN = '{"type": "drain", "draining": true}'


async def test_messages_that_this_version_does_not_know_are_passed_over() -> None:
    link = link_over('{"type": "of the future"}', '{"type": "drain", "draining": 5}', DRAIN)
    assert await link.receive() == Drain(draining=True)
    with pytest.raises(LinkClosed):
        await link.receive()


@pytest.mark.parametrize("frame", ["{", b"\xff", "", '"\\ud800"'])
async def test_what_is_no_json_ends_the_link(frame: str | bytes) -> None:
    with pytest.raises(LinkClosed):
        await link_over(frame, DRAIN).receive()


async def test_a_rejection_is_kept_and_ends_the_link() -> None:
    link = link_over('{"type": "refused", "message": "run llb leave"}', DRAIN)
    with pytest.raises(LinkClosed):
        await link.receive()
    assert link.rejection_message == "run llb leave"


@pytest.mark.parametrize(
    "error", [ConnectionClosedError(None, None), ConnectionResetError(), KeyError("closed")]
)
async def test_every_error_of_a_closed_connection_is_the_end_of_the_link(error: Exception) -> None:
    link = link_over(error)
    with pytest.raises(LinkClosed):
        await link.receive()
    link._websocket.failure = error
    with pytest.raises(LinkClosed):
        await link.send(Drain(draining=True))
    await link.close()
    assert link._websocket.closed == 1


async def test_a_reader_that_takes_nothing_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_link, "SEND_TIMEOUT_S", 0.0)
    monkeypatch.setattr(websocket_link, "CLOSE_TIMEOUT_S", 0.0)

    class Stuck(FakeWebSocket):
        async def send(self, text: str) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None:
            await asyncio.Event().wait()

    link: WebSocketLink[Any, Any] = WebSocketLink(Stuck(), decode_balancer_message)
    with pytest.raises(LinkClosed):
        await link.send(Drain(draining=True))
    await link.close()


async def test_a_defect_is_not_taken_for_the_end_of_the_link() -> None:
    with pytest.raises(ZeroDivisionError):
        await link_over(ZeroDivisionError()).receive()


def test_the_hello_of_a_newer_protocol_is_known_by_its_first_fields() -> None:
    frame = msgspec.json.encode(
        {"type": "hello", "protocol": PROTOCOL_VERSION + 1, "node_id": "n", "version": "9.9", "name": 5}
    )
    hello = decode_node_message(frame)
    assert isinstance(hello, Hello)
    assert (hello.protocol, hello.node_id, hello.version) == (PROTOCOL_VERSION + 1, "n", "9.9")
    assert decode_node_message(msgspec.json.encode(HELLO)) == HELLO


@pytest.mark.parametrize(
    "frame",
    [
        # Of this protocol it is malformed.
        f'{{"type": "hello", "protocol": {PROTOCOL_VERSION}, "node_id": "n"}}',
        '{"type": "hello", "protocol": "9"}',
        '{"type": "of the future", "protocol": 99, "node_id": "n"}',
        "[]",
    ],
)
def test_another_message_is_refused(frame: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_node_message(frame)
