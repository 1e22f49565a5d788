"""Incoming request: what `AuthMiddleware`, handlers and sinks see of a request, through Sanic or the front.

Two classes have this shape: the request of Sanic, and the one of the front (`llb.front.request`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, overload

D = TypeVar("D")


class RequestHeaders(Protocol):
    """Headers of a request; names are found in any case."""

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, default: D, /) -> str | D: ...

    def getall(self, name: str, default: D, /) -> list[str] | D: ...

    def popall(self, name: str, default: D, /) -> list[str] | D: ...

    def __getitem__(self, name: str, /) -> str: ...

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class ResponseWriter(Protocol):
    """Response that has a head, and is sent in pieces."""

    async def send(self, data: bytes, end_stream: bool) -> None: ...


class IncomingRequest(Protocol):
    """Request of a client: head, connection and body."""

    body: bytes

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def version(self) -> str:
        """ "1.0" or "1.1"."""
        ...

    @property
    def headers(self) -> RequestHeaders: ...

    @property
    def cookies(self) -> Mapping[str, str]: ...

    @property
    def route(self) -> Any:
        """Route of Sanic's router; its `ctx.policy` says who may call it."""
        ...

    @property
    def conn_info(self) -> Any:
        """Addresses of the connection; `ctx` lasts as long as the connection."""
        ...

    @property
    def ctx(self) -> Any:
        """Results of `AuthMiddleware` for the handler: `client`, `credentials`, `principal`."""
        ...

    @property
    def transport(self) -> Any: ...

    @property
    def app(self) -> Any: ...

    def respond(self, head: Any, /) -> Awaitable[Any]:
        """Begin the response; returns a `ResponseWriter`."""
        ...


class DirectWriter(ResponseWriter, Protocol):
    """Response that accepts writes without a wait."""

    def send_now(self, data: bytes, end_stream: bool) -> None:
        """Write at once, even if the client is slow."""
        ...

    def open_pipe(self) -> Any:
        """Return a pipe for the rest of a body in chunks; None before its first one."""
        ...


class DirectRequest(IncomingRequest, Protocol):
    """Request whose response can begin without a wait."""

    @property
    def query_string(self) -> str: ...

    def respond_now(self, head: Any, /) -> DirectWriter:
        """Begin the response."""
        ...

    def answer_alike(self, key: Hashable, make_head: Callable[[], Any], body: bytes, /) -> None:
        """Write a whole response at once, with a head like that of `respond_alike`."""
        ...

    def respond_alike(self, key: Hashable, make_head: Callable[[], Any], /) -> DirectWriter:
        """Like `respond_now`, with a head that is the same for equal keys of requests with equal heads."""
        ...


class BegunListener(Protocol):
    """Owner of an answer that was begun without a task. Exactly one of the two methods is called, once."""

    def end_directly(self) -> None:
        """The client has the whole answer from callbacks."""
        ...

    def take_over(self) -> None:
        """A task has to continue, with `BegunAnswer.resume`."""
        ...


class BegunAnswer(Protocol):
    """Answer that was begun without a task: callbacks end it, or a task does with `resume`."""

    def start(self, listener: BegunListener) -> bool:
        """Let callbacks answer; False if `resume` has to."""
        ...

    def interrupt(self) -> None:
        """The client has left."""
        ...

    async def resume(self) -> None:
        """Complete the answer."""
        ...
