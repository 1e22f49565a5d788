"""The audit trail, for admins."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Argument, Documented, up_to
from llb.api.replies import number_argument, reply
from llb.api.times import to_iso
from llb.auth import Principal
from llb.errors import LlbError, PermissionDenied
from llb.store import audit
from llb.store.audit import AuditRecord
from llb.store.database import Database
from llb.tasks import TaskGroup
from llb.wire import AuditEntry, AuditPage, Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_TARGET_CHARS = 200
MAX_ID = 2**63 - 1  # SQLite's integers end there
REFUSED_EVERY_S = 60.0
MAX_REFUSED = 1000  # remembered
_ADMINISTRATIVE = (Scope.ADMIN, Scope.MODELS_WRITE)


def audit_blueprint(db: Database) -> Blueprint:
    """`GET /api/audit?limit=&before=`."""
    blueprint = Blueprint("audit")

    @blueprint.get("/api/audit")
    @requires(Scope.ADMIN)
    @Documented(
        "Who did what",
        reply=AuditPage,
        arguments=(
            Argument("limit", up_to(MAX_LIMIT), f"How many; {DEFAULT_LIMIT} by default."),
            Argument("before", up_to(MAX_ID), "The `next_cursor` of the page before."),
        ),
    )
    async def list_audit(request: Request) -> HTTPResponse:
        limit = number_argument(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        records = await audit.newest(db, limit=limit, before_id=number_argument(request, "before", MAX_ID))
        return reply(
            AuditPage(
                entries=tuple(_view(record) for record in records),
                next_cursor=records[-1].id if len(records) == limit else None,
            )
        )

    return blueprint


def _view(record: AuditRecord) -> AuditEntry:
    return AuditEntry(
        id=record.id,
        time=to_iso(record.time),
        actor=record.actor,
        action=record.action,
        target=record.target,
        address=record.address,
        result=record.result,
    )


class Refusals:
    """Notes that somebody with a credential was refused what only others may do. The one place where others could fill the
    trail, so it is noted once a minute for each of them and route."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._noted: dict[tuple[str, str, str], float] = {}
        self._tasks = TaskGroup("refusals")

    async def close(self) -> None:
        """Idempotent."""
        await self._tasks.close()

    def refused(self, request: Request, principal: Principal, scope: Scope) -> None:
        """To be told by the guard; writes in the background."""
        if scope not in _ADMINISTRATIVE or request.route is None:
            return
        now = self._clock()
        what = (principal.id, request.method, request.route.path)
        if now - self._noted.get(what, -math.inf) < REFUSED_EVERY_S:
            return
        if len(self._noted) >= MAX_REFUSED:
            self._noted.clear()
        self._noted[what] = now
        self._tasks.supervise(
            self._note(principal.label, f"{request.method} {request.path}", request.ctx.peer.address), "note"
        )

    async def _note(self, actor: str, target: str, address: str) -> None:
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
    async def act(self, request: Request, action: str, target: str) -> AsyncIterator[None]:
        """Note who did `action` to `target`, from where, and how the block ended."""
        try:
            yield
        except LlbError as error:
            await self.note(request, action, target, error.code)
            raise
        await self.note(request, action, target)

    async def note(self, request: Request, action: str, target: str, result: str = "ok") -> None:
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
