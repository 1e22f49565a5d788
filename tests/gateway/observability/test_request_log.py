"""Request log: batched writes that no request waits for, failing disks, retention."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llb.gateway.observability import request_log as module
from llb.gateway.observability.request_log import RequestLog, RequestRecord
from llb.gateway.stream.transcript import Transcript
from llb.gateway.stream.usage_parser import Usage
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database, Transaction
from llb.store.tables import request_history, usage
from llb.store.tables.request_history import MICROSECONDS_PER_S, OwnerFilter, RequestRow
from llb.wire import Role, UsageBucket, UsageBy

KEY = Principal(kind=PrincipalKind.KEY, id="k", role=Role.USER, user_id="u")
SESSION = Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="u")
DAY_S = 86_400


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "llb.db")
    yield database
    await database.close()


@asynccontextmanager
async def running(db: Database, **settings: Any) -> AsyncIterator[RequestLog]:
    log = RequestLog(db, **{"retention_days": 7, "keeps_text": False, **settings})
    log.start()
    try:
        yield log
    finally:
        await log.close()


def log_request(log: RequestLog, principal: Principal = KEY, **fields: Any) -> RequestRecord:
    """Log one request from start to end."""
    record = log.open_record(principal, "/v1/chat/completions", "r")
    for name, value in {"requested_model": "m", "model_id": "m", "status": 200, **fields}.items():
        setattr(record, name, value)
    log.close_record(record)
    return record


async def rows(db: Database) -> list[RequestRow]:
    """Return the logged requests, oldest first."""
    return [*reversed(await request_history.list_page(db, OwnerFilter(), limit=100_000))]


async def total_requests(db: Database, bucket: UsageBucket = UsageBucket.DAY) -> dict[str | None, int]:
    totals = await usage.list_totals(
        db, OwnerFilter(), by=UsageBy.MODEL, bucket=bucket, since=0, until=2**40, limit=1000
    )
    return {total.key: total.requests for total in totals}


async def until_written(db: Database, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await rows(db)) < count:
            await asyncio.sleep(0.02)


# --- one request -------------------------------------------------------------------------------------


def row_of(**fields: Any) -> RequestRow:
    values = {"status": 200, "ended_at": 100.75, **fields}
    return RequestRecord(
        7, "r", values.pop("principal", KEY), "/v1/chat/completions", 100.0, **values
    ).to_row()


def test_row_of_a_request() -> None:
    row = row_of(
        requested_model="M:latest", model_id="m", stream=True, queued_s=0.0204, node_id="n", sent_at=100.1,
        first_byte_at=100.25, usage=Usage(31, 3, 30, 100.0, 22.5), error_code="engine_failed",
    )  # fmt: skip
    assert row == RequestRow(
        id=7, request_id="r", key_id="k", user_id="u", model="m", node_id="n",
        endpoint="/v1/chat/completions", stream=True, status=200, error_code="engine_failed",
        prompt_tokens=31, cached_tokens=30, completion_tokens=3, queue_ms=20, ttft_ms=250, duration_ms=750,
        cost_usd=0.0,
    )  # fmt: skip


def test_a_session_has_no_key() -> None:
    row = row_of(principal=SESSION)
    assert (row.key_id, row.user_id) == (None, "u")


def test_an_unknown_model_is_logged_by_its_requested_name() -> None:
    assert row_of(requested_model="gpt-9").model == "gpt-9"
    assert row_of(requested_model="x" * 5000).model == "x" * module.MAX_MODEL_NAME_CHARS
    assert row_of().model is None


@pytest.mark.parametrize(
    ("fields", "ttft_ms"),
    [
        ({"stream": True, "first_byte_at": 100.3, "sent_at": 100.1}, 300),
        # The engine sent a comment during the prefill.
        ({"stream": True, "first_byte_at": 100.3, "sent_at": 100.1, "usage": Usage(prefill_ms=400.0)}, 500),
        # Not a stream: the whole body came at the end.
        ({"first_byte_at": 100.7, "sent_at": 100.1, "usage": Usage(prefill_ms=50.0)}, 150),
        ({"first_byte_at": 100.7, "sent_at": 100.1}, None),
        ({}, None),
    ],
)
def test_time_to_first_token(fields: dict[str, Any], ttft_ms: int | None) -> None:
    assert row_of(**fields).ttft_ms == ttft_ms


# --- writing -----------------------------------------------------------------------------------------


async def test_many_requests_are_written_in_one_commit(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = 0
    write = db.write

    @asynccontextmanager
    async def counting() -> AsyncIterator[Transaction]:
        nonlocal commits
        commits += 1
        async with write() as tx:
            yield tx

    monkeypatch.setattr(db, "write", counting)
    async with running(db) as log:
        for _ in range(500):
            log_request(log)
        await until_written(db, 500)
        assert commits == 1
    assert await total_requests(db) == {"m": 500}
    assert await total_requests(db, UsageBucket.HOUR) == {"m": 500}


async def test_close_writes_what_has_ended(db: Database) -> None:
    async with running(db) as log:
        for _ in range(3):
            log_request(log)
    assert len(await rows(db)) == 3
    await log.close()
    # A log that was never started can be closed as well.
    await RequestLog(db, retention_days=7, keeps_text=False).close()


async def test_ids_are_the_order_of_arrival(db: Database) -> None:
    times = iter((50.0, 50.0, 50.0, 49.9, 60.0, 20.0))
    async with running(db, clock=lambda: next(times)) as log:
        records = [log.open_record(KEY, "/", "r") for _ in range(6)]
    *near, later, set_back = [record.id for record in records]
    assert near == [
        50 * MICROSECONDS_PER_S,
        50 * MICROSECONDS_PER_S + 1,
        50 * MICROSECONDS_PER_S + 2,
        50 * MICROSECONDS_PER_S + 3,
    ]
    assert (later, set_back) == (60 * MICROSECONDS_PER_S, 20 * MICROSECONDS_PER_S)


async def test_a_made_up_model_is_not_in_the_totals(db: Database) -> None:
    async with running(db) as log:
        log_request(log, requested_model="nonsense", model_id=None, status=404, error_code="model_not_found")
        log_request(log)
    assert [row.model for row in await rows(db)] == ["nonsense", "m"]
    assert await total_requests(db) == {None: 1, "m": 1}


async def test_without_retention_only_totals_are_kept(db: Database) -> None:
    async with running(db, retention_days=0, keeps_text=True) as log:
        assert not log.keeps_text
        log_request(log)
    assert await rows(db) == []
    assert await total_requests(db) == {"m": 1}


async def test_text_is_kept_with_its_request(db: Database) -> None:
    async with running(db, keeps_text=True) as log:
        with_text = log_request(log, transcript=Transcript("user: hi"))
        without = log_request(log, transcript=Transcript(""))
    assert [row.has_text for row in await rows(db)] == [True, False]
    text = await request_history.get_text(db, with_text.id)
    assert text is not None
    assert text.prompt == "user: hi"
    assert await request_history.get_text(db, without.id) is None


async def test_a_flush_continues_when_its_caller_is_cancelled(db: Database) -> None:
    async with running(db) as log:
        log_request(log)
        async with db.write():
            caller = asyncio.create_task(log.flush())
            # Turns of the loop, in which it comes to the lock.
            for _ in range(20):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait({caller})
            assert await rows(db) == []
        await until_written(db, 1)


async def test_a_flush_beside_the_close_does_not_hold_up_the_stop(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_DELAY_S", 0)
    async with asyncio.timeout(20), running(db) as log:
        async with db.write():
            log_request(log)
            flush = asyncio.create_task(log.flush())
            for _ in range(20):  # the writer waits for the lock that the flush holds
                await asyncio.sleep(0)
            closing = asyncio.create_task(log.close())
            await asyncio.sleep(0)
        await asyncio.gather(flush, closing)
    assert len(await rows(db)) == 1


async def test_kill_9_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from llb.security.permissions import Principal, PrincipalKind\n"
        "from llb.gateway.observability.request_log import RequestLog\n"
        "from llb.store.database import Database\n"
        "from llb.wire import Role\n"
        "async def main():\n"
        "    log = RequestLog(await Database.open(Path(sys.argv[1])), retention_days=7, keeps_text=False)\n"
        "    log.start()\n"
        "    def log_request():\n"
        "        key = Principal(kind=PrincipalKind.KEY, id='k', role=Role.USER)\n"
        "        record = log.open_record(key, '/', 'r')\n"
        "        record.status = 200\n"
        "        log.close_record(record)\n"
        "    for _ in range(100): log_request()\n"
        "    await log.flush()\n"
        "    for _ in range(100): log_request()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "llb.db"
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, timeout=60
    )
    assert killed.returncode == -9, killed.stderr.decode()
    db = await Database.open(path)
    try:
        assert len(await rows(db)) == 100
        assert await total_requests(db) == {None: 100}
    finally:
        await db.close()


# --- failing disks -----------------------------------------------------------------------------------


class Disk:
    """Disk that SQLite reports as full, between `fill` and `empty`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def fill(self) -> None:
        async with self._db.write() as tx:
            [[pages]] = await tx.fetch_all("PRAGMA page_count")
            await tx.fetch_all(f"PRAGMA max_page_count = {pages}")

    async def empty(self) -> None:
        async with self._db.write() as tx:
            await tx.fetch_all("PRAGMA max_page_count = 1000000")


