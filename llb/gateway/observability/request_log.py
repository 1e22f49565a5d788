"""Notes how every inference request went: in memory while it runs, then in batches on the disk."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from llb.base.tasks import TaskSupervisor
from llb.gateway.stream.transcript import Transcript
from llb.gateway.stream.usage_parser import Usage
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import request_history, usage
from llb.store.tables.request_history import US, RequestRow
from llb.wire import RequestText

log = logging.getLogger(__name__)

WRITE_DELAY_S = 0.1  # a commit a request would cost more than the request does
RETRY_DELAY_S = 5.0
BATCH_SIZE = 500  # what the event loop prepares at a time: a millisecond and a half
MAX_PENDING, MAX_PENDING_WITH_TEXT = 20_000, 1000  # while the disk does not answer
DROPPED_WARNING_INTERVAL_S = 60.0

MAX_REQUESTS, MAX_TEXTS = 1_000_000, 20_000  # about 250 MB, and at most 1.3 GB
HOURLY_RETENTION_S, DAILY_RETENTION_S = 35 * 86_400, 400 * 86_400
PRUNE_INTERVAL_S = 60.0
PRUNE_BATCH_SIZE, PRUNE_PAUSE_S = 500, 0.02  # others write in between

MAX_MODEL_NAME_CHARS = 200
_NO_USAGE = Usage()


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request. Whoever learns something of it, on its way, writes it here. Times are monotonic."""

    id: int
    request_id: str
    principal: Principal
    endpoint: str
    started_at: float
    trace_headers: tuple[tuple[bytes, bytes], ...] = ()  # headers of the caller's, passed on
    requested_model: str | None = None  # the model, as the client called it
    model_id: str | None = None
    stream: bool = False
    queued_s: float = 0.0
    node_id: str | None = None
    load_s: float = 0.0  # until its engine was in memory; on another host that is part of the answer's time
    sent_at: float | None = None
    first_byte_at: float | None = None
    received_bytes: int = 0  # of the answer's body, from the engine
    usage: Usage = _NO_USAGE
    status: int | None = None  # what the client got; None: nothing yet
    error_code: str | None = None
    ended_at: float = 0.0
    is_reported: bool = False  # `on_ended` was told
    transcript: Transcript | None = None
    text: RequestText | None = None

    def to_row(self) -> RequestRow:
        """The request as it is kept; only when it has ended."""
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
        )

    def ttft_s(self) -> float | None:
        """Until the first token, in seconds: as the engine measured it, for the bytes of an answer may begin with a comment, or
        come all at its end; of a stream that was cut before it could say so, until its first byte."""
        known = []
        if self.sent_at is not None and self.usage.prefill_ms is not None:
            known.append(self.sent_at + self.usage.prefill_ms / 1000)
        if self.stream and self.first_byte_at is not None:
            known.append(self.first_byte_at)
        return max(known) - self.started_at if known else None


