"""Request and response of the front, in the shape that `AuthMiddleware`, handlers and sinks expect.

The requests of a connection have nearly the same head, so the results of parsing and authorising it are
reused.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl

from msgspec import Struct

from llb.accounts.authenticator import Authenticator
from llb.api.head_facts import REQUEST_ID_HEADER, HeadFacts, request_id_of
from llb.api.incoming_request import BegunAnswer, RequestHeaders
from llb.api.middleware.client_info import ClientInfo
from llb.api.responses import HeadTemplate, PassthroughResponse, ResponseHead, format_head
from llb.gateway.stream.keepalive import ClientPipe
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import OLLAMA_PORT_KEY_ID

# A larger body counts as a request of its key while it is read.
MAX_BODY_BYTES = 64 * 1024
# Maximum number of response heads: each node has one for documents and one for streams.
MAX_TEMPLATES = 16
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)")
_MAX_LENGTH_DIGITS = len(str(MAX_BODY_BYTES))
MAX_ID_CHARS = 64
# A valid id, as `head_facts` reads it.
_ID_LINE = re.compile(rb"(?i)\r\nx-request-id:[ \t]*([A-Za-z0-9._-]{1,64})[ \t]*(?=\r\n)")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_NO_COOKIES: Mapping[str, str] = MappingProxyType({})
_END_OF_CHUNKS = b"0\r\n\r\n"


class FrontConnection(Protocol):
    """Connection on which a request arrived."""

    @property
    def conn_info(self) -> Any: ...

    @property
    def transport(self) -> asyncio.Transport | None: ...

    @property
    def app(self) -> Any: ...

    def note_principal(self, principal: Any) -> None:
        """Note that a valid credential came over this connection."""
        ...

    async def write(self, data: bytes) -> None:
        """Write, at the pace of the client. Raises `CancelledError` once the connection has ended."""
        ...

    def write_now(self, data: bytes) -> None:
        """Write at once, whatever the pace of the client; no effect once the connection has ended."""
        ...

    def write_chunk(self, data: bytes) -> bool:
        """Write a chunk at once, which must not be empty.

        False if the client must catch up, or has gone: `wait_writable` tells which.
        """
        ...

    def write_frame(self, events: bytes, frame: bytes, is_single: bool) -> bool:
        """Like `write_chunk`, with a chunk that has its frame."""
        ...

    async def wait_writable(self) -> None:
        """Wait until the client can take more. Raises `CancelledError` once the connection has ended."""
        ...


class FrontRoute:
    """Route of Sanic, with the arguments that its path has at one address."""

    __slots__ = ("_arguments", "begin_direct", "route")

    def __init__(self, route: Any, arguments: Mapping[str, str]) -> None:
        self.route = route
        self._arguments = arguments
        # Begins to answer an ordinary request without a task; None for a route without that.
        self.begin_direct: Callable[[Any], BegunAnswer | None] | None = getattr(
            route.ctx, "begin_direct", None
        )

    async def answer(self, request: FrontRequest) -> Any:
        """Call the handler; returns a response to write, or None if it has written one."""
        return await self.route.handler(request, **self._arguments)


class Admission(Struct, frozen=True):
    """Result of the authorisation, reused for requests with the same head on the same connection."""

    client: ClientInfo
    credentials: tuple[str, ...]
    principal: Principal
    authenticator: Authenticator
    # Of the authenticator.
    generation: int
    # time.monotonic()
    expires_at: float

    @classmethod
    def of(cls, request: FrontRequest, authenticator: Authenticator) -> Admission | None:
        """Return the result of the authorisation; None if each request has to be examined.

        Only a key and a node are found by the head alone. Behind a trusted proxy the connection is that of
        many clients.
        """
        ctx = request.ctx
        principal: Principal | None = ctx.principal
        if (
            principal is None
            or principal.kind not in (PrincipalKind.KEY, PrincipalKind.NODE)
            or len(ctx.credentials) != 1
            or principal.must_change_password
            or principal.id == OLLAMA_PORT_KEY_ID
            or ctx.client.is_trusted_proxy
        ):
            return None
        # The credential of a node is compared each time.
        trusted_s = 0.0
        if principal.kind is PrincipalKind.KEY:
            trusted_s = authenticator.trusted_s(ctx.credentials[0])
        expires_at = time.monotonic() + trusted_s
        return cls(
            ctx.client, ctx.credentials, principal, authenticator, authenticator.generation, expires_at
        )

    def admit(self, request: FrontRequest) -> bool:
        """Reuse the result for another request; False where that one has to be examined."""
        if (
            self.generation != self.authenticator.generation or time.monotonic() >= self.expires_at
        ) and not self._is_still_node():
            return False
        ctx = request.ctx
        ctx.client, ctx.credentials, ctx.principal = self.client, self.credentials, self.principal
        return True

    def _is_still_node(self) -> bool:
        """Whether a node was admitted whose credential is still valid."""
        if self.principal.kind is not PrincipalKind.NODE:
            return False
        principal = self.authenticator.authenticate_node(self.credentials[0])
        return principal is not None and principal.id == self.principal.id


class KnownHead:
    """Head of a request. The next one of its connection usually differs in the length of the body only.

    Balancers and many proxies give each request an id of its own: it may differ, too.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_after_bytes",
        "_before",
        "_before_bytes",
        "_between",
        "_is_id_first",
        "_search_end",
        "admission",
        "facts",
        "headers",
        "path",
        "query",
        "route",
        "templates",
    )

    def __init__(
        self,
        raw: bytes,
        target: str,
        headers: RequestHeaders,
        route: FrontRoute,
    ) -> None:
        """`raw` ends with its empty line, and is valid."""
        length = _LENGTH.search(raw)
        # The parser has found one.
        assert length is not None  # noqa: S101
        # Between id and length; None for a head without an id.
        self._between: bytes | None = None
        self._is_id_first = False
        begin, end = length.span(1)
        if len(headers.getall(REQUEST_ID_HEADER, [])) == 1 and (line := _ID_LINE.search(raw)) is not None:
            self._is_id_first = line.start() < begin
            (begin, first_end), (second_begin, end) = sorted((length.span(1), line.span(1)))
            self._between = raw[first_end:second_begin]
            # That of this request only; `FrontContext` has that of each.
            headers.popall(REQUEST_ID_HEADER, None)
        self._before, self._after = raw[:begin], raw[end:]
        self._before_bytes, self._after_bytes = len(self._before), len(self._after)
        self._search_end = self._before_bytes + _MAX_LENGTH_DIGITS + self._after_bytes
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.route = route
        # None until a request has been authorised.
        self.admission: Admission | None = None
        self.facts: HeadFacts | None = None
        # Heads of responses, by everything they depend on except this head.
        self.templates: dict[Hashable, HeadTemplate] = {}

    def copy(self) -> KnownHead:
        """Return this head for another connection, without an admission."""
        head = KnownHead.__new__(KnownHead)
        head._before, head._after = self._before, self._after
        head._before_bytes, head._after_bytes = self._before_bytes, self._after_bytes
        head._search_end = self._search_end
        head._between, head._is_id_first = self._between, self._is_id_first
        head.path, head.query, head.headers, head.route = self.path, self.query, self.headers, self.route
        head.facts, head.templates = self.facts, self.templates
        head.admission = None
        return head

    def match(self, data: bytes) -> tuple[int, int, str | None] | None:
        """Return begin and end of the body of the request that `data` begins with, and the id in its head.

        None for another head.
        """
        if not data.startswith(self._before):
            return None
        if self._between is not None:
            return self._match_with_id(data, self._between)
        digits_end = data.find(self._after, self._before_bytes, self._search_end)
        if digits_end < 0:
            return None
        digits = data[self._before_bytes : digits_end]
        if not digits.isdigit():
            return None
        begin = digits_end + self._after_bytes
        end = begin + int(digits)
        return (begin, end, None) if end - begin <= MAX_BODY_BYTES else None

    def _match_with_id(self, data: bytes, between: bytes) -> tuple[int, int, str | None] | None:
        longest = MAX_ID_CHARS + len(between)
        first_end = data.find(between, self._before_bytes, self._before_bytes + longest)
        second_begin = first_end + len(between)
        second_end = data.find(self._after, second_begin, second_begin + MAX_ID_CHARS + self._after_bytes)
        if first_end < 0 or second_end < 0:
            return None
        request_id, digits = data[self._before_bytes : first_end], data[second_begin:second_end]
        if not self._is_id_first:
            request_id, digits = digits, request_id
        if not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS or not _ID.fullmatch(request_id):
            return None
        begin = second_end + self._after_bytes
        end = begin + int(digits)
        return (begin, end, request_id.decode("ascii")) if end - begin <= MAX_BODY_BYTES else None

    def add_template(self, key: Hashable, template: HeadTemplate) -> HeadTemplate:
        """Remember and return the head of the responses of a key."""
        if len(self.templates) >= MAX_TEMPLATES:
            self.templates.clear()
        self.templates[key] = template
        return template


