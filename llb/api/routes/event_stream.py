"""Event stream: a snapshot and then every change, over WebSocket; a slow subscriber delays no other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import structs
from sanic import Request, Websocket
from websockets.exceptions import ConnectionClosed

from llb import __version__
from llb.accounts.principal_watch import PrincipalWatch
from llb.api.blueprint import Blueprint
from llb.api.connection.websocket import websocket_bounds
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.responses import abort_connection
from llb.base.events import EventBus, Subscription, SubscriptionOverflow
from llb.cluster.view import ClusterView
from llb.security.permissions import Principal, PrincipalKind
from llb.texts.coded_text import encode_plain
from llb.wire import AnswersRunning, Event, HelloEvent, ModelStatusChanged, Resync, Scope

# Events queued for one slow subscriber; beyond that it gets a new snapshot.
MAX_QUEUED_EVENTS = 256
# A subscriber that receives nothing for this long is disconnected.
SEND_TIMEOUT_S = 30.0
# Messages of subscribers are ignored, but some programs send a text to keep the connection alive.
MAX_MESSAGE_BYTES, MAX_FRAMES_PER_MINUTE = 1024, 120
CLOSE_TIMEOUT_S = 5.0
# RFC 6455, section 7.4.1
POLICY_VIOLATION = 1008
_encoder = msgspec.json.Encoder(enc_hook=encode_plain)


class EventFeed:
    """Sends the events of the bus to subscribers.

    One counter numbers the messages of all subscribers, so `seq` grows for each of them.
    """

    def __init__(
        self,
        event_bus: EventBus[Event],
        view: ClusterView,
        list_endpoint_events: Callable[[], Sequence[Event]],
        answers_of: Callable[[str], AnswersRunning],
    ) -> None:
        self._list_endpoint_events = list_endpoint_events
        self._answers_of = answers_of
        self._event_bus = event_bus
        self._view = view
        self._seq = itertools.count(1)

    async def serve_subscriber(self, socket: Websocket, principal: Principal | None) -> None:
        """Serve one subscriber until it disconnects; without a `principal`, model states without errors."""
        await self._send_message(socket, HelloEvent(seq=next(self._seq), version=__version__))
        while True:
            # The snapshot follows in the same turn of the event loop: no event is missed or sent twice.
            with self._event_bus.subscribe(MAX_QUEUED_EVENTS) as events:
                try:
                    await self._send_events(socket, events, principal)
                except SubscriptionOverflow:
                    await self._send_message(socket, Resync(seq=next(self._seq)))

    async def _send_events(
        self, socket: Websocket, subscription: Subscription[Event], principal: Principal | None
    ) -> None:
        for event in self._snapshot(principal):
            await self._send_event(socket, event, principal)
        while True:
            await self._send_event(socket, await subscription.get(), principal)

    def _snapshot(self, principal: Principal | None) -> Iterator[Event]:
        """Return the current state; built without an await, so that nothing changes meanwhile."""
        models = [
            self._view.build_status_event(model_id)
            for model_id, registration in self._view.registrations.items()
            if registration.is_active
        ]
        nodes = [self._view.build_node_event(node) for node in self._view.nodes.values()]
        metrics = [node.metrics for node in self._view.online_nodes() if node.metrics is not None]
        user_id = _user_of_session(principal)
        answers = [] if user_id is None else [self._answers_of(user_id)]
        return iter([*models, *nodes, *metrics, *self._list_endpoint_events(), *answers])

    async def _send_event(self, socket: Websocket, event: Event, principal: Principal | None) -> None:
        if isinstance(event, AnswersRunning) and event.user_id != _user_of_session(principal):
            return
        if principal is None:
            if not isinstance(event, ModelStatusChanged):
                return
            event = structs.replace(event, error=None, error_code=None)
        await self._send_message(socket, structs.replace(event, seq=next(self._seq)))

    async def _send_message(self, socket: Websocket, message: msgspec.Struct) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send(_encoder.encode(message).decode())


def _user_of_session(principal: Principal | None) -> str | None:
    """Return the user whose page listens. Programs with a key have no use for what the Playground does."""
    if principal is None or principal.kind is not PrincipalKind.SESSION:
        return None
    return principal.user_id


def event_stream_blueprint(event_feed: EventFeed, principal_watch: PrincipalWatch) -> Blueprint:
    """`/ws/models`."""
    blueprint = Blueprint("live")

    @requires_scope(Scope.MODELS_READ, or_local_program=True, unless_exposed=True)
    @ApiOperation(
        "Follow every change (WebSocket)",
        description=(
            "Starts with `Hello` and a snapshot, then sends every change. A slow subscriber gets `Resync` "
            "and a new snapshot. Messages of the subscriber are ignored, up to 120 a minute of at most 1024 "
            "bytes; more end the connection (1008, 1009). While llb listens on loopback only, "
            "a program of this host needs no credential, and then gets only `ModelStatusChanged`, without "
            "`error`."
        ),
        status=101,
        websocket_message=HelloEvent | Event | Resync,
    )
    @websocket_bounds(MAX_MESSAGE_BYTES, frames_per_minute=MAX_FRAMES_PER_MINUTE)
    async def models(request: Request, socket: Websocket) -> None:
        with principal_watch.open(request.ctx.principal) as work:
            await work.run_until_ended(_serve(request, socket))
        if work.error is not None:
            await _close_socket(request, socket, work.error.message)

    async def _serve(request: Request, socket: Websocket) -> None:
        """Serve a subscriber until it disconnects."""
        receiver = asyncio.ensure_future(_discard_incoming(socket))
        sender = asyncio.ensure_future(event_feed.serve_subscriber(socket, request.ctx.principal))
        try:
            await asyncio.wait((receiver, sender), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiver, sender):
                task.cancel()
            results = await asyncio.gather(receiver, sender, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (ConnectionClosed, TimeoutError)):
                raise result

    blueprint.add_websocket_route(models, "/ws/models", name="models")
    return blueprint


async def _close_socket(request: Request, socket: Websocket, reason: str) -> None:
    """Close the socket of a subscriber that may not listen any more, even if it reads nothing."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close(POLICY_VIOLATION, reason)
    except (ConnectionClosed, TimeoutError):
        abort_connection(request)


async def _discard_incoming(socket: Websocket) -> None:
    """Discard what the subscriber sends; return when it has disconnected."""
    try:
        while await socket.recv() is not None:
            pass
    except ConnectionClosed:
        pass