class RequestLog:
    """The requests of the last `days` days, with their text if `text`, and totals of all. Never makes a request wait."""

    def __init__(
        self,
        db: Database,
        *,
        retention_days: int,
        keeps_text: bool,
        on_requests_ended: Callable[[Sequence[RequestRecord]], None] = lambda _ended: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.retention_days = retention_days
        self.keeps_text = keeps_text and retention_days > 0
        self.dropped_requests = 0  # requests that could not be noted
        self._on_requests_ended = on_requests_ended
        self._db = db
        self._clock = clock
        self._tasks = TaskSupervisor("history")
        self._writer: asyncio.Task[None] | None = None
        self._pending: deque[RequestRecord] = deque()
        self._max_pending = MAX_PENDING_WITH_TEXT if self.keeps_text else MAX_PENDING
        self._last_id = 0
        self._has_pending = asyncio.Event()
        self._closing = asyncio.Event()
        self._write_lock = asyncio.Lock()
        self._is_failing = False
        self._warned_dropped, self._warned_at = 0, -DROPPED_WARNING_INTERVAL_S

    def start(self) -> None:
        self._writer = self._tasks.spawn(self._write_loop(), "write")
        self._tasks.spawn(self._prune_loop(), "prune")

    async def close(self) -> None:
        """Write what has ended, and stop; idempotent."""
        self._closing.set()
        self._has_pending.set()
        if self._writer is not None:
            # Not cancelled: whether a commit that was cut short took place could not be told.
            await asyncio.wait({self._writer})
        if self._pending:
            log.warning("the history lacks %d requests: the disk does not take them", len(self._pending))
            self._pending.clear()
        await self._tasks.close()

    # --- a request ----------------------------------------------------------------------------------

    def open_record(self, principal: Principal, endpoint: str, request_id: str) -> RequestRecord:
        """A request of `principal` has come."""
        now = int(self._clock() * US)
        # Two may come within a microsecond. A clock that was set back by more than a little is believed.
        if 0 <= self._last_id - now < US:
            now = self._last_id + 1
        self._last_id = now
        return RequestRecord(now, request_id, principal, endpoint, time.monotonic())

    def close_record(self, record: RequestRecord) -> None:
        """The request is over, and nothing will be added to `tally`."""
        record.ended_at = time.monotonic()
        if record.transcript is not None:
            record.text, record.transcript = record.transcript.build_text(), None
        self._pending.append(record)
        self._drop_excess()
        self._has_pending.set()

    def _drop_excess(self) -> None:
        while len(self._pending) > self._max_pending:
            self._pending.popleft()
            self.dropped_requests += 1

    # --- writing ------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what has ended so far, even if the caller is cancelled meanwhile."""
        await self._tasks.run_shielded(self._flush(), "flush")

    async def _write_loop(self) -> None:
        last = False
        while not last:
            await self._has_pending.wait()
            with suppress(TimeoutError):
                pause_s = RETRY_DELAY_S if self._is_failing else WRITE_DELAY_S
                await asyncio.wait_for(self._closing.wait(), pause_s)
            last = self._closing.is_set()
            await self._flush()

    async def _flush(self) -> None:
        async with self._write_lock:
            self._has_pending.clear()
            ended = list(self._pending)
            self._pending.clear()
            self._on_requests_ended([tally for tally in ended if not tally.is_reported])
            for tally in ended:
                tally.is_reported = True
            for start in range(0, len(ended), BATCH_SIZE):
                if not await self._write_batch(ended[start : start + BATCH_SIZE]):
                    self._pending.extendleft(reversed(ended[start:]))
                    self._drop_excess()
                    self._has_pending.set()
                    break
            self._warn_dropped()

    async def _write_batch(self, batch: list[RequestRecord]) -> bool:
        """Whether the disk took it; if not, it may later."""
        try:
            records = [tally.to_row() for tally in batch]
            # Names that clients make up must not fill the totals.
            counted = [
                record if tally.model_id is not None else msgspec.structs.replace(record, model=None)
                for record, tally in zip(records, batch, strict=True)
            ]
            async with self._db.write() as tx:
                if self.retention_days:
                    await request_history.add(tx, records)
                    await request_history.add_texts(tx, [(t.id, t.text) for t in batch if t.text is not None])
                await usage.add(tx, counted)
        except sqlite3.OperationalError as error:
            if not self._is_failing:
                log.warning("the history cannot be written: %s; trying again", error)
            self._is_failing = True
            return False
        except Exception:
            # It would fail again and again, and whatever comes after it would wait for it.
            log.exception("%d requests could not be noted in the history", len(batch))
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
                "the history lacks %d requests: the disk did not take them in time",
                self.dropped_requests - self._warned_dropped,
            )
            self._warned_dropped, self._warned_at = self.dropped_requests, now

    # --- forgetting ---------------------------------------------------------------------------------

    async def prune(self) -> None:
        """Forget what is older, or more, than is kept: in small steps, so that nobody waits for long."""
        now = self._clock()
        async with self._db.write() as tx:
            await usage.prune(tx, hours_before=now - HOURLY_RETENTION_S, days_before=now - DAILY_RETENTION_S)
            expired = int((now - self.retention_days * 86_400) * US)
            first = max(expired, await request_history.first_kept(tx, MAX_REQUESTS))
            first_text = await request_history.first_kept_text(tx, MAX_TEXTS)
        await self._prune_in_batches(request_history.prune, first)
        await self._prune_in_batches(request_history.prune_texts, first_text)

    async def _prune_in_batches(self, prune_batch: Callable[..., Awaitable[int]], before_id: int) -> None:
        removed = PRUNE_BATCH_SIZE
        while removed == PRUNE_BATCH_SIZE:
            async with self._db.write() as tx:
                removed = await prune_batch(tx, before_id=before_id, limit=PRUNE_BATCH_SIZE)
            await asyncio.sleep(PRUNE_PAUSE_S)

    async def _prune_loop(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                await self.prune()
            except sqlite3.OperationalError as error:
                log.warning("old requests could not be removed from the history: %s", error)
