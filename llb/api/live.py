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
from llb.api.access import requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.cluster.view import ClusterView
from llb.events import Bus, Overflow, Subscription
from llb.wire import Event, HelloEvent, ModelStatusChanged, Resync, Scope

LIMIT = 256  # messages that may wait for a slow reader
SEND_TIMEOUT_S = 30.0  # a reader that takes nothing for so long is cut off
_encoder = msgspec.json.Encoder()


class LiveFeed:
    """Turns the bus into messages. Their `seq` grows over all readers, so it grows for each."""

    def __init__(self, bus: Bus[Event], view: ClusterView) -> None:
        self._bus = bus
        self._view = view
        self._seq = itertools.count(1)

    async def follow(self, socket: Websocket, *, only_status: bool) -> None:
        """Serve one reader until it goes away. `only_status`: model states alone, without their errors."""
        await self._send(socket, HelloEvent(seq=next(self._seq), version=__version__))
        while True:
            # Subscribed in the same turn of the loop as the snapshot: no event is missed, none comes twice.
            with self._bus.subscribe(LIMIT) as events:
                try:
                    await self._run(socket, events, only_status)
                except Overflow:
                    await self._send(socket, Resync(seq=next(self._seq)))

    async def _run(self, socket: Websocket, events: Subscription[Event], only_status: bool) -> None:
        for event in self._snapshot():
            await self._tell(socket, event, only_status)
        while True:
            await self._tell(socket, await events.get(), only_status)

    def _snapshot(self) -> Iterator[Event]:
        """What is now. Made whole before the first await, so that nothing changes while it is made."""
        models = [
            self._view.status_event(model_id)
            for model_id, known in self._view.registrations.items()
            if known.active
        ]
        nodes = [self._view.node_event(node) for node in self._view.nodes.values()]
        metrics = [node.metrics for node in self._view.online() if node.metrics is not None]
        return iter([*models, *nodes, *metrics])

    async def _tell(self, socket: Websocket, event: Event, only_status: bool) -> None:
        if only_status:
            if not isinstance(event, ModelStatusChanged):
                return
            event = structs.replace(event, error=None)
        await self._send(socket, structs.replace(event, seq=next(self._seq)))

    async def _send(self, socket: Websocket, message: msgspec.Struct) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send(_encoder.encode(message).decode())


def live_blueprint(feed: LiveFeed) -> Blueprint:
    """`/ws/models`."""
    blueprint = Blueprint("live")

    @requires(Scope.MODELS_READ, or_local=True, unless_exposed=True)
    @Documented(
        "Follow every change (WebSocket)",
        text=(
            "Begins with `Hello` and everything as it is, then tells what happens; after `Resync`, which a slow reader "
            "gets, everything comes again. What a reader says is ignored. A program of the host itself needs no "
            "credential while llb listens on loopback only, and hears `ModelStatusChanged` alone, without `error`."
        ),
        status=101,
        messages=HelloEvent | Event | Resync,
    )
    async def models(request: Request, socket: Websocket) -> None:
        reading = asyncio.ensure_future(_read(socket))
        following = asyncio.ensure_future(feed.follow(socket, only_status=request.ctx.principal is None))
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


async def _read(socket: Websocket) -> None:
    """Take and ignore what a reader says; ends when it has gone."""
    try:
        while await socket.recv() is not None:
            pass
    except ConnectionClosed:
        pass
