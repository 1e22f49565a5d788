"""Request log: a record of every inference request, in memory while it runs, then written in batches."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType

import msgspec
from msgspec import Struct

from llb.base.tasks import TaskSupervisor
from llb.gateway.stream.transcript import Transcript
from llb.gateway.stream.usage_parser import Usage
from llb.policy.fair_share import largest_share
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import request_history, usage
from llb.store.tables.request_history import MICROSECONDS_PER_S, RequestRow
from llb.wire import RequestText

log = logging.getLogger(__name__)

# One commit per request would cost more than the request.
WRITE_DELAY_S = 0.1
RETRY_DELAY_S = 5.0
# Preparing a batch blocks the event loop for a millisecond and a half.
BATCH_SIZE = 500
# Most records that wait while the disk does not respond.
MAX_PENDING, MAX_PENDING_WITH_TEXT = 20_000, 1000
DROPPED_WARNING_INTERVAL_S = 60.0

# About 250 MB, and at most 1.3 GB.
MAX_REQUESTS, MAX_TEXTS = 1_000_000, 20_000
HOURLY_RETENTION_S, DAILY_RETENTION_S = 35 * 86_400, 400 * 86_400
PRUNE_INTERVAL_S = 60.0
# The pause lets other writers in between.
PRUNE_BATCH_SIZE, PRUNE_PAUSE_S = 500, 0.02
# Short, because a person is waiting.
CLEAR_BATCH_SIZE = 5000

MAX_MODEL_NAME_CHARS = 200
_NO_USAGE = Usage()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RequestRecord(Struct):
    """Record of one request, filled in on its way through the gateway. Times are monotonic."""

    id: int
    request_id: str
    principal: Principal
    endpoint: str
    started_at: float
    # of the caller, forwarded to the engine
    trace_headers: tuple[tuple[bytes, bytes], ...] = ()
    # as the client named it
    requested_model: str | None = None
    model_id: str | None = None
    stream: bool = False
    queued_s: float = 0.0
    # One of the two, once a slot is reserved.
    node_id: str | None = None
    endpoint_id: str | None = None
    # wait for the model to load; on another host the load is part of the response time
    load_s: float = 0.0
    sent_at: float | None = None
    first_byte_at: float | None = None
    # of the response body, from the engine
    received_bytes: int = 0
    usage: Usage = _NO_USAGE
    # at the target that answered; None: unknown
    cost_usd: float | None = None
    # of the request, without a counterpart at the target that answered
    ignored_fields: tuple[str, ...] = ()
    # of a provider, passed on to the client
    limit_headers: Mapping[str, str] = _NO_HEADERS
    # sent to the client; None: not yet
    status: int | None = None
    error_code: str | None = None
    # The client has received the whole answer, whatever happens to the connection after that.
    is_answered: bool = False
    # The client has the beginning of an event whose rest will not come.
    is_event_cut: bool = False
    ended_at: float = 0.0
    # Passed to `on_requests_ended`, and not written yet.
    is_reported: bool = False
    transcript: Transcript | None = None
    text: RequestText | None = None

    def note_cut_event(self) -> None:
        """Record that the stream was cut inside an event."""
        self.is_event_cut = True

    def to_row(self) -> RequestRow:
        """Return the database row of an ended request."""
        principal, tokens = self.principal, self.usage
        return RequestRow(
            id=self.id,
            request_id=self.request_id,
            key_id=principal.id if principal.kind is PrincipalKind.KEY else None,
            user_id=principal.user_id,
            model=self.model_id or (self.requested_model or "")[:MAX_MODEL_NAME_CHARS] or None,
            node_id=self.node_id,
            endpoint=self.endpoint,
            stream=self.stream,
            status=self.status or 0,
            error_code=self.error_code,
            prompt_tokens=tokens.prompt_tokens,
            cached_tokens=tokens.cached_tokens,
            completion_tokens=tokens.completion_tokens,
            queue_ms=round(self.queued_s * 1000),
            ttft_ms=None if (ttft_s := self.ttft_s()) is None else round(ttft_s * 1000),
            duration_ms=round((self.ended_at - self.started_at) * 1000),
            has_text=self.text is not None,
            endpoint_id=self.endpoint_id,
            cost_usd=self.known_cost_usd(),
        )

    def known_cost_usd(self) -> float | None:
        """Return the cost in USD, None if it is unknown. Nodes are free."""
        return 0.0 if self.cost_usd is None and self.node_id is not None else self.cost_usd

    def ttft_s(self) -> float | None:
        """Return the time to the first token in seconds, as the engine measured it, or None.

        The first byte alone is no measure: it may belong to a comment, or the whole body may arrive at
        the end. It is used for streams that were cut before the engine's measurement.
        """
        first_at = None
        if self.sent_at is not None and self.usage.prefill_ms is not None:
            first_at = self.sent_at + self.usage.prefill_ms / 1000
        received_at = self.first_byte_at if self.stream else None
        if first_at is None or (received_at is not None and received_at > first_at):
            first_at = received_at
        return None if first_at is None else first_at - self.started_at


class RequestLog:
    """Log of requests for `retention_days`, with their text if `keeps_text`, and usage totals.

    A request never waits for it.
    """

    def __init__(
        self,
        db: Database,
        *,
        retention_days: int,
        keeps_text: bool,
        on_requests_ended: Callable[[Sequence[RequestRecord]], None] = lambda _ended: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.retention_days = retention_days
        self.keeps_text = keeps_text and retention_days > 0
        # requests that could not be written
        self.dropped_requests = 0
        self._on_requests_ended = on_requests_ended
        self._db = db
        self._clock = clock or db.clock.now
        self._retention_clock = clock or db.clock.earliest
        self._tasks = TaskSupervisor("request_log")
        self._writer: asyncio.Task[None] | None = None
        self._pending: deque[RequestRecord] = deque()
        self._max_pending = MAX_PENDING_WITH_TEXT if self.keeps_text else MAX_PENDING
        self._last_id = 0
        self._has_pending = asyncio.Event()
        self._closing = asyncio.Event()
        self._write_lock = asyncio.Lock()
        self._is_failing = False
        self._warned_dropped, self._warned_at = 0, -DROPPED_WARNING_INTERVAL_S

    def set_retention(self, retention_days: int, *, keeps_text: bool) -> None:
        """Set how long requests are kept, and whether with their text; the next pruning applies it."""
        self.retention_days = retention_days
        self.keeps_text = keeps_text and retention_days > 0
        self._max_pending = MAX_PENDING_WITH_TEXT if self.keeps_text else MAX_PENDING

    def start(self) -> None:
        """Start the writer and the pruning of old requests."""
        self._writer = self._tasks.spawn(self._write_loop(), "write")
        self._tasks.spawn(self._prune_loop(), "prune")

    async def close(self) -> None:
        """Write the pending records, and stop; idempotent."""
        self._closing.set()
        self._has_pending.set()
        if self._writer is not None:
            # The writer is not cancelled, because the outcome of an interrupted commit would be unknown.
            await asyncio.wait({self._writer})
        if self._pending:
            log.warning(
                "%d requests are missing from the history: the disk does not accept writes",
                len(self._pending),
            )
            self._pending.clear()
        await self._tasks.close()

    # --- records ------------------------------------------------------------------------------------

    def open_record(
        self,
        principal: Principal,
        endpoint: str,
        request_id: str,
        trace_headers: tuple[tuple[bytes, bytes], ...] = (),
        requested_model: str | None = None,
        *,
        stream: bool = False,
    ) -> RequestRecord:
        """Return the record of a new request of `principal`; later fields may be set later."""
        now = int(self._clock() * MICROSECONDS_PER_S)
        # Ids are unique even within a microsecond. A clock that was set back by more than a second is
        # accepted.
        if 0 <= self._last_id - now < MICROSECONDS_PER_S:
            now = self._last_id + 1
        self._last_id = now
        return RequestRecord(
            now,
            request_id,
            principal,
            endpoint,
            time.monotonic(),
            trace_headers,
            requested_model,
            None,
            stream,
        )

    def close_record(self, record: RequestRecord) -> None:
        """Queue the record of an ended request for writing; it does not change any more."""
        record.ended_at = time.monotonic()
        if record.transcript is not None:
            record.text, record.transcript = record.transcript.build_text(), None
        self._pending.append(record)
        pending_count = len(self._pending)
        if pending_count == 1:
            self._has_pending.set()
        elif pending_count > self._max_pending:
            self._drop_excess()

    def _drop_excess(self) -> None:
        while len(self._pending) > self._max_pending:
            self._pending.popleft()
            self.dropped_requests += 1

    # --- writing ------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write the pending records, even if the caller is cancelled meanwhile."""
        await self._tasks.run_shielded(self._flush(), "flush")

    async def _write_loop(self) -> None:
        is_closing = False
        while not is_closing:
            await self._has_pending.wait()
            with suppress(TimeoutError):
                delay_s = RETRY_DELAY_S if self._is_failing else WRITE_DELAY_S
                async with asyncio.timeout(delay_s):
                    await self._closing.wait()
            is_closing = self._closing.is_set()
            await self._flush()

    async def _flush(self) -> None:
        async with self._write_lock:
            if not self._closing.is_set():  # Otherwise the writer, which must end, would wait for ever.
                self._has_pending.clear()
            records = list(self._pending)
            self._pending.clear()
            # Each once, even if its write fails and is repeated.
            self._on_requests_ended([record for record in records if not record.is_reported])
            for start in range(0, len(records), BATCH_SIZE):
                if not await self._write_batch(records[start : start + BATCH_SIZE]):
                    for record in records[start:]:
                        record.is_reported = True
                    self._pending.extendleft(reversed(records[start:]))
                    self._drop_excess()
                    self._has_pending.set()
                    break
            self._warn_dropped()

    async def _write_batch(self, batch: list[RequestRecord]) -> bool:
        """Write records; False if the disk does not accept them for now."""
        try:
            rows = [record.to_row() for record in batch]
            texts = [(record.id, record.text) for record in batch if record.text is not None]
            # Model names that clients make up must not fill the totals.
            counted_rows = [
                row
                if record.model_id is not None and row.endpoint_id is None
                else msgspec.structs.replace(
                    row,
                    model=None if record.model_id is None else row.model,
                    node_id=row.node_id or row.endpoint_id,
                )
                for row, record in zip(rows, batch, strict=True)
            ]
            async with self._db.write() as tx:
                if self.retention_days:
                    await request_history.add(tx, rows)
                    if texts:
                        await request_history.add_texts(tx, texts)
                await usage.add(tx, counted_rows)
        except sqlite3.OperationalError as error:
            if not self._is_failing:
                log.warning("cannot write the request history: %s; will retry", error)
            self._is_failing = True
            return False
        except Exception:
            # A retry would fail again, and hold up all later records.
            log.exception("failed to write %d requests to the history", len(batch))
            self.dropped_requests += len(batch)
        self._is_failing = False
        return True

    def _warn_dropped(self) -> None:
        now = time.monotonic()
        if (
            self.dropped_requests > self._warned_dropped
            and now - self._warned_at >= DROPPED_WARNING_INTERVAL_S
        ):
            log.warning(
                "%d requests are missing from the history: the disk was too slow",
                self.dropped_requests - self._warned_dropped,
            )
            self._warned_dropped, self._warned_at = self.dropped_requests, now

    # --- retention ----------------------------------------------------------------------------------

    async def prune(self) -> None:
        """Delete requests beyond the limits of age and number, in small batches between other writes."""
        now = self._retention_clock()
        async with self._db.write() as tx:
            if not self._db.clock.jump_s():
                await request_history.restamp_future(tx, now_id=int(now * MICROSECONDS_PER_S))
            await usage.prune(tx, hours_before=now - HOURLY_RETENTION_S, days_before=now - DAILY_RETENTION_S)
        expired = int((now - self.retention_days * 86_400) * MICROSECONDS_PER_S)
        await self._delete_in_batches(partial(request_history.prune, before_id=expired))
        await self._prune_to_shares(MAX_REQUESTS, with_text=False)
        await self._prune_to_shares(MAX_TEXTS, with_text=True)

    async def _prune_to_shares(self, max_rows: int, *, with_text: bool) -> None:
        """Delete the requests above the limit, from owners that have more than their share.

        An owner with many requests, or many failures, displaces only their own.
        """
        reports = self._db.reports
        if await request_history.count_requests(reports, with_text=with_text) <= max_rows:
            return
        counts = await request_history.count_by_owner(reports, with_text=with_text)
        share = largest_share(counts.values(), max_rows)
        for owner, count in counts.items():
            if count > share:
                await self._delete_in_batches(
                    partial(request_history.prune_owner, owner=owner, with_text=with_text), count - share
                )

    async def clear(self) -> None:
        """Delete all present requests, completely even if the caller is cancelled; the totals stay."""
        await self.flush()
        newest_id = await request_history.find_newest_id(self._db.reports)
        delete_batch = partial(request_history.prune, before_id=newest_id + 1)
        await self._tasks.run_shielded(
            self._delete_in_batches(delete_batch, batch_size=CLEAR_BATCH_SIZE, uses_ballast=True), "clear"
        )

    async def _delete_in_batches(
        self,
        delete_batch: Callable[..., Awaitable[int]],
        max_rows: int = sys.maxsize,
        *,
        batch_size: int = PRUNE_BATCH_SIZE,
        uses_ballast: bool = False,
    ) -> None:
        """Delete up to `max_rows` in small transactions, so that others write in between."""
        while max_rows > 0:
            batch_size = min(batch_size, max_rows)
            async with self._db.write(uses_ballast=uses_ballast) as tx:
                deleted = await delete_batch(tx, limit=batch_size)
            if deleted < batch_size:
                return
            max_rows -= deleted
            await asyncio.sleep(PRUNE_PAUSE_S)

    async def _prune_loop(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                await self.prune()
            except sqlite3.Error as error:
                log.warning("cannot remove old requests from the history: %s", error)