class FrontContext:
    """Results of `AuthMiddleware` for the handler of a request."""

    __slots__ = ("client", "credentials", "facts", "principal", "request_id")

    client: ClientInfo
    credentials: tuple[str, ...]

    def __init__(self, facts: HeadFacts | None, request_id: str | None) -> None:
        self.principal: Any = None
        # Of the client, until there is one.
        self.request_id = request_id
        # None for the first request with this head.
        self.facts = facts


class FrontRequest:
    """Whole request, with its response."""

    __slots__ = ("_connection", "_finish_head", "body", "ctx", "head", "response")

    method = "POST"
    version = "1.1"
    cookies = _NO_COOKIES

    def __init__(
        self,
        connection: FrontConnection,
        head: KnownHead,
        body: bytes,
        finish_head: Callable[[FrontRequest, Any], None],
        request_id: str | None = None,
    ) -> None:
        """`finish_head` adds the headers that every response has. `request_id` is the one of the client."""
        self._connection = connection
        self._finish_head = finish_head
        self.head = head
        self.body = body
        self.ctx = FrontContext(head.facts, request_id)
        # None until the response has begun.
        self.response: FrontResponse | None = None

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def route(self) -> Any:
        return self.head.route.route

    @property
    def args(self) -> Mapping[str, str]:
        """Parameters of the query; the first of each name counts."""
        return dict(reversed(parse_qsl(self.head.query)))

    @property
    def query_string(self) -> str:
        return self.head.query

    @property
    def headers(self) -> RequestHeaders:
        return self.head.headers

    @property
    def conn_info(self) -> Any:
        return self._connection.conn_info

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._connection.transport

    @property
    def app(self) -> Any:
        return self._connection.app

    def note_admitted(self) -> None:
        """Count the connection as authenticated."""
        self._connection.note_principal(self.ctx.principal)

    async def respond(self, head: ResponseHead, /) -> FrontResponse:
        """Begin the response; its head is written with its first bytes."""
        return self.respond_now(head)

    def respond_now(self, head: ResponseHead, /) -> FrontResponse:
        """Like `respond`."""
        self._finish_head(self, head)
        self.response = FrontResponse(partial(format_head, head), self._connection)
        return self.response

    def respond_alike(self, key: Hashable, make_head: Callable[[], PassthroughResponse], /) -> FrontResponse:
        """Like `respond_now`, with a head that is the same for equal keys of requests with equal heads."""
        request_id = self.ctx.request_id or request_id_of(self)
        template = self._find_template(key, make_head, request_id)
        self.response = FrontResponse(partial(template.format, request_id), self._connection)
        return self.response

    def answer_alike(
        self, key: Hashable, make_head: Callable[[], PassthroughResponse], body: bytes, /
    ) -> None:
        """Write a whole response at once, with a head like that of `respond_alike`."""
        request_id = self.ctx.request_id or request_id_of(self)
        template = self.head.templates.get(key) or self._find_template(key, make_head, request_id)
        self.response = _COMPLETE
        self._connection.write_now(template.format(request_id, len(body)) + body)

    def _find_template(
        self, key: Hashable, make_head: Callable[[], PassthroughResponse], request_id: str
    ) -> HeadTemplate:
        template = self.head.templates.get(key)
        if template is None:
            head = make_head()
            self._finish_head(self, head)
            template = self.head.add_template(key, HeadTemplate(head, request_id))
        return template

    async def respond_whole(self, response: Any) -> None:
        """Write a response that has a body."""
        await (await self.respond(response)).send(response.body or b"", end_stream=True)


