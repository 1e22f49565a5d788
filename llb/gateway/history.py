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

from llb.auth import Principal, PrincipalKind
from llb.gateway.transcript import Transcript
from llb.gateway.usage import Usage
from llb.store import history, usage
from llb.store.database import Database
from llb.store.history import US, RequestRecord
from llb.tasks import TaskGroup
from llb.wire import RequestText

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.1  # a commit a request would cost more than the request does
RETRY_AFTER_S = 5.0
BATCH = 500  # what the event loop prepares at a time: a millisecond and a half
MAX_WAITING, MAX_WAITING_WITH_TEXT = 20_000, 1000  # while the disk does not answer
TELL_LOST_EVERY_S = 60.0

MAX_REQUESTS, MAX_TEXTS = 1_000_000, 20_000  # about 250 MB, and at most 1.3 GB
HOURS_KEPT_S, DAYS_KEPT_S = 35 * 86_400, 400 * 86_400
PRUNE_EVERY_S = 60.0
PRUNE_STEP, PRUNE_PAUSE_S = 500, 0.02  # others write in between

MAX_ASKED_CHARS = 200
_NO_USAGE = Usage()


@dataclass(slots=True)
class Tally:
    """What is known of one request. Whoever learns something of it, on its way, writes it here. Times are monotonic."""

    id: int
    request_id: str
    principal: Principal
    endpoint: str
    began_at: float
    trace: tuple[tuple[bytes, bytes], ...] = ()  # headers of the caller's, passed on
    asked: str | None = None  # the model, as the client called it
    model_id: str | None = None
    stream: bool = False
    queued_s: float = 0.0
    node_id: str | None = None
    loaded_s: float = 0.0  # until its engine was in memory; on another host that is part of the answer's time
    sent_at: float | None = None
    first_byte_at: float | None = None
    received_bytes: int = 0  # of the answer's body, from the engine
    usage: Usage = _NO_USAGE
    status: int | None = None  # what the client got; None: nothing yet
    error_code: str | None = None
    ended_at: float = 0.0
    counted: bool = False  # `on_ended` was told
    transcript: Transcript | None = None
    text: RequestText | None = None

    def record(self) -> RequestRecord:
        """The request as it is kept; only when it has ended."""
        principal, tokens = self.principal, self.usage
        return RequestRecord(
            id=self.id,
            request_id=self.request_id,
            key_id=principal.id if principal.kind is PrincipalKind.KEY else None,
            user_id=principal.user_id,
            model=self.model_id or (self.asked or "")[:MAX_ASKED_CHARS] or None,
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
            duration_ms=round((self.ended_at - self.began_at) * 1000),
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
        return max(known) - self.began_at if known else None


class History:
    """The requests of the last `days` days, with their text if `text`, and totals of all. Never makes a request wait."""

    def __init__(
        self, db: Database, *, days: int, text: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self.days = days
        self.text = text and days > 0
        self.lost = 0  # requests that could not be noted
        self.on_ended: Callable[[Sequence[Tally]], None] = lambda _ended: None
        self._db = db
        self._clock = clock
        self._tasks = TaskGroup("history")
        self._writer: asyncio.Task[None] | None = None
        self._waiting: deque[Tally] = deque()
        self._max_waiting = MAX_WAITING_WITH_TEXT if self.text else MAX_WAITING
        self._last_id = 0
        self._dirty = asyncio.Event()
        self._closing = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failing = False
        self._told_lost, self._told_at = 0, -TELL_LOST_EVERY_S

    def start(self) -> None:
        self._writer = self._tasks.supervise(self._write_forever(), "write")
        self._tasks.supervise(self._prune_forever(), "prune")

    async def close(self) -> None:
        """Write what has ended, and stop; idempotent."""
        self._closing.set()
        self._dirty.set()
        if self._writer is not None:
            # Not cancelled: whether a commit that was cut short took place could not be told.
            await asyncio.wait({self._writer})
        if self._waiting:
            log.warning("the history lacks %d requests: the disk does not take them", len(self._waiting))
            self._waiting.clear()
        await self._tasks.close()

    # --- a request ----------------------------------------------------------------------------------

    def begin(self, principal: Principal, endpoint: str, request_id: str) -> Tally:
        """A request of `principal` has come."""
        now = int(self._clock() * US)
        # Two may come within a microsecond. A clock that was set back by more than a little is believed.
        if 0 <= self._last_id - now < US:
            now = self._last_id + 1
        self._last_id = now
        return Tally(now, request_id, principal, endpoint, time.monotonic())

    def end(self, tally: Tally) -> None:
        """The request is over, and nothing will be added to `tally`."""
        tally.ended_at = time.monotonic()
        if tally.transcript is not None:
            tally.text, tally.transcript = tally.transcript.text(), None
        self._waiting.append(tally)
        self._shed()
        self._dirty.set()

    def _shed(self) -> None:
        while len(self._waiting) > self._max_waiting:
            self._waiting.popleft()
            self.lost += 1

    # --- writing ------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what has ended so far, even if the caller is cancelled meanwhile."""
        await self._tasks.finish(self._flush(), "flush")

    async def _write_forever(self) -> None:
        last = False
        while not last:
            await self._dirty.wait()
            with suppress(TimeoutError):
                pause_s = RETRY_AFTER_S if self._failing else WRITE_AFTER_S
                await asyncio.wait_for(self._closing.wait(), pause_s)
            last = self._closing.is_set()
            await self._flush()

    async def _flush(self) -> None:
        async with self._writing:
            self._dirty.clear()
            ended = list(self._waiting)
            self._waiting.clear()
            self.on_ended([tally for tally in ended if not tally.counted])
            for tally in ended:
                tally.counted = True
            for start in range(0, len(ended), BATCH):
                if not await self._write(ended[start : start + BATCH]):
                    self._waiting.extendleft(reversed(ended[start:]))
                    self._shed()
                    self._dirty.set()
                    break
            self._tell_lost()

    async def _write(self, batch: list[Tally]) -> bool:
        """Whether the disk took it; if not, it may later."""
        try:
            records = [tally.record() for tally in batch]
            # Names that clients make up must not fill the totals.
            counted = [
                record if tally.model_id is not None else msgspec.structs.replace(record, model=None)
                for record, tally in zip(records, batch, strict=True)
            ]
            async with self._db.write() as tx:
                if self.days:
                    await history.add(tx, records)
                    await history.add_texts(tx, [(t.id, t.text) for t in batch if t.text is not None])
                await usage.add(tx, counted)
        except sqlite3.OperationalError as error:
            if not self._failing:
                log.warning("the history cannot be written: %s; trying again", error)
            self._failing = True
            return False
        except Exception:
            # It would fail again and again, and whatever comes after it would wait for it.
            log.exception("%d requests could not be noted in the history", len(batch))
            self.lost += len(batch)
        self._failing = False
        return True

    def _tell_lost(self) -> None:
        now = time.monotonic()
        if self.lost > self._told_lost and now - self._told_at >= TELL_LOST_EVERY_S:
            log.warning(
                "the history lacks %d requests: the disk did not take them in time",
                self.lost - self._told_lost,
            )
            self._told_lost, self._told_at = self.lost, now

    # --- forgetting ---------------------------------------------------------------------------------

    async def prune(self) -> None:
        """Forget what is older, or more, than is kept: in small steps, so that nobody waits for long."""
        now = self._clock()
        async with self._db.write() as tx:
            await usage.prune(tx, hours_before=now - HOURS_KEPT_S, days_before=now - DAYS_KEPT_S)
            expired = int((now - self.days * 86_400) * US)
            first = max(expired, await history.first_kept(tx, MAX_REQUESTS))
            first_text = await history.first_kept_text(tx, MAX_TEXTS)
        await self._in_steps(history.prune, first)
        await self._in_steps(history.prune_texts, first_text)

    async def _in_steps(self, prune: Callable[..., Awaitable[int]], before_id: int) -> None:
        removed = PRUNE_STEP
        while removed == PRUNE_STEP:
            async with self._db.write() as tx:
                removed = await prune(tx, before_id=before_id, limit=PRUNE_STEP)
            await asyncio.sleep(PRUNE_PAUSE_S)

    async def _prune_forever(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_EVERY_S)
            try:
                await self.prune()
            except sqlite3.OperationalError as error:
                log.warning("old requests could not be removed from the history: %s", error)
