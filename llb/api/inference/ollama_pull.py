"""`ollama pull` of a model in the catalogue: it is registered as on the page, and how it arrives is told as Ollama tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from sanic import Request

from llb.api.audit_log import AuditLog
from llb.base.events import EventBus, Subscription, SubscriptionOverflow
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.errors import AlreadyRegistered
from llb.wire import Event, Model, ModelStatus, ModelStatusChanged

KEEPALIVE_INTERVAL_S = 15.0  # then something is said, so that no proxy on the way gives up
_PULLABLE_STATUSES = frozenset({ModelStatus.AVAILABLE, ModelStatus.ERROR})

PullStatus = dict[str, str | int]


class PullFollower:
    """Registers a model and follows it."""

    def __init__(
        self, view: ClusterView, event_bus: EventBus[Event], registrations: Registrations, audit_log: AuditLog
    ) -> None:
        self._view = view
        self._event_bus = event_bus
        self._registrations = registrations
        self._audit_log = audit_log

    async def start_pull(self, request: Request, model: Model) -> None:
        """Have the cluster hold `model`, if it does not yet. Raises as `Registrations.register`."""
        if self._view.status_of(model.id).status not in _PULLABLE_STATUSES:
            return
        async with self._audit_log.recording(request, "model.register", model.id):
            with suppress(AlreadyRegistered):  # somebody else was a moment sooner
                await self._registrations.register(
                    model.id, replicas="all", created_by=request.ctx.principal.label
                )

    async def follow(self, model: Model) -> AsyncIterator[PullStatus | None]:
        """How it goes, until it has ended well ("success") or not ("error"); None when nothing has happened for a while.
        Whoever stops listening does not stop the pull."""
        with self._event_bus.subscribe() as events:
            event: ModelStatusChanged | None = self._view.build_status_event(model.id)
            while True:
                line = None if event is None else self._pull_status(model, event)
                yield line
                if line is not None and ("error" in line or line["status"] == "success"):
                    return
                event = await self._next_status_event(events, model.id)

    async def _next_status_event(
        self, subscription: Subscription[Event], model_id: str
    ) -> ModelStatusChanged | None:
        try:
            async with asyncio.timeout(KEEPALIVE_INTERVAL_S):
                while True:
                    event = await subscription.get()
                    if isinstance(event, ModelStatusChanged) and event.model_id == model_id:
                        return event
        except TimeoutError:
            return None
        except SubscriptionOverflow:
            return self._view.build_status_event(model_id)

    def _pull_status(self, model: Model, event: ModelStatusChanged) -> PullStatus:
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
                return self._download_status(model, event)

    def _download_status(self, model: Model, event: ModelStatusChanged) -> PullStatus:
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
