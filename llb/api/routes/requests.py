"""Who asked what of the models, and how it went."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, TypeVar

from msgspec.structs import asdict
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import authenticated, requires_scope
from llb.api.middleware.trace_context import trace_headers_of
from llb.api.reference.operation import DATE_TIME, ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import (
    http_status_of,
    int_query_param,
    json_response,
    no_content,
    request_id_of,
    to_llb_error,
)
from llb.base.timestamps import from_iso, to_iso
from llb.cluster.view import ClusterView
from llb.errors import InvalidRequest, LlbError, NotFound
from llb.gateway.observability.request_log import RequestLog, RequestRecord
from llb.security.permissions import Principal, has_scope, scopes_of_role
from llb.store.database import Database
from llb.store.tables import audit, request_history, usage
from llb.store.tables.request_history import US, RequestRow, Wanted, Whose
from llb.store.tables.usage import WIDTH_S, UsageRecord
from llb.wire import (
    RequestDetail,
    RequestPage,
    RequestView,
    Scope,
    UsageBucket,
    UsageBy,
    UsageReport,
    UsageView,
)

log = logging.getLogger(__name__)

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_USAGE_ROWS = 10_000
DEFAULT_BUCKET_COUNT = {UsageBucket.HOUR: 24, UsageBucket.DAY: 7}
CLIENT_CLOSED_STATUS, CLIENT_CLOSED_CODE = 499, "client_closed"  # as nginx calls it
FLUSH_TIMEOUT_S = 1.0
_MAX_ROW_ID = 2**63 - 1  # SQLite's integers end there

_TIME_RANGE_PARAMETERS = (
    RequestParameter("from", DATE_TIME, "Not what came before. ISO 8601, in UTC where it names no zone."),
    RequestParameter("to", DATE_TIME, "Only what came before."),
)

EnumT = TypeVar("EnumT", bound=StrEnum)


class Outcome(StrEnum):
    OK = "ok"
    ERROR = "error"


class RequestRecorder:
    """Notes every inference request, however it ends."""

    def __init__(self, request_log: RequestLog) -> None:
        self.keeps_text = request_log.keeps_text
        self._request_log = request_log

    def record(
        self, request: Request, http_status_of: Callable[[LlbError], int] = http_status_of
    ) -> RequestRecording:
        """What is known of `request`, kept when the block ends. An error that leaves it is answered with `status_of`."""
        tally = self._request_log.open_record(
            request.ctx.principal, request.path.rstrip("/"), request_id_of(request)
        )
        tally.trace_headers = trace_headers_of(request)
        return RequestRecording(self._request_log, tally, http_status_of)


class RequestRecording:
    """Writes into the tally how the block ended. A class, not a generator: every request goes through it."""

    __slots__ = ("_http_status_of", "_record", "_request_log")

    def __init__(
        self, request_log: RequestLog, record: RequestRecord, http_status_of: Callable[[LlbError], int]
    ) -> None:
        self._request_log = request_log
        self._record = record
        self._http_status_of = http_status_of

    def __enter__(self) -> RequestRecord:
        return self._record

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        tally = self._record
        if isinstance(
            failure, asyncio.CancelledError
        ):  # what Sanic does to whoever serves a client that left
            tally.status = tally.status or CLIENT_CLOSED_STATUS
            tally.error_code = CLIENT_CLOSED_CODE
        elif isinstance(failure, Exception):
            error = to_llb_error(failure)
            tally.status = tally.status or self._http_status_of(error)
            tally.error_code = error.code
        self._request_log.close_record(tally)
        if log.isEnabledFor(logging.DEBUG):
            outcome = tally.error_code or "done"
            log.debug("%s %s: %s, %s", tally.endpoint, tally.requested_model, tally.status, outcome)


def requests_blueprint(db: Database, request_log: RequestLog, view: ClusterView) -> Blueprint:
    """`/api/requests` and `/api/usage`. Everybody sees their own; an admin sees all."""
    blueprint = Blueprint("requests")

    @blueprint.get("/api/requests", name="list")
    @authenticated
    @ApiOperation(
        "List inference requests",
        description="Newest first. One's own; all of them for `admin`.",
        response=RequestPage,
        parameters=(
            RequestParameter(
                "limit", positive_int_up_to(MAX_LIMIT), f"How many; {DEFAULT_LIMIT} by default."
            ),
            RequestParameter(
                "before", positive_int_up_to(_MAX_ROW_ID), "The `next_cursor` of the page before."
            ),
            RequestParameter("model", str, "The id of a model."),
            RequestParameter("key", str, "The id of a key."),
            RequestParameter("node", str, "The id of a node."),
            RequestParameter("request_id", str, "The `X-Request-ID` of a request."),
            RequestParameter("status", Outcome, "How they ended."),
            *_TIME_RANGE_PARAMETERS,
        ),
    )
    async def list_requests(request: Request) -> HTTPResponse:
        limit = int_query_param(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        outcome = _enum_query_param(request, "status", Outcome)
        await _flush_briefly(request_log)
        records = await request_history.page(
            db,
            _visible_to(request.ctx.principal),
            Wanted(
                request_id=request.args.get("request_id"),
                key_id=request.args.get("key"),
                model=request.args.get("model"),
                node_id=request.args.get("node"),
                failed=None if outcome is None else outcome is Outcome.ERROR,
                since=_time_query_param(request, "from"),
                until=_time_query_param(request, "to"),
            ),
            limit=limit,
            before_id=int_query_param(request, "before", _MAX_ROW_ID),
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
        "Show a request, with its text where it was kept", response=RequestDetail, errors=(NotFound,)
    )
    async def get_request(request: Request, record_id: int) -> HTTPResponse:
        record = None
        if record_id < _MAX_ROW_ID:
            record = await request_history.get(db, _visible_to(request.ctx.principal), record_id)
        # Whose request it is, is nobody else's business: others' look as if they were not there.
        if record is None:
            raise NotFound("There is no such request in the history")
        text = await request_history.text_of(db, record_id) if record.has_text else None
        return json_response(RequestDetail(**_request_fields(record), text=text))

    @blueprint.delete("/api/requests", name="clear")
    @requires_scope(Scope.ADMIN)
    @ApiOperation("Forget all requests and their text", description="The totals stay.", status=204)
    async def clear_requests(request: Request) -> HTTPResponse:
        await request_log.flush()
        async with db.write() as tx:
            await request_history.clear(tx)
            await audit.record(
                tx,
                actor=request.ctx.principal.label,
                action="requests.clear",
                address=request.ctx.peer.address,
            )
        return no_content()

    @blueprint.get("/api/usage", name="usage")
    @authenticated
    @ApiOperation(
        "Totals by hour or day",
        description="Of one's own requests; of all for `admin`. Oldest first; hours and days are those of UTC.",
        response=UsageReport,
        parameters=(
            RequestParameter("by", UsageBy, "What is summed up; `model` by default."),
            RequestParameter("bucket", UsageBucket, "How wide; `hour` by default."),
            *_TIME_RANGE_PARAMETERS,
        ),
    )
    async def get_usage(request: Request) -> HTTPResponse:
        by = _enum_query_param(request, "by", UsageBy) or UsageBy.MODEL
        bucket = _enum_query_param(request, "bucket", UsageBucket) or UsageBucket.HOUR
        since, until = _time_range(request, bucket)
        await _flush_briefly(request_log)
        records = await usage.totals(
            db,
            _visible_to(request.ctx.principal),
            by=by,
            bucket=bucket,
            since=since,
            until=until,
            limit=MAX_USAGE_ROWS + 1,
        )
        return json_response(
            UsageReport(
                by=by,
                bucket=bucket,
                start=to_iso(since),
                end=to_iso(until),
                usage=tuple(_usage_view(record, by, view) for record in records[-MAX_USAGE_ROWS:]),
                truncated=len(records) > MAX_USAGE_ROWS,
            )
        )

    return blueprint


async def _flush_briefly(request_log: RequestLog) -> None:
    """Have what has ended written before it is asked for; a disk that does not take it is not waited for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            await request_log.flush()


