"""Request log routes: the history of inference requests, and usage totals."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from enum import StrEnum
from typing import Any

from msgspec.structs import asdict
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.audit_actor import audit_actor_of
from llb.api.blueprint import Blueprint
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import authenticated, requires_scope
from llb.api.query_params import MAX_ROW_ID, enum_query_param, int_query_param, time_query_param
from llb.api.reference.operation import DATE_TIME, ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.cluster.view import ClusterView
from llb.errors import NotFound
from llb.gateway.observability.chart_history import SAMPLE_INTERVAL_S, ChartHistory
from llb.gateway.observability.request_log import RequestLog
from llb.security.permissions import Principal, has_scope, scopes_of_role
from llb.store.database import Database
from llb.store.tables import audit, nodes, request_history, usage
from llb.store.tables.request_history import MICROSECONDS_PER_S, OwnerFilter, RequestFilter, RequestRow
from llb.store.tables.usage import BUCKET_WIDTH_S, UsageRecord
from llb.wire import (
    ChartReport,
    ChartSpan,
    ChartSubject,
    RequestDetail,
    RequestPage,
    RequestView,
    Scope,
    UsageBucket,
    UsageBy,
    UsageReport,
    UsageView,
)

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_USAGE_ROWS = 10_000
DEFAULT_BUCKET_COUNT = {UsageBucket.HOUR: 24, UsageBucket.DAY: 7}
# A slow disk delays a response by at most this.
FLUSH_TIMEOUT_S = 1.0

_TIME_RANGE_PARAMETERS = (
    RequestParameter("from", DATE_TIME, "From this time on. ISO 8601, in UTC without a time zone."),
    RequestParameter("to", DATE_TIME, "Before this time."),
)


class Outcome(StrEnum):
    """Value of the `status` filter."""

    OK = "ok"
    ERROR = "error"


def requests_blueprint(
    db: Database, request_log: RequestLog, view: ClusterView, chart_history: ChartHistory
) -> Blueprint:
    """`/api/requests`, `/api/usage` and `/api/charts`. Users see their own requests, administrators all."""
    blueprint = Blueprint("requests")
    _add_request_routes(blueprint, db, request_log)
    _add_usage_route(blueprint, db, request_log, view)
    _add_chart_route(blueprint, chart_history)
    return blueprint


def _add_request_routes(blueprint: Blueprint, db: Database, request_log: RequestLog) -> None:
    @blueprint.get("/api/requests", name="list")
    @authenticated
    @ApiOperation(
        "List inference requests",
        description="Newest first. Your own; with the scope `admin`, all.",
        response=RequestPage,
        parameters=(
            RequestParameter(
                "limit", positive_int_up_to(MAX_LIMIT), f"Requests of a page; {DEFAULT_LIMIT} by default."
            ),
            RequestParameter(
                "before", positive_int_up_to(MAX_ROW_ID), "The `next_cursor` of the previous page."
            ),
            RequestParameter("model", str, "The id of a model."),
            RequestParameter("key", str, "The id of a key."),
            RequestParameter("node", str, "The id of a node."),
            RequestParameter("endpoint", str, "The id of an endpoint."),
            RequestParameter("request_id", str, "The `X-Request-ID` of a request."),
            RequestParameter("status", Outcome, "The outcome."),
            *_TIME_RANGE_PARAMETERS,
        ),
    )
    async def list_requests(request: Request) -> HTTPResponse:
        limit = int_query_param(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        outcome = enum_query_param(request, "status", Outcome)
        await _flush_briefly(request_log)
        records = await request_history.list_page(
            db.reports,
            _visible_to(request.ctx.principal),
            RequestFilter(
                request_id=request.args.get("request_id"),
                key_id=request.args.get("key"),
                model=request.args.get("model"),
                node_id=request.args.get("node"),
                endpoint_id=request.args.get("endpoint"),
                failed=None if outcome is None else outcome is Outcome.ERROR,
                since=time_query_param(request, "from"),
                until=time_query_param(request, "to"),
            ),
            limit=limit,
            before_id=int_query_param(request, "before", MAX_ROW_ID),
        )
        page = RequestPage(
            requests=tuple(RequestView(**_request_fields(record)) for record in records),
            next_cursor=records[-1].id if len(records) == limit else None,
            history_days=request_log.retention_days,
            history_text=request_log.keeps_text,
        )
        return await compress_response(request, json_response(page))

    @blueprint.get("/api/requests/<record_id:int>", name="get")
    @authenticated
    @ApiOperation(
        "Show a request, with its text if that was kept", response=RequestDetail, errors=(NotFound,)
    )
    async def get_request(request: Request, record_id: int) -> HTTPResponse:
        record = None
        if record_id < MAX_ROW_ID:
            record = await request_history.get(db.reports, _visible_to(request.ctx.principal), record_id)
        # A request of another user looks like a missing one, so that its existence stays hidden.
        if record is None:
            raise NotFound("There is no such request in the history")
        text = await request_history.get_text(db.reports, record_id) if record.has_text else None
        return json_response(RequestDetail(**_request_fields(record), text=text))

    @blueprint.delete("/api/requests", name="clear")
    @requires_scope(Scope.ADMIN)
    @ApiOperation("Delete all requests and their text", description="The usage totals stay.", status=204)
    async def clear_requests(request: Request) -> HTTPResponse:
        async with db.write(uses_ballast=True) as tx:
            await audit.record(
                tx,
                actor=audit_actor_of(request.ctx.principal),
                action="requests.clear",
                address=request.ctx.client.address,
            )
        await request_log.clear()
        return no_content()


def _add_usage_route(blueprint: Blueprint, db: Database, request_log: RequestLog, view: ClusterView) -> None:
    @blueprint.get("/api/usage", name="usage")
    @authenticated
    @ApiOperation(
        "Show usage totals by hour or day",
        description="Of your requests; with the scope `admin`, of all. Oldest first. Periods are in UTC.",
        response=UsageReport,
        parameters=(
            RequestParameter("by", UsageBy, "Grouping of the totals; `model` by default."),
            RequestParameter("bucket", UsageBucket, "Period of one total; `hour` by default."),
            *_TIME_RANGE_PARAMETERS,
        ),
    )
    async def get_usage(request: Request) -> HTTPResponse:
        by = enum_query_param(request, "by", UsageBy) or UsageBy.MODEL
        bucket = enum_query_param(request, "bucket", UsageBucket) or UsageBucket.HOUR
        since, until = _time_range(request, bucket)
        await _flush_briefly(request_log)
        records = await usage.list_totals(
            db.reports,
            _visible_to(request.ctx.principal),
            by=by,
            bucket=bucket,
            since=since,
            until=until,
            limit=MAX_USAGE_ROWS + 1,
        )
        # A removed node keeps its row, so any other id is that of an endpoint.
        known = await nodes.list_nodes(db.reports, include_removed=True) if by is UsageBy.NODE else ()
        node_ids = frozenset(node.id for node in known)
        return json_response(
            UsageReport(
                by=by,
                bucket=bucket,
                start=to_iso(since),
                end=to_iso(until),
                usage=tuple(_usage_view(record, by, view, node_ids) for record in records[-MAX_USAGE_ROWS:]),
                truncated=len(records) > MAX_USAGE_ROWS,
            )
        )


def _add_chart_route(blueprint: Blueprint, chart_history: ChartHistory) -> None:
    @blueprint.get("/api/charts", name="charts")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "Show figures of nodes or models over time",
        description="`recent` has samples of the last 15 minutes, as far as llb has run, `day` the minutes of"
        " the last 24 hours.",
        response=ChartReport,
        parameters=(
            RequestParameter("by", ChartSubject, "Whose figures; `node` by default."),
            RequestParameter("span", ChartSpan, "`day` by default."),
        ),
    )
    async def charts(request: Request) -> HTTPResponse:
        by = enum_query_param(request, "by", ChartSubject) or ChartSubject.NODE
        span = enum_query_param(request, "span", ChartSpan) or ChartSpan.DAY
        is_recent = span is ChartSpan.RECENT
        return await compress_response(
            request,
            json_response(
                ChartReport(
                    by=by,
                    span=span,
                    interval_seconds=SAMPLE_INTERVAL_S if is_recent else 60.0,
                    series=chart_history.series(by.value, recent=is_recent),
                )
            ),
        )


async def _flush_briefly(request_log: RequestLog) -> None:
    """Write the requests that have ended; gives up after `FLUSH_TIMEOUT_S`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            await request_log.flush()


