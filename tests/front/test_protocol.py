"""The front: which requests it takes, and what its connections share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from llb.api.responses import json_response
from llb.errors import InvalidApiKey
from llb.front.protocol import MAX_HEAD_BYTES, InferenceFront
from llb.front.request import MAX_BODY_BYTES, FrontRequest
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Role
from tests.front.test_request import Connection

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


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/messages HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/elsewhere HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /v1/messages HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        # Incomplete, empty, of no length, too large.
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        HEAD % (b"X: %b\r\n" % (b"x" * MAX_HEAD_BYTES), 3) + b"abc",
        *(
            b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n%b\r\nContent-Length: 3\r\n\r\nabc" % line
            for line in (
                b"Expect: 100-continue",
                b"Cookie: a=b",
                b"Content-Encoding: gzip",
                b"Upgrade: x",
                b"Connection: close",
                b"Bad Name: x",
            )
        ),
    ],
)  # fmt: skip
def test_sanic_answers_all_others(data: bytes) -> None:
    nothing: Any = None
    front = InferenceFront(nothing, nothing)
    front.add_route("/v1/messages", SimpleNamespace(ctx=SimpleNamespace()))
    assert front.find_head(data) is None
    assert front.find_head(HEAD % (b"", 3) + b"abc") is not None


# --- admission and errors ----------------------------------------------------------------------------------


class Auth:
    """Admits every request by its key, until `revoke`; also the authenticator of that key."""

    generation = 0

    def __init__(self) -> None:
        self.authenticator = self
        self.is_revoked = False
        self.read = 0

    def revoke(self) -> None:
        self.is_revoked = True
        self.generation += 1

    async def on_request(self, request: Any) -> None:
        if self.is_revoked:
            raise InvalidApiKey("revoked")
        self.read += 1
        ctx = request.ctx
        ctx.client, ctx.credentials = SimpleNamespace(is_trusted_proxy=False), ("sk-1",)
        ctx.principal = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)

    def trusted_s(self, _key: str) -> float:
        return 3600.0

    def bind_log(self, _request: Any) -> None: ...

    def add_response_headers(self, _request: Any, _head: Any) -> None: ...


class Answering:
    """The front with one route, whose handler the test sets."""

    def __init__(self, handler: Any, begin_direct: Any = None) -> None:
        self.auth = Auth()
        self.connection = Connection()
        self.front = InferenceFront(cast(Any, self.auth), self._respond_to_error)
        context = SimpleNamespace(begin_direct=begin_direct)
        self.front.add_route("/v1/messages", SimpleNamespace(ctx=context, handler=handler))
        data = HEAD % (b"", 3) + b"abc"
        head = self.front.find_head(data)
        assert head is not None
        # What Sanic's middleware would note.
        head.facts = cast(Any, SimpleNamespace(trace_headers=()))
        self.head = head

    async def _respond_to_error(self, _request: Any, error: Exception) -> Any:
        return json_response({"error": str(error)}, status=418)

    def request(self) -> FrontRequest:
        return FrontRequest(self.connection, self.head, b"abc", self.front.finish_head)

    async def answer(self) -> bool | None:
        return await self.front.answer(self.request(), None, lambda _: False)

    @property
    def sent(self) -> bytes:
        return b"".join(self.connection.paced)


async def test_a_handler_returns_its_response_or_writes_it() -> None:
    async def returning(_request: Any) -> Any:
        return json_response({"a": 1})

    async def writing(request: Any) -> None:
        await (await request.respond(json_response({}))).send(b"{}", end_stream=True)

    for handler, body in ((returning, b'{"a":1}'), (writing, b"{}")):
        answering = Answering(handler)
        assert await answering.answer()
        assert answering.sent.endswith(b"\r\n\r\n" + body)


async def test_a_head_is_authorised_once_until_that_ends() -> None:
    async def handler(_request: Any) -> Any:
        return json_response({})

    answering = Answering(handler)
    for _ in range(3):
        assert await answering.answer()
    assert answering.auth.read == 1
    answering.auth.revoke()
    answering.connection.paced.clear()
    assert await answering.answer()
    assert answering.sent.startswith(b"HTTP/1.1 418")
    assert answering.head.admission is None


async def test_an_error_before_the_response_is_one_and_later_it_is_cut() -> None:
    async def failing(_request: Any) -> None:
        raise ZeroDivisionError("early")

    answering = Answering(failing)
    assert await answering.answer()
    assert b'{"error":"early"}' in answering.sent

    async def failing_late(request: Any) -> None:
        await (await request.respond(json_response({}))).send(b"{", end_stream=False)
        raise ZeroDivisionError("late")

    answering = Answering(failing_late)
    assert await answering.answer() is False
    assert b"late" not in answering.sent


async def test_a_response_without_an_end_is_incomplete() -> None:
    async def handler(request: Any) -> None:
        await (await request.respond(json_response({}))).send(b"{", end_stream=False)

    assert await Answering(handler).answer() is False

    async def silent(_request: Any) -> None: ...

    assert not await Answering(silent).answer()


async def test_callbacks_answer_admitted_heads_only() -> None:
    begun: list[Any] = []

    async def handler(_request: Any) -> Any:
        return json_response({})

    answering = Answering(handler, begin_direct=begun.append)
    request = answering.request()
    assert answering.front.begin(request) is None
    assert begun == []
    await answering.answer()
    # The route itself refuses it.
    assert answering.front.begin(request) is None
    assert begun[-1] is request
    count = len(begun)
    answering.auth.revoke()
    assert answering.front.begin(request) is None
    assert len(begun) == count


async def test_an_answer_that_was_begun_is_started_or_resumed() -> None:
    async def handler(_request: Any) -> Any:
        raise AssertionError("the answer was begun")

    resumed: list[bool] = []

    async def resume() -> None:
        resumed.append(True)

    begun = SimpleNamespace(resume=resume)
    for starts in (True, False):
        answering = Answering(handler, begin_direct=lambda _request: begun)
        request = answering.request()
        start = Mock(return_value=starts)
        result = await answering.front.answer(request, None, start)
        assert (result is None) is starts
        start.assert_called_once_with(begun)
    assert resumed == [True]
