"""Known heads of responses: read without the parser, they have the same result."""

from __future__ import annotations

import httptools
import pytest

from llb.gateway.http.known_response import KnownResponseHead, learn_head

HEAD = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: %b\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
FIRST = HEAD % b"5" + b"first"


def learn(data: bytes) -> KnownResponseHead | None:
    return learn_head(data, [(b"server", b"s")], b"application/json", 4.0)


class Parsed:
    """The bodies of the whole responses that the parser finds."""

    def __init__(self, data: bytes) -> None:
        self.bodies: list[bytes] = []
        self._body = b""
        httptools.HttpResponseParser(self).feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.bodies.append(self._body)
        self._body = b""


@pytest.mark.parametrize("body", [b"x", b"second", b"\r\n\r\n", b"0" * 1000])
def test_a_body_of_another_length_is_found(body: bytes) -> None:
    known = learn(FIRST)
    assert known is not None
    data = HEAD % b"%d" % len(body) + body
    assert known.find_body(data) == body
    assert Parsed(data).bodies == [body]


@pytest.mark.parametrize(
    "data",
    [
        HEAD % b"6" + b"first",
        HEAD % b"4" + b"first",
        HEAD % b"0",
        HEAD % b"" + b"first",
        HEAD % b"+5" + b"first",
        HEAD % b" 5" + b"first",
        HEAD % b"5 " + b"first",
        HEAD % b"5, 5" + b"first",
        HEAD % b"\xb2" + b"xy",
        HEAD % (b"0" * 20 + b"5") + b"first",
        HEAD % b"5\r\nTransfer-Encoding: chunked" + b"first",
        FIRST + FIRST,
        FIRST + b"H",
        FIRST.replace(b"200 OK", b"206 OK"),
        FIRST[:-6],
        HEAD[:20],
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    known = learn(FIRST)
    assert known is not None
    assert known.find_body(data) is None


@pytest.mark.parametrize(
    "data",
    [
        FIRST + b"more",
        b"HTTP/1.1 100 Continue\r\n\r\n" + FIRST,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5000 + b"\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_only_a_single_whole_response_is_learnt(data: bytes) -> None:
    assert learn(data) is None
