"""Audit trail route, for administrators."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.query_params import MAX_ROW_ID, int_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import json_response
from llb.base.timestamps import to_iso
from llb.store.database import Database
from llb.store.tables import audit
from llb.store.tables.audit import AuditRecord
from llb.wire import AuditEntry, AuditPage, Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


def audit_blueprint(db: Database) -> Blueprint:
    """`/api/audit`."""
    blueprint = Blueprint("audit")

    @blueprint.get("/api/audit")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "List the audit trail",
        description="Newest first.",
        response=AuditPage,
        parameters=(
            RequestParameter(
                "limit", positive_int_up_to(MAX_LIMIT), f"Entries of a page; {DEFAULT_LIMIT} by default."
            ),
            RequestParameter(
                "before", positive_int_up_to(MAX_ROW_ID), "The `next_cursor` of the previous page."
            ),
        ),
    )
    async def list_audit(request: Request) -> HTTPResponse:
        limit = int_query_param(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        records = await audit.list_newest(
            db.reports, limit=limit, before_id=int_query_param(request, "before", MAX_ROW_ID)
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
