"""Reverse proxy: which part of a response leaves in which way, and how one that broke off ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.api.incoming_request import IncomingRequest
from llb.api.internode import proxy as proxy_module
from llb.api.internode.proxy import InFlightCounter, proxy_response, select_headers
from llb.engine.watch_policy import Blame
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError, UpstreamClosed, UpstreamTimeout
from tests.gateway.gateway_fixture import FakeResponse

BROKEN = UpstreamClosed(before_first_byte=False)


class Client:
    """The request and its response; notes what is written."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []
        self.trailer = b""
        self.head: Any = None
        self.is_closed = False
        self.transport = SimpleNamespace(close=self._close)

    def _close(self) -> None:
        self.is_closed = True

    async def respond(self, head: Any) -> Client:
        self.head = head
        return self

    async def send(self, data: bytes, end_stream: bool = False) -> None:
        self.sent.append((data, end_stream))

    async def eof(self) -> None:
        self.sent.append((b"", True))

    async def write_last(self, frame: bytes) -> None:
        self.trailer = frame


class WholeResponse(FakeResponse):
    """A response whose body came with its head."""

    def take_whole(self, _max_bytes: int) -> bytes:
        return b"".join(chunk for chunk in self.chunks if isinstance(chunk, bytes))


async def proxy(client: Client, response: FakeResponse, **options: Any) -> None:
    await proxy_response(cast(IncomingRequest, client), cast(UpstreamResponse, response), **options)
    assert response.is_closed


async def test_a_body_that_came_with_its_head_leaves_in_one_write() -> None:
    client = Client()
    await proxy(client, WholeResponse([b"{}"], status=201), headers={"x-llb-node": "a"})
    assert client.sent == [(b"{}", True)]
    assert (client.head.status, client.head.content_type) == (201, "application/json")
    assert client.head.headers["x-llb-node"] == "a"


async def test_a_body_in_pieces_leaves_in_pieces() -> None:
    client = Client()
    await proxy(client, FakeResponse([b"a", b"b"], content_type=b""))
    assert client.sent == [(b"a", False), (b"b", False), (b"", True)]
    assert client.head.content_type == "application/octet-stream"


async def test_a_response_without_a_body_has_a_head() -> None:
    client = Client()
    await proxy(client, FakeResponse([], status=204))
    assert client.sent == [(b"", True)]
    assert client.head.status == 204


async def test_an_error_before_the_first_byte_is_raised() -> None:
    client, response = Client(), FakeResponse([BROKEN])
    with pytest.raises(UpstreamClosed):
        await proxy(client, response)
    assert client.head is None
    assert response.is_closed


@pytest.mark.parametrize("blame", [Blame.NONE, Blame.CAUSE])
async def test_a_response_that_broke_off_tells_the_part_of_the_request(blame: Blame) -> None:
    async def get_blame(error: TransportError) -> Blame:
        assert error is BROKEN
        return blame

    client = Client()
    await proxy(client, FakeResponse([b"a", BROKEN]), get_blame=get_blame)
    assert client.sent == [(b"a", False)]
    assert client.trailer.startswith(b"0\r\n")
    assert client.trailer.endswith(b": " + blame.encode() + b"\r\n\r\n")
    assert client.is_closed


@pytest.mark.parametrize("knows_blame", [False, True])
async def test_a_response_that_broke_off_for_another_reason_is_cut(
    monkeypatch: pytest.MonkeyPatch, knows_blame: bool
) -> None:
    cut: list[Any] = []
    monkeypatch.setattr(proxy_module, "abort_connection", cut.append)

    async def get_blame(_error: TransportError) -> None:
        return None

    client = Client()
    await proxy(
        client,
        FakeResponse([b"a", UpstreamTimeout("idle")]),
        get_blame=get_blame if knows_blame else None,
    )
    assert (cut, client.trailer) == ([client], b"")


def test_headers_are_passed_on_as_the_bytes_that_came() -> None:
    headers = {"via": ["1.1 a", "1.1 b"], "x-é": ["\udce4"]}
    request = SimpleNamespace(headers=SimpleNamespace(getall=headers.get))
    selected = select_headers(cast(IncomingRequest, request), ["via", "absent"])
    assert selected == [(b"via", b"1.1 a"), (b"via", b"1.1 b")]
    headers["via"] = ["\udce4"]
    assert select_headers(cast(IncomingRequest, request), ["via"]) == [(b"via", b"\xe4")]


async def test_a_stop_waits_for_the_requests_in_flight() -> None:
    counter = InFlightCounter()
    await counter.wait_idle(60.0)
    with counter.track():
        with counter.track():
            waiting = asyncio.ensure_future(counter.wait_idle(60.0))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    counter.begin()
    # The longest that a stop waits.
    await counter.wait_idle(0.0)
