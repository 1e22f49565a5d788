"""Requests of the tests, and how they are stored."""

from __future__ import annotations

import itertools
from typing import Any

from llb.store.database import Database
from llb.store.tables import request_history, usage
from llb.store.tables.request_history import (
    MICROSECONDS_PER_S,
    OwnerFilter,
    RequestRow,
)
from llb.wire import UsageBucket, UsageBy

EVERYBODY = OwnerFilter()

HOUR_S, DAY_S = 3600, 86_400

NOON = 1_800_014_400  # 2027-01-15T12:00:00Z

_ids = itertools.count(NOON * MICROSECONDS_PER_S)


def request(**changes: Any) -> RequestRow:
    """Successful request, a microsecond later than the previous one."""
    plain: dict[str, Any] = {
        "id": next(_ids),
        "request_id": "r",
        "key_id": "k",
        "user_id": "u",
        "model": "m",
        "node_id": "n",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "status": 200,
        "error_code": None,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "queue_ms": 0,
        "ttft_ms": 20,
        "duration_ms": 100,
    }
    return RequestRow(**{**plain, **changes})


def at(seconds: float, **changes: Any) -> RequestRow:
    return request(id=int(seconds * MICROSECONDS_PER_S), **changes)


def failed(**changes: Any) -> RequestRow:
    counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms", "node_id"))
    return request(status=503, error_code="queue_full", **{**counts, **changes})


async def keep(db: Database, *records: RequestRow) -> None:
    async with db.write() as tx:
        await request_history.add(tx, records)
        await usage.add(tx, records)


async def totals(db: Database, **query: Any) -> list[tuple[Any, ...]]:
    """Start, key and number of requests of the selected totals."""
    plain: dict[str, Any] = {
        "by": UsageBy.MODEL,
        "bucket": UsageBucket.HOUR,
        "since": 0,
        "until": 2**40,
        "limit": 100,
    }
    found = await usage.list_totals(db, query.pop("whose", EVERYBODY), **{**plain, **query})
    return [(record.start, record.key, record.requests) for record in found]