def _visible_to(principal: Principal) -> Whose:
    """Whose requests it may see. A key that may do less than its owner sees its own only: it is in others' hands."""
    if has_scope(principal, Scope.ADMIN):
        return Whose()
    if principal.user_id is not None and principal.granted_scopes >= scopes_of_role(principal.role):
        return Whose(user_id=principal.user_id)
    return Whose(key_id=principal.id)


def _enum_query_param(request: Request, name: str, enum_type: type[EnumT]) -> EnumT | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return enum_type(text)
    except ValueError:
        raise InvalidRequest(f"{name} is not one of {', '.join(enum_type)}", param=name) from None


def _time_query_param(request: Request, name: str) -> float | None:
    """Unix seconds; there was nothing before 0."""
    text = request.args.get(name)
    return None if text is None else max(0.0, from_iso(text, name))


def _time_range(request: Request, bucket: UsageBucket) -> tuple[float, float]:
    """From the begin of an hour or day on, and until when, in unix seconds; by default until now."""
    width_s = WIDTH_S[bucket]
    since, until = _time_query_param(request, "from"), _time_query_param(request, "to")
    until = time.time() if until is None else until
    since = max(0.0, until - (DEFAULT_BUCKET_COUNT[bucket] - 1) * width_s) if since is None else since
    return since // width_s * width_s, until


def _request_fields(record: RequestRow) -> dict[str, Any]:
    fields = asdict(record)
    return {"time": to_iso(record.id / US), "user": fields.pop("username"), **fields}


def _usage_view(record: UsageRecord, by: UsageBy, view: ClusterView) -> UsageView:
    fields = asdict(record)
    if by is UsageBy.MODEL and record.key is not None and (model := view.find_model(record.key)) is not None:
        fields["name"] = model.name
    return UsageView(bucket=to_iso(fields.pop("start")), user=fields.pop("username"), **fields)
