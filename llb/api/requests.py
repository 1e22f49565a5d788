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

from llb.api.access import authenticated, requires
from llb.api.blueprint import Blueprint
from llb.api.documented import MOMENT, Argument, Documented, up_to
from llb.api.packing import packed
from llb.api.replies import no_content, number_argument, reply, request_id, status_of, translate
from llb.api.times import from_iso, to_iso
from llb.api.traces import trace_headers
from llb.auth import Principal, allows, grants_of
from llb.cluster.view import ClusterView
from llb.errors import InvalidRequest, LlbError, NotFound
from llb.gateway.history import History, Tally
from llb.store import audit, history, usage
from llb.store.database import Database
from llb.store.history import US, RequestRecord, Wanted, Whose
from llb.store.usage import WIDTH_S, UsageRecord
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
MAX_TOTALS = 10_000
DEFAULT_BUCKETS = {UsageBucket.HOUR: 24, UsageBucket.DAY: 7}
CLIENT_CLOSED_STATUS, CLIENT_CLOSED = 499, "client_closed"  # as nginx calls it
CAUGHT_UP_WITHIN_S = 1.0
_MAX_ID = 2**63 - 1  # SQLite's integers end there

_BETWEEN = (
    Argument("from", MOMENT, "Not what came before. ISO 8601, in UTC where it names no zone."),
    Argument("to", MOMENT, "Only what came before."),
)

Choice = TypeVar("Choice", bound=StrEnum)


class Outcome(StrEnum):
    OK = "ok"
    ERROR = "error"


class RequestLog:
    """Notes every inference request, however it ends."""

    def __init__(self, kept: History) -> None:
        self.text = kept.text
        self._kept = kept

    def note(self, request: Request, status_of: Callable[[LlbError], int] = status_of) -> Noted:
        """What is known of `request`, kept when the block ends. An error that leaves it is answered with `status_of`."""
        tally = self._kept.begin(request.ctx.principal, request.path.rstrip("/"), request_id(request))
        tally.trace = trace_headers(request)
        return Noted(self._kept, tally, status_of)


class Noted:
    """Writes into the tally how the block ended. A class, not a generator: every request goes through it."""

    __slots__ = ("_kept", "_status_of", "_tally")

    def __init__(self, kept: History, tally: Tally, status_of: Callable[[LlbError], int]) -> None:
        self._kept = kept
        self._tally = tally
        self._status_of = status_of

    def __enter__(self) -> Tally:
        return self._tally

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        tally = self._tally
        if isinstance(
            failure, asyncio.CancelledError
        ):  # what Sanic does to whoever serves a client that left
            tally.status = tally.status or CLIENT_CLOSED_STATUS
            tally.error_code = CLIENT_CLOSED
        elif isinstance(failure, Exception):
            error = translate(failure)
            tally.status = tally.status or self._status_of(error)
            tally.error_code = error.code
        self._kept.end(tally)
        if log.isEnabledFor(logging.DEBUG):
            outcome = tally.error_code or "done"
            log.debug("%s %s: %s, %s", tally.endpoint, tally.asked, tally.status, outcome)


