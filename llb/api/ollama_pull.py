"""`ollama pull` of a model in the catalogue: it is registered as on the page, and how it arrives is told as Ollama tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from sanic import Request

from llb.api.audit import AuditLog
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.errors import AlreadyRegistered
from llb.events import Bus, Overflow, Subscription
from llb.wire import Event, Model, ModelStatus, ModelStatusChanged

QUIET_S = 15.0  # then something is said, so that no proxy on the way gives up
_TO_BE_REGISTERED = frozenset({ModelStatus.AVAILABLE, ModelStatus.ERROR})

Line = dict[str, str | int]


class Puller:
    """Registers a model and follows it."""

    def __init__(
        self, view: ClusterView, bus: Bus[Event], registrations: Registrations, audit: AuditLog
    ) -> None:
        self._view = view
        self._bus = bus
        self._registrations = registrations
        self._audit = audit

    async def begin(self, request: Request, model: Model) -> None:
        """Have the cluster hold `model`, if it does not yet. Raises as `Registrations.register`."""
        if self._view.derived(model.id).status not in _TO_BE_REGISTERED:
            return
        async with self._audit.act(request, "model.register", model.id):
            with suppress(AlreadyRegistered):  # somebody else was a moment sooner
                await self._registrations.register(model.id, replicas="all", by=request.ctx.principal.label)

    async def follow(self, model: Model) -> AsyncIterator[Line | None]:
        """How it goes, until it has ended well ("success") or not ("error"); None when nothing has happened for a while.
        Whoever stops listening does not stop the pull."""
        with self._bus.subscribe() as events:
            event: ModelStatusChanged | None = self._view.status_event(model.id)
            while True:
                line = None if event is None else self._line(model, event)
                yield line
                if line is not None and ("error" in line or line["status"] == "success"):
                    return
                event = await self._next(events, model.id)

    async def _next(self, events: Subscription[Event], model_id: str) -> ModelStatusChanged | None:
        try:
            async with asyncio.timeout(QUIET_S):
                while True:
                    event = await events.get()
                    if isinstance(event, ModelStatusChanged) and event.model_id == model_id:
                        return event
        except TimeoutError:
            return None
        except Overflow:
            return self._view.status_event(model_id)

    def _line(self, model: Model, event: ModelStatusChanged) -> Line:
        match event.status:
            case ModelStatus.READY:
                return {"status": "success"}
            case ModelStatus.ERROR:
                return {"error": f"Model '{model.id}' could not be pulled: {event.error}"}
            case ModelStatus.AVAILABLE:
                return {"error": f"The pull of model '{model.id}' was cancelled"}
            case ModelStatus.REGISTERED:
                return {"status": event.error or "pulling manifest"}
            case ModelStatus.DOWNLOADING:
                return self._progress(model, event)

    def _progress(self, model: Model, event: ModelStatusChanged) -> Line:
        """The files of a model count as one layer, called by its first one."""
        registration = self._view.registrations.get(model.id)
        files = registration.resolved if registration is not None else None
        digest = files[0].sha256 if files else ""
        return {
            "status": event.error or f"pulling {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": event.total_bytes or model.size_bytes,
            "completed": event.downloaded_bytes or 0,
        }
