"""Connections that a node dials so that its balancer can send requests over them: HTTP/1.1 with the roles of dialling exchanged.

    node                                            balancer
    GET /hop/dial, Upgrade: llb-hop, Bearer …  ──▶
                                               ◀──  101 Switching Protocols
                                               ◀──  POST /hop/v1/chat/completions …   and from here on as ever
    200 OK …                                   ──▶

Nothing but the sockets' owners changes: at one end Sanic's protocol gives its transport to the upstream client, at the other
one of Sanic's takes over a transport that it has not accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from sanic import Request, Sanic
from sanic.http import Stage
from sanic.response import HTTPResponse
from sanic.server.protocols.http_protocol import HttpProtocol

from llb import errors
from llb.api.access import node_only
from llb.api.blueprint import Blueprint
from llb.cluster.spares import SWITCHED, UPGRADE

TakeOver = Callable[[asyncio.Transport], None]


class Dialled(Protocol):
    """Who takes what a node has dialled."""

    def expects(self, node_id: str) -> bool: ...

    def dialled(self, node_id: str, transport: asyncio.Transport) -> None: ...


def reverse_blueprint(reach: Dialled) -> Blueprint:
    """`/hop/dial`, at the balancer."""
    blueprint = Blueprint("reverse")

    @blueprint.get("/hop/dial", name="dial")
    @node_only
    async def dial(request: Request) -> HTTPResponse:
        node_id = request.ctx.principal.id
        if request.headers.get("upgrade") != UPGRADE:
            raise errors.InvalidRequest(f"This is for a connection that becomes {UPGRADE}")
        if not reach.expects(node_id):
            raise errors.Conflict("A node connects its link first")
        return _HandedOver(lambda transport: reach.dialled(node_id, transport))

    return blueprint


class _HandedOver(HTTPResponse):
    """Switches protocols: afterwards Sanic neither reads, writes nor closes the connection."""

    __slots__ = ("_take_over",)

    def __init__(self, take_over: TakeOver) -> None:
        super().__init__(status=101)
        self._take_over = take_over

    async def send(self, *_args: Any, **_kwargs: Any) -> None:
        stream = cast(Any, self.stream)
        protocol = stream.protocol
        transport = protocol.transport
        stream.keep_alive = False  # its loop ends, finds that it has answered,
        stream.stage = Stage.IDLE
        protocol.connections.discard(protocol)
        protocol.transport = None  # and has nothing that it could close
        transport.write(SWITCHED)
        self._take_over(transport)


class DialledProtocol(HttpProtocol):
    """Serves a connection that this node has dialled. `stirred` is called when it is asked something, and at its end."""

    __slots__ = ("_stirred",)

    def __init__(self, app: Sanic[Any, Any], stirred: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop(), app=app)
        self._stirred = stirred

    @property
    def idle(self) -> bool:
        """Whether it is ready for a request."""
        return not self.recv_buffer and (self.http is None or self.http.stage is Stage.IDLE)

    @property
    def ended(self) -> bool:
        return self.conn_info is not None and self.conn_info.lost

    def data_received(self, data: bytes) -> None:
        was_idle = self.idle
        super().data_received(data)
        if was_idle:
            self._stirred()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[no-untyped-call]
        self._stirred()