def requests_blueprint(db: Database, kept: History, view: ClusterView) -> Blueprint:
    """`/api/requests` and `/api/usage`. Everybody sees their own; an admin sees all."""
    blueprint = Blueprint("requests")

    @blueprint.get("/api/requests", name="list")
    @authenticated
    @Documented(
        "List inference requests",
        text="Newest first. One's own; all of them for `admin`.",
        reply=RequestPage,
        arguments=(
            Argument("limit", up_to(MAX_LIMIT), f"How many; {DEFAULT_LIMIT} by default."),
            Argument("before", up_to(_MAX_ID), "The `next_cursor` of the page before."),
            Argument("model", str, "The id of a model."),
            Argument("key", str, "The id of a key."),
            Argument("node", str, "The id of a node."),
            Argument("request_id", str, "The `X-Request-ID` of a request."),
            Argument("status", Outcome, "How they ended."),
            *_BETWEEN,
        ),
    )
    async def list_requests(request: Request) -> HTTPResponse:
        limit = number_argument(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        outcome = _choice(request, "status", Outcome)
        await _caught_up(kept)
        records = await history.page(
            db,
            _whose(request.ctx.principal),
            Wanted(
                request_id=request.args.get("request_id"),
                key_id=request.args.get("key"),
                model=request.args.get("model"),
                node_id=request.args.get("node"),
                failed=None if outcome is None else outcome is Outcome.ERROR,
                since=_time(request, "from"),
                until=_time(request, "to"),
            ),
            limit=limit,
            before_id=number_argument(request, "before", _MAX_ID),
        )
        page = RequestPage(
            requests=tuple(RequestView(**_fields(record)) for record in records),
            next_cursor=records[-1].id if len(records) == limit else None,
            history_days=kept.days,
            history_text=kept.text,
        )
        return await packed(request, reply(page))

    @blueprint.get("/api/requests/<record_id:int>", name="get")
    @authenticated
    @Documented("Show a request, with its text where it was kept", reply=RequestDetail, errors=(NotFound,))
    async def get_request(request: Request, record_id: int) -> HTTPResponse:
        record = None
        if record_id < _MAX_ID:
            record = await history.get(db, _whose(request.ctx.principal), record_id)
        # Whose request it is, is nobody else's business: others' look as if they were not there.
        if record is None:
            raise NotFound("There is no such request in the history")
        text = await history.text_of(db, record_id) if record.has_text else None
        return reply(RequestDetail(**_fields(record), text=text))

    @blueprint.delete("/api/requests", name="clear")
    @requires(Scope.ADMIN)
    @Documented("Forget all requests and their text", text="The totals stay.", status=204)
    async def clear_requests(request: Request) -> HTTPResponse:
        await kept.flush()
        async with db.write() as tx:
            await history.clear(tx)
            await audit.record(
                tx,
                actor=request.ctx.principal.label,
                action="requests.clear",
                address=request.ctx.peer.address,
            )
        return no_content()

    @blueprint.get("/api/usage", name="usage")
    @authenticated
    @Documented(
        "Totals by hour or day",
        text="Of one's own requests; of all for `admin`. Oldest first; hours and days are those of UTC.",
        reply=UsageReport,
        arguments=(
            Argument("by", UsageBy, "What is summed up; `model` by default."),
            Argument("bucket", UsageBucket, "How wide; `hour` by default."),
            *_BETWEEN,
        ),
    )
    async def get_usage(request: Request) -> HTTPResponse:
        by = _choice(request, "by", UsageBy) or UsageBy.MODEL
        bucket = _choice(request, "bucket", UsageBucket) or UsageBucket.HOUR
        since, until = _range(request, bucket)
        await _caught_up(kept)
        records = await usage.totals(
            db,
            _whose(request.ctx.principal),
            by=by,
            bucket=bucket,
            since=since,
            until=until,
            limit=MAX_TOTALS + 1,
        )
        return reply(
            UsageReport(
                by=by,
                bucket=bucket,
                start=to_iso(since),
                end=to_iso(until),
                usage=tuple(_usage_view(record, by, view) for record in records[-MAX_TOTALS:]),
                truncated=len(records) > MAX_TOTALS,
            )
        )

    return blueprint


async def _caught_up(kept: History) -> None:
    """Have what has ended written before it is asked for; a disk that does not take it is not waited for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CAUGHT_UP_WITHIN_S):
            await kept.flush()


def _whose(principal: Principal) -> Whose:
    """Whose requests it may see. A key that may do less than its owner sees its own only: it is in others' hands."""
    if allows(principal, Scope.ADMIN):
        return Whose()
    if principal.user_id is not None and principal.grants >= grants_of(principal.role):
        return Whose(user_id=principal.user_id)
    return Whose(key_id=principal.id)


def _choice(request: Request, name: str, kind: type[Choice]) -> Choice | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(f"{name} is not one of {', '.join(kind)}", param=name) from None


def _time(request: Request, name: str) -> float | None:
    """Unix seconds; there was nothing before 0."""
    text = request.args.get(name)
    return None if text is None else max(0.0, from_iso(text, name))


def _range(request: Request, bucket: UsageBucket) -> tuple[float, float]:
    """From the begin of an hour or day on, and until when, in unix seconds; by default until now."""
    width_s = WIDTH_S[bucket]
    since, until = _time(request, "from"), _time(request, "to")
    until = time.time() if until is None else until
    since = max(0.0, until - (DEFAULT_BUCKETS[bucket] - 1) * width_s) if since is None else since
    return since // width_s * width_s, until


def _fields(record: RequestRecord) -> dict[str, Any]:
    fields = asdict(record)
    return {"time": to_iso(record.id / US), "user": fields.pop("username"), **fields}


def _usage_view(record: UsageRecord, by: UsageBy, view: ClusterView) -> UsageView:
    fields = asdict(record)
    if by is UsageBy.MODEL and record.key is not None and (model := view.find(record.key)) is not None:
        fields["name"] = model.name
    return UsageView(bucket=to_iso(fields.pop("start")), user=fields.pop("username"), **fields)