def _visible_to(principal: Principal) -> OwnerFilter:
    """Return the owner of the requests that `principal` may see.

    A key with fewer rights than its owner sees only its own requests: another person may hold it.
    """
    if has_scope(principal, Scope.ADMIN):
        return OwnerFilter()
    if principal.user_id is not None and principal.granted_scopes >= scopes_of_role(principal.role):
        return OwnerFilter(user_id=principal.user_id)
    return OwnerFilter(key_id=principal.id)


def _time_range(request: Request, bucket: UsageBucket) -> tuple[float, float]:
    """Return start, rounded down to an hour or a day, and end in Unix seconds; by default until now."""
    width_s = BUCKET_WIDTH_S[bucket]
    since, until = time_query_param(request, "from"), time_query_param(request, "to")
    until = time.time() if until is None else until
    since = max(0.0, until - (DEFAULT_BUCKET_COUNT[bucket] - 1) * width_s) if since is None else since
    return since // width_s * width_s, until


def _request_fields(record: RequestRow) -> dict[str, Any]:
    fields = asdict(record)
    return {"time": to_iso(record.id / MICROSECONDS_PER_S), "user": fields.pop("username"), **fields}


def _usage_view(record: UsageRecord, by: UsageBy, view: ClusterView, node_ids: frozenset[str]) -> UsageView:
    fields = asdict(record)
    if by is UsageBy.MODEL and record.key is not None and (model := view.find_model(record.key)) is not None:
        fields["name"] = model.name
    if by is UsageBy.NODE and record.key and record.key not in node_ids:
        fields["endpoint_id"] = record.key
    return UsageView(bucket=to_iso(fields.pop("start")), user=fields.pop("username"), **fields)
