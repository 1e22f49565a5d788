"""Audit log of API requests: what administrators did, and what was denied to others."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sanic import Request

from llb.accounts.audit_actor import audit_actor_of
from llb.base.tasks import TaskSupervisor
from llb.errors import LlbError, PermissionDenied
from llb.security.permissions import Principal
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditActor
from llb.wire import Scope

MAX_TARGET_CHARS = 200
DENIAL_INTERVAL_S = 60.0
MAX_TRACKED_DENIALS = 1000
_ADMINISTRATIVE_SCOPES = (Scope.ADMIN, Scope.MODELS_WRITE)


class AuditLog:
    """Records the actions of one request in the audit trail."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def recording(self, request: Request, action: str, target: str) -> AsyncIterator[None]:
        """Record `action` on `target` when the block ends, with the code of the `LlbError` that left it."""
        try:
            yield
        except LlbError as error:
            await self.record(request, action, target, error.code)
            raise
        await self.record(request, action, target)

    async def record(self, request: Request, action: str, target: str, result: str = "ok") -> None:
        """Record one completed action; the actor of a request without a credential is "nobody"."""
        principal: Principal | None = request.ctx.principal
        async with self._db.write(uses_ballast=True) as tx:
            await audit.record(
                tx,
                actor=audit_actor_of(principal),
                action=action,
                target=target[:MAX_TARGET_CHARS],
                address=request.ctx.client.address,
                result=result,
            )


class DeniedRequestAudit:
    """Records administrative requests that were denied to an authenticated principal.

    Each pair of principal and route is recorded once per `DENIAL_INTERVAL_S`.
    """

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._last_recorded_at: dict[tuple[str, str, str], float] = {}
        self._tasks = TaskSupervisor("denied-request-audit")

    async def close(self) -> None:
        """Stop writing; idempotent."""
        await self._tasks.close()

    def record_denial(self, request: Request, principal: Principal, scope: Scope) -> None:
        """Record that `principal` lacked `scope`; writes in the background."""
        if scope not in _ADMINISTRATIVE_SCOPES or request.route is None:
            return
        now = self._clock()
        key = (principal.id, request.method, request.route.path)
        if now - self._last_recorded_at.get(key, -math.inf) < DENIAL_INTERVAL_S:
            return
        if len(self._last_recorded_at) >= MAX_TRACKED_DENIALS:
            self._last_recorded_at.clear()
        self._last_recorded_at[key] = now
        target = f"{request.method} {request.path}"
        self._tasks.spawn(
            self._write_record(audit_actor_of(principal), target, request.ctx.client.address), "write-record"
        )

    async def _write_record(self, actor: AuditActor, target: str, address: str) -> None:
        async with self._db.write() as tx:
            await audit.record(
                tx,
                actor=actor,
                action="refused",
                target=target[:MAX_TARGET_CHARS],
                address=address,
                result=PermissionDenied.code,
                denied=True,
            )
