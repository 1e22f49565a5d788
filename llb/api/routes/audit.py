"""The audit trail, for admins."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import int_query_param, json_response
from llb.base.tasks import TaskSupervisor
from llb.base.timestamps import to_iso
from llb.errors import LlbError, PermissionDenied
from llb.security.permissions import Principal
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditRecord
from llb.wire import AuditEntry, AuditPage, Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_TARGET_CHARS = 200
MAX_ROW_ID = 2**63 - 1  # SQLite's integers end there
DENIAL_INTERVAL_S = 60.0
MAX_TRACKED_DENIALS = 1000  # remembered
_ADMINISTRATIVE_SCOPES = (Scope.ADMIN, Scope.MODELS_WRITE)


def audit_blueprint(db: Database) -> Blueprint:
    """`GET /api/audit?limit=&before=`."""
    blueprint = Blueprint("audit")

    @blueprint.get("/api/audit")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Who did what",
        response=AuditPage,
        parameters=(
            RequestParameter(
                "limit", positive_int_up_to(MAX_LIMIT), f"How many; {DEFAULT_LIMIT} by default."
            ),
            RequestParameter(
                "before", positive_int_up_to(MAX_ROW_ID), "The `next_cursor` of the page before."
            ),
        ),
    )
    async def list_audit(request: Request) -> HTTPResponse:
        limit = int_query_param(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        records = await audit.newest(
            db, limit=limit, before_id=int_query_param(request, "before", MAX_ROW_ID)
        )
        return json_response(
            AuditPage(
                entries=tuple(_audit_entry(record) for record in records),
                next_cursor=records[-1].id if len(records) == limit else None,
            )
        )

    return blueprint


def _audit_entry(record: AuditRecord) -> AuditEntry:
    return AuditEntry(
        id=record.id,
        time=to_iso(record.time),
        actor=record.actor,
        action=record.action,
        target=record.target,
        address=record.address,
        result=record.result,
    )


class DeniedRequestAudit:
    """Notes that somebody with a credential was refused what only others may do. The one place where others could fill the
    trail, so it is noted once a minute for each of them and route."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._last_recorded_at: dict[tuple[str, str, str], float] = {}
        self._tasks = TaskSupervisor("refusals")

    async def close(self) -> None:
        """Idempotent."""
        await self._tasks.close()

    def record_denial(self, request: Request, principal: Principal, scope: Scope) -> None:
        """To be told by the guard; writes in the background."""
        if scope not in _ADMINISTRATIVE_SCOPES or request.route is None:
            return
        now = self._clock()
        what = (principal.id, request.method, request.route.path)
        if now - self._last_recorded_at.get(what, -math.inf) < DENIAL_INTERVAL_S:
            return
        if len(self._last_recorded_at) >= MAX_TRACKED_DENIALS:
            self._last_recorded_at.clear()
        self._last_recorded_at[what] = now
        self._tasks.spawn(
            self._write_record(principal.label, f"{request.method} {request.path}", request.ctx.peer.address),
            "note",
        )

    async def _write_record(self, actor: str, target: str, address: str) -> None:
        async with self._db.write() as tx:
            await audit.record(
                tx,
                actor=actor,
                action="refused",
                target=target[:MAX_TARGET_CHARS],
                address=address,
                result=PermissionDenied.code,
            )


class AuditLog:
    """Notes the acts of other resources."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def recording(self, request: Request, action: str, target: str) -> AsyncIterator[None]:
        """Note who did `action` to `target`, from where, and how the block ended."""
        try:
            yield
        except LlbError as error:
            await self.record(request, action, target, error.code)
            raise
        await self.record(request, action, target)

    async def record(self, request: Request, action: str, target: str, result: str = "ok") -> None:
        """Note one act, after it was done; without a credential nobody in particular did it."""
        principal = request.ctx.principal
        async with self._db.write() as tx:
            await audit.record(
                tx,
                actor="nobody" if principal is None else principal.label,
                action=action,
                target=target[:MAX_TARGET_CHARS],
                address=request.ctx.peer.address,
                result=result,
            )
