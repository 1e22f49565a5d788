"""`/ws/models`: a snapshot, then every change, to any number of readers, none of which can hold up another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import msgspec
from msgspec import structs
from sanic import Request, Websocket
from websockets.exceptions import ConnectionClosed

from llb import __version__
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.base.events import EventBus, Subscription, SubscriptionOverflow
from llb.cluster.view import ClusterView
from llb.wire import Event, HelloEvent, ModelStatusChanged, Resync, Scope

MAX_QUEUED_EVENTS = 256  # messages that may wait for a slow reader
SEND_TIMEOUT_S = 30.0  # a reader that takes nothing for so long is cut off
_encoder = msgspec.json.Encoder()


class EventFeed:
    """Turns the bus into messages. Their `seq` grows over all readers, so it grows for each."""

    def __init__(self, event_bus: EventBus[Event], view: ClusterView) -> None:
        self._event_bus = event_bus
        self._view = view
        self._seq = itertools.count(1)

    async def serve_subscriber(self, socket: Websocket, *, status_only: bool) -> None:
        """Serve one reader until it goes away. `only_status`: model states alone, without their errors."""
        await self._send_message(socket, HelloEvent(seq=next(self._seq), version=__version__))
        while True:
            # Subscribed in the same turn of the loop as the snapshot: no event is missed, none comes twice.
            with self._event_bus.subscribe(MAX_QUEUED_EVENTS) as events:
                try:
                    await self._send_events(socket, events, status_only)
                except SubscriptionOverflow:
                    await self._send_message(socket, Resync(seq=next(self._seq)))

    async def _send_events(
        self, socket: Websocket, subscription: Subscription[Event], status_only: bool
    ) -> None:
        for event in self._snapshot():
            await self._send_event(socket, event, status_only)
        while True:
            await self._send_event(socket, await subscription.get(), status_only)

    def _snapshot(self) -> Iterator[Event]:
        """What is now. Made whole before the first await, so that nothing changes while it is made."""
        models = [
            self._view.build_status_event(model_id)
            for model_id, known in self._view.registrations.items()
            if known.active
        ]
        nodes = [self._view.build_node_event(node) for node in self._view.nodes.values()]
        metrics = [node.metrics for node in self._view.online_nodes() if node.metrics is not None]
        return iter([*models, *nodes, *metrics])

    async def _send_event(self, socket: Websocket, event: Event, status_only: bool) -> None:
        if status_only:
            if not isinstance(event, ModelStatusChanged):
                return
            event = structs.replace(event, error=None)
        await self._send_message(socket, structs.replace(event, seq=next(self._seq)))

    async def _send_message(self, socket: Websocket, message: msgspec.Struct) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send(_encoder.encode(message).decode())


def event_stream_blueprint(event_feed: EventFeed) -> Blueprint:
    """`/ws/models`."""
    blueprint = Blueprint("live")

    @requires_scope(Scope.MODELS_READ, or_local_program=True, unless_exposed=True)
    @ApiOperation(
        "Follow every change (WebSocket)",
        description=(
            "Begins with `Hello` and everything as it is, then tells what happens; after `Resync`, which a slow reader "
            "gets, everything comes again. What a reader says is ignored. A program of the host itself needs no "
            "credential while llb listens on loopback only, and hears `ModelStatusChanged` alone, without `error`."
        ),
        status=101,
        websocket_message=HelloEvent | Event | Resync,
    )
    async def models(request: Request, socket: Websocket) -> None:
        reading = asyncio.ensure_future(_discard_incoming(socket))
        following = asyncio.ensure_future(
            event_feed.serve_subscriber(socket, status_only=request.ctx.principal is None)
        )
        try:
            await asyncio.wait((reading, following), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, following):
                task.cancel()
            ends = await asyncio.gather(reading, following, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (ConnectionClosed, TimeoutError)):
                raise end

    blueprint.add_websocket_route(models, "/ws/models", name="models")
    return blueprint


async def _discard_incoming(socket: Websocket) -> None:
    """Take and ignore what a reader says; ends when it has gone."""
    try:
        while await socket.recv() is not None:
            pass
    except ConnectionClosed:
        pass
