"""The strict parser of heads, compared with httptools (llhttp): both read accepted heads alike."""

from __future__ import annotations

import random
from types import SimpleNamespace

import httptools
from sanic.exceptions import BadRequest

from llb.api.connection.http_head import parse_request_head
from llb.front.request import FrontRoute, KnownHead

ROUTE = FrontRoute(SimpleNamespace(ctx=SimpleNamespace()), {})
SEEDS = tuple(
    b"POST " + text.replace(b"|", b"\r\n") + b"\r\n\r\n"
    for text in (
        b"/v1/chat/completions?beta=true HTTP/1.1|Host: a:80|Content-Length: 12|Accept: */*",
        b"/v1/messages HTTP/1.1|host:a|X-API-Key: sk-1 |Content-Length:\t 7|X-A:|Via: b, c",
        b"/api/chat HTTP/1.1|Host: [::1]|Transfer-Encoding: chunked|X-B: \xff\xc3\xa4|Connection: close",
    )
)
LENGTH_LINE = b"Content-Length: 1\r\n"
MUTATIONS = (
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b"\r\n",
    b":",
    b"\0",
    b"",
    b"0",
    b"1",
    b"-",
    b",",
    b"\x0b",
    LENGTH_LINE,
)


class Reading:
    """What httptools tells of one message."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body = b"", b""
        self.headers: list[tuple[str, str]] = []
        self.is_complete = self.keeps_alive = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        decoded = value.decode(errors="surrogateescape").strip(" \t")
        self.headers.append((name.decode().lower(), decoded))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True
        self.keeps_alive = bool(self.parser.should_keep_alive())


def mutated_heads(count: int) -> list[bytes]:
    chance = random.Random(20)
    heads = list(SEEDS)
    for _ in range(count):
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data) - 4)
            data[at : at + chance.randint(0, 2)] = chance.choice(MUTATIONS)
        heads.append(bytes(data))
    return heads


def test_what_is_accepted_is_read_as_httptools_reads_it() -> None:
    accepted = 0
    for data in mutated_heads(6000):
        end = data.find(b"\r\n\r\n")
        try:
            head = parse_request_head(data[:end])
        except BadRequest:
            continue
        # Addresses unlike those of a route are Sanic's.
        if (head.content_length or 0) > 1000 or head.method != "POST" or not head.target.startswith(b"/"):
            continue
        accepted += 1
        length = head.content_length or 0
        body = b"5\r\nhello\r\n0\r\n\r\n" if head.is_chunked else b"x" * length
        reading = Reading(data[: end + 4] + body)
        assert reading.is_complete, data
        assert reading.parser.get_method() == head.method.encode()
        assert (reading.url, reading.headers) == (head.target, head.headers), data
        assert reading.body == (b"hello" if head.is_chunked else body)
        # It may close a connection that httptools would keep: `Connection: cl ose`.
        assert reading.keeps_alive or not head.keep_alive, data
        if not head.is_chunked and head.content_length is not None:
            # The next request of the connection, with another length.
            known = KnownHead(data[: end + 4], "/", head.header_map(), ROUTE)
            span = known.match(data[: end + 4] + body)
            assert span is not None
            assert span[:2] == (end + 4, end + 4 + length)
    assert accepted > 500