@pytest.fixture
async def disk(db: Database, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(module, "RETRY_DELAY_S", 0.01)
    full = Disk(db)
    await full.fill()
    return full


def count_messages(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in message for message in caplog.messages)


async def test_a_full_disk_delays_writes_and_loses_nothing(
    db: Database, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(db) as log:
        # More than fits into the existing pages.
        for _ in range(2000):
            log_request(log)
        await log.flush()
        await log.flush()
        assert await rows(db) == []
        assert count_messages(caplog, "cannot write the request history: database or disk is full") == 1
        await disk.empty()
        await until_written(db, 2000)
    assert await total_requests(db) == {"m": 2000}
    assert log.dropped_requests == 0


async def test_pending_records_are_bounded_and_the_newest_stay(
    db: Database, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 1000)
    async with running(db) as log:
        records = [log_request(log) for _ in range(1200)]
        await log.flush()
        records += [log_request(log) for _ in range(300)]
        await disk.empty()
        await until_written(db, 1000)
        assert [row.id for row in await rows(db)] == [record.id for record in records[-1000:]]
        assert log.dropped_requests == 500
    # The others are reported a minute later.
    assert count_messages(caplog, "200 requests are missing from the history") == 1


async def test_close_does_not_wait_for_a_full_disk(
    db: Database, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(db) as log:
        for _ in range(2000):
            log_request(log)
    assert count_messages(caplog, "2000 requests are missing from the history") == 1


async def test_a_record_that_cannot_be_written_does_not_block_the_others(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(db) as log:
        log_request(log, usage="nonsense")
        await log.flush()
        log_request(log)
    assert [row.prompt_tokens for row in await rows(db)] == [None]
    assert log.dropped_requests == 1
    assert count_messages(caplog, "failed to write 1 requests") == 1


# --- retention ---------------------------------------------------------------------------------------


async def test_old_requests_are_pruned(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRUNE_BATCH_SIZE", 2)
    now = 100 * DAY_S
    async with running(db, clock=lambda: now) as log:
        for age in (36, 9, 8, 7.5, 7.01, 6.99, 0):
            now = round((100 - age) * DAY_S)
            log_request(log)
        await log.flush()
        await log.prune()
        assert [round(100 - row.id / MICROSECONDS_PER_S / DAY_S, 2) for row in await rows(db)] == [6.99, 0]
        hours = await usage.list_totals(
            db, OwnerFilter(), by=UsageBy.MODEL, bucket=UsageBucket.HOUR, since=0, until=now + 1, limit=99
        )
        assert sum(hour.requests for hour in hours) == 6
        now = (100 - 36 + 401) * DAY_S
        await log.prune()
    assert await rows(db) == []
    assert await total_requests(db, UsageBucket.HOUR) == {}
    days = await usage.list_totals(
        db, OwnerFilter(), by=UsageBy.MODEL, bucket=UsageBucket.DAY, since=0, until=now, limit=99
    )
    assert sum(day.requests for day in days) == 6


async def test_requests_beyond_the_limit_are_pruned(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 5)
    monkeypatch.setattr(module, "MAX_TEXTS", 2)
    async with running(db, keeps_text=True) as log:
        records = [log_request(log, transcript=Transcript("x")) for _ in range(8)]
        await log.flush()
        await log.prune()
    assert [(row.id, row.has_text) for row in await rows(db)] == [
        (record.id, number >= 3) for number, record in enumerate(records[3:])
    ]


async def test_a_flood_displaces_only_its_own_requests(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 10)
    monkeypatch.setattr(module, "MAX_TEXTS", 4)
    flooder = Principal(kind=PrincipalKind.KEY, id="flood", role=Role.USER)
    others = [
        Principal(kind=PrincipalKind.KEY, id="k1", role=Role.USER, user_id="ann"),
        Principal(kind=PrincipalKind.SESSION, id="s1", role=Role.USER, user_id="ann"),
        Principal(kind=PrincipalKind.KEY, id="k2", role=Role.USER),
    ]
    async with running(db, keeps_text=True) as log:
        honest = [log_request(log, principal, transcript=Transcript("x")) for principal in others]
        # Requests that fail before they reach an engine, which no rate limit counts.
        flood = [
            log_request(log, flooder, status=400, transcript=Transcript("x"), model_id=None)
            for _ in range(30)
        ]
        await log.flush()
        await log.prune()
    kept = await rows(db)
    assert [row.id for row in kept] == [record.id for record in (*honest, *flood[-7:])]
    assert [row.has_text for row in kept] == [False, True, True, *[False] * 6, True]


async def test_clearing_lets_others_write_in_between_and_spares_what_comes_later(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLEAR_BATCH_SIZE", 2)
    async with running(db, keeps_text=True) as log:
        for _ in range(7):
            log_request(log, transcript=Transcript("x"))
        await log.flush()
        clearing = asyncio.create_task(log.clear())
        # Not "until five are left": the next batch may be quicker than this look.
        async with asyncio.timeout(30):
            while len(await rows(db)) > 5:
                await asyncio.sleep(0)
        async with db.write() as tx:
            await usage.prune(tx, hours_before=0, days_before=0)
        # The client that asked for it left.
        clearing.cancel()
        later = log_request(log)
        await log.flush()
        async with asyncio.timeout(30):
            while len(await rows(db)) != 1:
                await asyncio.sleep(0.01)
    assert [row.id for row in await rows(db)] == [later.id]
    assert await total_requests(db) == {"m": 8}


async def test_pruning_runs_in_the_background(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(db) as log:
        log_request(log)
    assert len(await rows(db)) == 1
    monkeypatch.setattr(module, "PRUNE_INTERVAL_S", 0.01)
    async with running(db, retention_days=0):
        async with asyncio.timeout(30):
            while await rows(db):
                await asyncio.sleep(0.01)
    assert await total_requests(db) == {"m": 1}