class FrontResponse:
    """Response that is sent in one piece with its length, or in chunks."""

    __slots__ = ("_connection", "_format_head", "is_complete")

    def __init__(self, format_head: Callable[[int | None], bytes], connection: FrontConnection) -> None:
        """`format_head` returns the head for a body of a length, or in chunks (None)."""
        # None once it is written.
        self._format_head: Callable[[int | None], bytes] | None = format_head
        self._connection = connection
        self.is_complete = False

    async def send(self, data: bytes, end_stream: bool = False) -> None:
        """Write some bytes; `end_stream` ends the response."""
        if frame := self._frame(data, end_stream):
            await self._connection.write(frame)

    def send_now(self, data: bytes, end_stream: bool = False) -> None:
        """Like `send`, whatever the pace of the client."""
        if frame := self._frame(data, end_stream):
            self._connection.write_now(frame)

    def _frame(self, data: bytes, end_stream: bool) -> bytes:
        """Frame some bytes of the body, with the head before the first ones."""
        format_head, self._format_head = self._format_head, None
        self.is_complete = end_stream
        if format_head is not None and end_stream:
            return format_head(len(data)) + data
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if format_head is not None:
            return format_head(None) + chunk
        return chunk + _END_OF_CHUNKS if end_stream else chunk

    def open_pipe(self) -> ClientPipe | None:
        """Return a pipe for the rest of a body in chunks, the connection; None before its first one."""
        return None if self._format_head is not None or self.is_complete else self._connection

    async def eof(self) -> None:
        """End the response."""
        await self.send(b"", end_stream=True)

    async def write_last(self, frame: bytes) -> None:
        """End a response in chunks that has begun, with bytes that are framed already."""
        self.is_complete = True
        await self._connection.write(frame)


class _CompleteResponse(FrontResponse):
    """Response that was written as a whole, of any request."""

    __slots__ = ()

    def __init__(self) -> None:
        self.is_complete = True

    def open_pipe(self) -> ClientPipe | None:
        return None


_COMPLETE = _CompleteResponse()
