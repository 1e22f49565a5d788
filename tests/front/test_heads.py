"""The strict parser of heads, held against httptools (llhttp): what it accepts, both read alike."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import httptools
from sanic.exceptions import BadRequest

from llb.api.connection.http_head import parse_request_head
from llb.front.protocol import InferenceFront
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
        # What is not like the address of a route is Sanic's.
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


def test_the_id_of_a_known_head_may_be_another_valid_one() -> None:
    """Whatever else differs, an id that is no valid one too, is another head."""
    for lines in (
        b"X-Request-ID: %b\r\nContent-Length: %b\r\n",
        b"content-length: %b\r\nx-request-id:%b \r\n",
    ):
        is_id_first = lines.startswith(b"X")

        def head(
            request_id: bytes,
            length: bytes,
            lines: bytes = lines,
            is_id_first: bool = is_id_first,
            last: bytes = b"Via: a\r\n",
        ) -> bytes:
            values = (request_id, length) if is_id_first else (length, request_id)
            return b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + lines % values + last + b"\r\n"

        raw = head(b"first", b"12")
        known = KnownHead(raw, "/v1/messages", parse_request_head(raw[:-4]).header_map(), ROUTE)
        assert known.headers.get("x-request-id") is None
        for request_id in (b"first", b"2", b"a.B_c-9", b"x" * 64):
            for length in (b"12", b"3", b"65536"):
                data = head(request_id, length)
                end = len(data)
                assert known.match(data + b"x") == (end, end + int(length), request_id.decode())
        for request_id in (
            b"",
            b"x" * 65,
            b"a b",
            b"a:b",
            b"\xe4",
            b"a\r\nVia: b",
            b"a\r\nContent-Length: 3",
        ):
            assert known.match(head(request_id, b"12")) is None
        for length in (
            b"",
            b"-1",
            b"1x",
            b"65537",
            b"1" * 20,
            b"3\r\nContent-Length: 4",
            b"3\r\nX-Request-ID: 4",
        ):
            assert known.match(head(b"first", length)) is None
        assert known.match(head(b"first", b"12", last=b"Via: b\r\n")) is None
        assert known.match(head(b"first", b"12")[:-2]) is None
    # Two ids, or an invalid one, are not separated from the known head.
    for given in (b"X-Request-ID: a\r\nX-Request-ID: b\r\n", b"X-Request-ID: a b\r\n"):
        raw = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + given + b"Content-Length: 3\r\n\r\n"
        known = KnownHead(raw, "/v1/messages", parse_request_head(raw[:-4]).header_map(), ROUTE)
        assert known.match(raw) == (len(raw), len(raw) + 3, None)
        assert known.match(raw.replace(b"D: a", b"D: c")) is None


HEAD = (
    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nX-API-Key: sk-1\r\n%bContent-Length: %d\r\nAccept: */*\r\n\r\n"
)


def test_equal_heads_of_connections_are_read_once_and_admitted_each() -> None:
    nothing: Any = None
    front = InferenceFront(nothing, nothing)
    front.add_route("/v1/messages", SimpleNamespace(ctx=SimpleNamespace()))

    def find(more: bytes = b"", length: int = 12) -> Any:
        return front.find_head(HEAD % (more, length) + b"x" * length)

    first = find()
    first.admission = first.facts = object()
    same = find()
    assert same.admission is None
    for name in ("headers", "facts", "templates", "path", "query", "route"):
        assert getattr(same, name) is getattr(first, name)
    # The next request of a connection may have another length.
    shorter = HEAD % (b"", 3) + b"abc"
    assert same.match(shorter) == (len(shorter) - 3, len(shorter), None)
    # Another length, and another value, are other heads.
    assert find(length=9).headers["content-length"] == "9"
    assert find(b"X-A: b\r\n").headers["x-a"] == "b"
    # Authentication removes such a header.
    assert find(b"X-LLB-A: b\r\n").headers is not find(b"X-LLB-A: b\r\n").headers
    # Nothing is kept of connections that have ended.
    del first
    same = find()
    assert find().headers is same.headers
    del same
    assert not len(front._heads)
