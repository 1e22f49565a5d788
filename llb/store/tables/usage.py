"""What was used: totals of the requests that came in an hour and in a day of UTC, kept for longer than the requests."""
# ruff: noqa: S608  # what is put into a statement are constants of this module

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec import Struct

from llb.store.database import Database, Transaction
from llb.store.tables.display_names import KEY_NAME_SQL, NODE_NAME_SQL, USERNAME_SQL
from llb.store.tables.request_history import (
    MICROSECONDS_PER_S,
    OwnerFilter,
    RequestRow,
    encode_rows,
    json_column,
)
from llb.wire import UsageBucket, UsageBy

BUCKET_WIDTH_S = {UsageBucket.HOUR: 3600, UsageBucket.DAY: 86_400}
_KEY_COLUMNS = ("start", "model", "key_id", "user_id", "node_id")
_SUM_COLUMNS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")


class UsageRecord(Struct, frozen=True, kw_only=True):
    """Totals of the hour or day that begins at `start`, in unix seconds, of one model, key or node."""

    start: int
    key: str | None
    user_id: str | None
    name: str | None
    username: str | None
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_ms: int


async def add(tx: Transaction, records: Sequence[RequestRow]) -> None:
    """Count the requests in their hour and day. Of each, `model` must be one that exists: whoever makes up names must
    not be able to fill the totals with them."""
    group = ", ".join(f"coalesce({json_column(name)}, '')" for name in _KEY_COLUMNS[1:])
    sums = ", ".join(f"total({json_column(name)})" for name in _SUM_COLUMNS[2:])
    for bucket, width_s in BUCKET_WIDTH_S.items():
        await tx.execute(
            f"""
            INSERT INTO usage_{bucket}s ({", ".join((*_KEY_COLUMNS, *_SUM_COLUMNS))})
            SELECT {json_column("id")} / {width_s * MICROSECONDS_PER_S} * {width_s}, {group},
                count(*), count({json_column("error_code")}), {sums}
            FROM json_each(?) WHERE TRUE GROUP BY 1, 2, 3, 4, 5
            ON CONFLICT ({", ".join(_KEY_COLUMNS)}) DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in _SUM_COLUMNS)}
            """,
            (encode_rows(records),),
        )


async def prune(tx: Transaction, *, hours_before: float, days_before: float) -> None:
    """Forget the totals of hours and days that began before these unix seconds, and the names that no total needs."""
    await tx.execute("DELETE FROM usage_hours WHERE start < ?", (hours_before,))
    if await tx.execute("DELETE FROM usage_days WHERE start < ?", (days_before,)):
        await tx.execute(
            "DELETE FROM former_names WHERE id NOT IN "
            "(SELECT key_id FROM usage_days UNION SELECT user_id FROM usage_days)"
        )


# By what the totals are told: the columns of a group, and the SQL of its name.
_GROUP_SQL = {
    UsageBy.MODEL: ("model AS key, '' AS user_id", "NULL"),
    UsageBy.KEY: ("key_id AS key, user_id", KEY_NAME_SQL.format(id="key")),
    UsageBy.NODE: ("node_id AS key, '' AS user_id", NODE_NAME_SQL.format(id="key")),
}


async def list_totals(
    db: Database | Transaction,
    owner: OwnerFilter,
    *,
    by: UsageBy,
    bucket: UsageBucket,
    since: float,
    until: float,
    limit: int,
) -> list[UsageRecord]:
    """Of the hours or days that begin from `since` and before `until`, in unix seconds: the newest `limit` totals,
    oldest first, and within an hour or day the most used first."""
    group, name = _GROUP_SQL[by]
    rows = await db.fetch_all(
        f"""
        SELECT *, {name} AS name, {USERNAME_SQL.format(id="user_id")} AS username FROM (
            SELECT start, {group}, {", ".join(f"sum({total}) AS {total}" for total in _SUM_COLUMNS)}
            FROM usage_{bucket}s
            WHERE start >= ?1 AND start < ?2 AND (?3 IS NULL OR user_id = ?3) AND (?4 IS NULL OR key_id = ?4)
            GROUP BY 1, 2, 3 ORDER BY start DESC, requests DESC, 2, 3 LIMIT ?5
        ) ORDER BY start, requests DESC, key, user_id
        """,
        (since, until, owner.user_id, owner.key_id, limit),
    )
    return [_usage_from_row(row) for row in rows]


def _usage_from_row(row: sqlite3.Row) -> UsageRecord:
    return UsageRecord(**{**dict(row), "key": row["key"] or None, "user_id": row["user_id"] or None})
