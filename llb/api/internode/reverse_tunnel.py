"""Reverse tunnels: connections that a node dials so that its balancer can send HTTP/1.1 requests over them.

    node                                            balancer
    GET /hop/dial, Upgrade: llb-hop, Bearer …  ──▶
                                               ◀──  101 Switching Protocols
                                               ◀──  POST /hop/v1/chat/completions …   from here on as usual
    200 OK …                                   ──▶

Only the owners of the sockets change. At the balancer, Sanic's protocol hands its transport to the HTTP
client. At the node, a protocol of Sanic takes over a transport that it has not accepted.
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
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import node_only
from llb.cluster.join.tunnel_pool import SWITCHING_PROTOCOLS_RESPONSE, TUNNEL_PROTOCOL

TransportHandler = Callable[[asyncio.Transport], None]


class TunnelAcceptor(Protocol):
    """Receives the connections that nodes have dialled."""

    def expects_tunnel(self, node_id: str) -> bool: ...

    def accept_tunnel(self, node_id: str, transport: asyncio.Transport) -> None: ...


def reverse_tunnel_blueprint(acceptor: TunnelAcceptor) -> Blueprint:
    """Route `/hop/dial` of the balancer."""
    blueprint = Blueprint("reverse")

    @blueprint.get("/hop/dial", name="dial")
    @node_only
    async def dial(request: Request) -> HTTPResponse:
        node_id = request.ctx.principal.id
        if request.headers.get("upgrade") != TUNNEL_PROTOCOL:
            raise errors.InvalidRequest(f"This route needs 'Upgrade: {TUNNEL_PROTOCOL}'")
        if not acceptor.expects_tunnel(node_id):
            raise errors.Conflict("The link of this node is not connected, so it cannot dial tunnels")
        return _SwitchProtocolsResponse(lambda transport: acceptor.accept_tunnel(node_id, transport))

    return blueprint


class _SwitchProtocolsResponse(HTTPResponse):
    """Response that takes the connection away from Sanic, which then neither reads, writes nor closes it."""

    __slots__ = ("_on_switched",)

    def __init__(self, on_switched: TransportHandler) -> None:
        super().__init__(status=101)
        self._on_switched = on_switched

    async def send(self, *_args: Any, **_kwargs: Any) -> None:
        stream = cast(Any, self.stream)
        protocol = stream.protocol
        transport = protocol.transport
        # Sanic's connection loop ends and finds that it has responded.
        stream.keep_alive = False
        stream.stage = Stage.IDLE
        protocol.connections.discard(protocol)
        # A protocol without a transport has nothing to close.
        protocol.transport = None
        transport.write(SWITCHING_PROTOCOLS_RESPONSE)
        self._on_switched(transport)


class TunnelProtocol(HttpProtocol):
    """Serves a connection that this node has dialled; calls `on_activity` for each request and at its end."""

    __slots__ = ("_on_activity",)

    def __init__(self, app: Sanic[Any, Any], on_activity: Callable[[], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop(), app=app)
        self._on_activity = on_activity

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return not self.recv_buffer and (self.http is None or self.http.stage is Stage.IDLE)

    @property
    def is_closed(self) -> bool:
        return self.conn_info is not None and self.conn_info.lost

    def data_received(self, data: bytes) -> None:
        was_idle = self.is_idle
        super().data_received(data)
        if was_idle:
            self._on_activity()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[no-untyped-call]
        self._on_activity()
