"""Audit log of API requests: what administrators did, and what was denied to others."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from llb.accounts.audit_actor import audit_actor_of
from llb.api.error_mapping import to_llb_error
from llb.api.incoming_request import IncomingRequest
from llb.base.tasks import TaskSupervisor
from llb.errors import PermissionDenied
from llb.security.permissions import Principal
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditActor
from llb.wire import Scope

log = logging.getLogger(__name__)

MAX_TARGET_CHARS = 200
# Result of an action that is under way, or was when the process ended.
UNFINISHED_RESULT = "begun"
# Actions that are possible on a full disk, because they empty it or shut out a node.
_BALLAST_ACTIONS = frozenset({"model.delete", "model.unload", "node.remove", "node.leave"})
DENIAL_INTERVAL_S = 60.0
MAX_TRACKED_DENIALS = 1000
_ADMINISTRATIVE_SCOPES = (Scope.ADMIN, Scope.MODELS_WRITE)


class AuditLog:
    """Records actions of requests in the audit trail."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tasks = TaskSupervisor("audit-log")

    @asynccontextmanager
    async def recording(self, request: IncomingRequest, action: str, target: str) -> AsyncIterator[None]:
        """Record `action` on `target` before the block, and its result when the block ends.

        The result is "ok", or the code of the error that left the block. If the action cannot be recorded,
        the block does not begin. Raises `sqlite3.Error`.
        """
        record_id = await self._add_record(request, action, target, UNFINISHED_RESULT)
        result = "ok"
        try:
            yield
        except BaseException as error:
            result = to_llb_error(error).code if isinstance(error, Exception) else "cancelled"
            raise
        finally:
            await self._tasks.run_shielded(self._store_result(record_id, action, result), "store-result")

    async def record(self, request: IncomingRequest, action: str, target: str) -> None:
        """Record one completed action; the action is not undone if that cannot be written now."""
        try:
            await self._add_record(request, action, target, "ok")
        except sqlite3.Error as error:
            log.error("%s of %s is not in the audit log: %s", action, target or "nothing", error)

    async def _store_result(self, record_id: int, action: str, result: str) -> None:
        try:
            async with self._db.write(uses_ballast=action in _BALLAST_ACTIONS) as tx:
                await audit.set_result(tx, record_id, result)
        except sqlite3.Error as error:
            log.error("the result of %s (%s) is not in the audit log: %s", action, result, error)

    async def _add_record(self, request: IncomingRequest, action: str, target: str, result: str) -> int:
        principal: Principal | None = request.ctx.principal
        async with self._db.write(uses_ballast=action in _BALLAST_ACTIONS) as tx:
            return await audit.record(
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

    def record_denial(self, request: IncomingRequest, principal: Principal, scope: Scope) -> None:
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
        try:
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
        except sqlite3.Error as error:
            log.warning("a denied request of %s is not in the audit log: %s", actor.label, error)
