"""Pulls in Ollama's dialect: registration of a model, and its download progress as Ollama reports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from sanic import Request

from llb.accounts.principal_watch import PrincipalWatch
from llb.api.audit_log import AuditLog
from llb.api.inference.ollama_models import model_digest
from llb.base.events import EventBus, Subscription, SubscriptionOverflow
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.errors import AlreadyRegistered
from llb.security.permissions import Principal
from llb.wire import Event, Model, ModelStatus, ModelStatusChanged

# Below the idle timeouts of common proxies.
KEEPALIVE_INTERVAL_S = 15.0
_PULLABLE_STATUSES = frozenset({ModelStatus.AVAILABLE, ModelStatus.ERROR})

PullStatus = dict[str, str | int]


class PullFollower:
    """Registers models and follows their downloads."""

    def __init__(
        self,
        view: ClusterView,
        event_bus: EventBus[Event],
        registrations: Registrations,
        audit_log: AuditLog,
        principal_watch: PrincipalWatch,
    ) -> None:
        self._view = view
        self._event_bus = event_bus
        self._registrations = registrations
        self._audit_log = audit_log
        self._principal_watch = principal_watch

    async def start_pull(self, request: Request, model: Model) -> None:
        """Register `model` unless it is registered; raises the errors of `Registrations.register`."""
        if self._view.status_of(model.id).status not in _PULLABLE_STATUSES:
            return
        async with self._audit_log.recording(request, "model.register", model.id):
            # Another client may have registered it since the check.
            with suppress(AlreadyRegistered):
                await self._registrations.register(
                    model.id, replicas="all", created_by=request.ctx.principal.label
                )

    async def follow(self, model: Model, principal: Principal) -> AsyncIterator[PullStatus | None]:
        """Yield the progress of a pull, up to a status "success" or an "error".

        The end of `principal` is an error of the request, not of the pull.

        Yields None as a keep-alive after `KEEPALIVE_INTERVAL_S` without progress. Closing the iterator does
        not stop the pull.
        """
        with self._event_bus.subscribe() as events, self._principal_watch.open(principal) as work:
            event: ModelStatusChanged | None = self._view.build_status_event(model.id)
            while True:
                status = None if event is None else self._pull_status(model, event)
                yield status
                if status is not None and ("error" in status or status["status"] == "success"):
                    return
                event = await work.run_until_ended(self._next_status_event(events, model.id))
                if work.error is not None:
                    yield {"error": work.error.message}
                    return

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
        # All files of a model are reported as one layer with the digest of the first.
        digest = model_digest(self._view, model.id)
        return {
            "status": event.error or f"pulling {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": event.total_bytes or model.size_bytes,
            "completed": event.downloaded_bytes or 0,
        }
