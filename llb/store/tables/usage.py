"""Usage totals per hour and per day of UTC, kept longer than the requests."""
# ruff: noqa: S608  # only constants of this module are formatted into statements

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.store.tables.display_names import KEY_NAME_SQL, NODE_NAME_SQL, USERNAME_SQL
from llb.store.tables.request_history import MICROSECONDS_PER_S, OwnerFilter, RequestRow
from llb.wire import UsageBucket, UsageBy

BUCKET_WIDTH_S = {UsageBucket.HOUR: 3600, UsageBucket.DAY: 86_400}
_HOUR_US = 3600 * MICROSECONDS_PER_S
_KEY_COLUMNS = ("start", "model", "key_id", "user_id", "node_id")
_SUM_COLUMNS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_ms")


class UsageRecord(Struct, frozen=True, kw_only=True):
    """Totals of one model, key or node in the hour or day that begins at `start`, in Unix seconds."""

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
    cost_usd: float | None


async def add(tx: Transaction, records: Sequence[RequestRow]) -> None:
    """Add requests to the totals of their hour and day.

    `model` must be a model that exists, so that requests with invented names cannot fill the table.
    """
    groups: dict[_TotalKey, list[RequestRow]] = {}
    for record in records:
        key = (record.id // _HOUR_US, *_key_names(record))
        group = groups.get(key)
        if group is None:
            group = groups[key] = []
        group.append(record)
    totals = {key: _sum_up(group) for key, group in groups.items()}
    for bucket, width_s in BUCKET_WIDTH_S.items():
        rows = [
            (hour * 3600 // width_s * width_s, *(name or "" for name in names), *sums)
            for (hour, *names), sums in totals.items()
        ]
        # One turn of the database's thread, whatever the number of rows.
        await tx.run(_ADD_STATEMENTS[bucket], (msgspec.json.encode(rows).decode(),))


# Hour since 1970, model, key, user and node.
_TotalKey = tuple[int, str | None, str | None, str | None, str | None]


_key_names = attrgetter(*_KEY_COLUMNS[1:])
_error_code, _duration, _cost = attrgetter("error_code"), attrgetter("duration_ms"), attrgetter("cost_usd")
_token_counts = tuple(map(attrgetter, ("prompt_tokens", "cached_tokens", "completion_tokens")))


def _sum_up(records: Sequence[RequestRow]) -> tuple[int | float | None, ...]:
    """Return the values of `_SUM_COLUMNS`, and the cost.

    Summed here, because in SQL it takes ten times as long; and column by column, because a loop over the
    requests takes four times as long.
    """
    costs = [cost for cost in map(_cost, records) if cost is not None]
    return (
        len(records),
        len(records) - [*map(_error_code, records)].count(None),
        *(sum(filter(None, map(tokens, records))) for tokens in _token_counts),
        sum(map(_duration, records)),
        sum(costs) if costs else None,
    )


def _add_statement(bucket: UsageBucket) -> str:
    columns = (*_KEY_COLUMNS, *_SUM_COLUMNS, "cost_usd")
    updates = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUM_COLUMNS)
    # Unknown costs leave the known sum as it is.
    updates += (
        ", cost_usd = iif(excluded.cost_usd IS NULL, cost_usd, coalesce(cost_usd, 0) + excluded.cost_usd)"
    )
    values = (f"json_extract(value, '$[{number}]')" for number in range(len(columns)))
    return f"""
        INSERT INTO usage_{bucket}s ({", ".join(columns)}) SELECT {", ".join(values)} FROM json_each(?)
        WHERE TRUE ON CONFLICT ({", ".join(_KEY_COLUMNS)}) DO UPDATE SET {updates}
        """


_ADD_STATEMENTS = {bucket: _add_statement(bucket) for bucket in BUCKET_WIDTH_S}


async def prune(tx: Transaction, *, hours_before: float, days_before: float) -> None:
    """Delete the totals of hours and days that began before these Unix seconds.

    Also deletes the former names that no total refers to.
    """
    await tx.execute("DELETE FROM usage_hours WHERE start < ?", (hours_before,))
    if await tx.execute("DELETE FROM usage_days WHERE start < ?", (days_before,)):
        await tx.execute(
            "DELETE FROM former_names WHERE id NOT IN "
            "(SELECT key_id FROM usage_days UNION SELECT user_id FROM usage_days)"
        )


_SUMS = ", ".join(f"sum({total}) AS {total}" for total in (*_SUM_COLUMNS, "cost_usd"))
# Columns of each grouping, and the SQL for the name of a group.
_GROUP_SQL = {
    UsageBy.MODEL: ("model AS key, '' AS user_id", "NULL"),
    UsageBy.KEY: ("key_id AS key, user_id", KEY_NAME_SQL.format(id="key")),
    UsageBy.USER: ("user_id AS key, user_id", USERNAME_SQL.format(id="key")),
    UsageBy.NODE: ("node_id AS key, '' AS user_id", NODE_NAME_SQL.format(id="totals.key")),
}


async def list_totals(
    db: Reader,
    owner: OwnerFilter,
    *,
    by: UsageBy,
    bucket: UsageBucket,
    since: float,
    until: float,
    limit: int,
) -> list[UsageRecord]:
    """The newest `limit` totals of hours or days that begin from `since` and before `until`, in Unix seconds.

    In order of time; within one hour or day the group with the most requests comes first.
    """
    group, name = _GROUP_SQL[by]
    rows = await db.fetch_all(
        f"""
        SELECT *, {name} AS name, {USERNAME_SQL.format(id="user_id")} AS username FROM (
            SELECT start, {group}, {_SUMS}
            FROM usage_{bucket}s
            WHERE start >= ?1 AND start < ?2 AND (?3 IS NULL OR user_id = ?3) AND (?4 IS NULL OR key_id = ?4)
            GROUP BY 1, 2, 3 ORDER BY start DESC, requests DESC, 2, 3 LIMIT ?5
        ) AS totals ORDER BY start, requests DESC, key, user_id
        """,
        (since, until, owner.user_id, owner.key_id, limit),
    )
    return [_usage_from_row(row) for row in rows]


def _usage_from_row(row: sqlite3.Row) -> UsageRecord:
    return UsageRecord(**{**dict(row), "key": row["key"] or None, "user_id": row["user_id"] or None})
