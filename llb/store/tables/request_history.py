"""Inference requests and, if enabled, their texts. `usage` keeps the totals for longer."""
# ruff: noqa: S608  # only constants of this module are formatted into statements

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.store.tables.display_names import KEY_NAME_SQL, NODE_NAME_SQL, USERNAME_SQL
from llb.wire import RequestText

# Ids of requests are Unix microseconds.
MICROSECONDS_PER_S = 1_000_000
MAX_FUTURE_US = 86_400 * MICROSECONDS_PER_S


class RequestRow(Struct, frozen=True, kw_only=True, array_like=True):
    """One request. `id` is the Unix microsecond of its arrival.

    `endpoint` is the route; `endpoint_id` is set in place of `node_id` where an endpoint answered.
    `key_name`, `username` and `node_name` (that of the endpoint, if one answered) are joined when the row is
    read: the current name, or the last one of a removed key, user, node or endpoint.
    """

    id: int
    request_id: str
    key_id: str | None
    user_id: str | None
    model: str | None
    node_id: str | None
    endpoint: str
    stream: bool
    status: int
    error_code: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    queue_ms: int
    ttft_ms: int | None
    duration_ms: int
    has_text: bool = False
    endpoint_id: str | None = None
    cost_usd: float | None = None
    key_name: str | None = None
    username: str | None = None
    node_name: str | None = None


class OwnerFilter(Struct, frozen=True, kw_only=True):
    """Filter by user or key; without either all requests match."""

    user_id: str | None = None
    key_id: str | None = None


class RequestFilter(Struct, frozen=True, kw_only=True):
    """Conditions that must all hold. Times are Unix seconds; `until` is exclusive."""

    request_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    node_id: str | None = None
    endpoint_id: str | None = None
    failed: bool | None = None
    since: float | None = None
    until: float | None = None


MATCH_ALL = RequestFilter()


_JOINED_COLUMNS = ("key_name", "username", "node_name")
_STORED_COLUMNS = tuple(name for name in RequestRow.__struct_fields__ if name not in _JOINED_COLUMNS)
_stored_values = attrgetter(*_STORED_COLUMNS)
# Maximum number of rows of one statement.
_MAX_ROWS = 128


# --- writing -----------------------------------------------------------------------------------------


async def add(tx: Transaction, records: Sequence[RequestRow]) -> None:
    """Store requests. A request whose `id` is taken, because the clock was set back, is skipped."""
    for start in range(0, len(records), _MAX_ROWS):
        part = records[start : start + _MAX_ROWS]
        # Few sizes, so that each statement is prepared once. Padding rows are skipped, because their id is
        # taken.
        count = 1 << (len(part) - 1).bit_length()
        filled = (*part, *[part[-1]] * (count - len(part)))
        # No loop here: its 19 iterations for each request took a thirtieth of an answer.
        values = list(chain.from_iterable(map(_stored_values, filled)))
        await tx.run(_insert_statement(count), values)


async def add_texts(tx: Transaction, texts: Sequence[tuple[int, RequestText]]) -> None:
    """Store the texts of requests, by `RequestRow.id`."""
    await tx.execute_many(
        "INSERT OR IGNORE INTO request_texts (id, prompt, prompt_truncated, answer, answer_truncated) "
        "VALUES (?, ?, ?, ?, ?)",
        [
            (record_id, text.prompt, text.prompt_truncated, text.answer, text.answer_truncated)
            for record_id, text in texts
        ],
    )


@lru_cache
def _insert_statement(count: int) -> str:
    """SQL that inserts `count` rows.

    A statement for each row would have to acquire the interpreter lock each time, against a busy event loop.
    Rows as one JSON text, which SQLite takes apart, cost two and a half times as much.
    """
    row = f"({', '.join('?' * len(_STORED_COLUMNS))})"
    return f"INSERT OR IGNORE INTO requests ({', '.join(_STORED_COLUMNS)}) VALUES {', '.join([row] * count)}"


# --- deleting ----------------------------------------------------------------------------------------


async def prune(tx: Transaction, *, before_id: int, limit: int) -> int:
    """Delete up to `limit` of the oldest requests before `before_id`; returns how many."""
    [[removed, last]] = await tx.fetch_all(
        "SELECT count(*), max(id) FROM (SELECT id FROM requests WHERE id < ? ORDER BY id LIMIT ?)",
        (before_id, limit),
    )
    if removed:
        await tx.execute("DELETE FROM requests WHERE id <= ?", (last,))
        await tx.execute("DELETE FROM request_texts WHERE id <= ?", (last,))
    return int(removed)


async def find_newest_id(db: Reader) -> int:
    """`id` of the newest request; 0 without any."""
    [[newest]] = await db.fetch_all("SELECT max(id) FROM requests")
    return newest or 0


async def restamp_future(tx: Transaction, *, now_id: int) -> None:
    """Move requests of a time when the clock was ahead by a day or more to now, in their order.

    They would be the newest ones, and be kept, until that time comes.
    """
    newest = await find_newest_id(tx)
    if newest <= now_id + MAX_FUTURE_US:
        return
    shift = newest - now_id
    await tx.execute("UPDATE OR IGNORE requests SET id = id - ? WHERE id > ?", (shift, now_id))
    await tx.execute(
        "UPDATE OR IGNORE request_texts SET id = id - ? "
        "WHERE id > ? AND id NOT IN (SELECT id FROM requests WHERE id > ?)",
        (shift, now_id, now_id),
    )


# --- shares of owners --------------------------------------------------------------------------------


class RequestOwner(Struct, frozen=True):
    """Owner of a request: the user, else the key; neither for a command on the host."""

    user_id: str | None
    key_id: str | None

    def condition(self) -> tuple[str, list[str]]:
        """SQL that matches the requests of this owner, and its values."""
        if self.user_id is not None:
            return "user_id = ?", [self.user_id]
        if self.key_id is not None:
            return "key_id = ? AND user_id IS NULL", [self.key_id]
        return "user_id IS NULL AND key_id IS NULL", []


async def count_requests(db: Reader, *, with_text: bool = False) -> int:
    """Number of requests, of all or of those that have a text. An index answers."""
    [[count]] = await db.fetch_all(f"SELECT count(*) FROM {_source(with_text)}")
    return int(count)


async def count_by_owner(db: Reader, *, with_text: bool = False) -> dict[RequestOwner, int]:
    """Number of requests of each owner. Reads an index of all requests."""
    rows = await db.fetch_all(
        f"""
        SELECT user_id, iif(user_id IS NULL, key_id, NULL), count(*) FROM {_source(with_text)}
        GROUP BY 1, 2
        """
        if with_text
        else """
        SELECT user_id, NULL, count(*) FROM requests WHERE user_id IS NOT NULL GROUP BY user_id
        UNION ALL
        SELECT NULL, key_id, count(*) FROM requests WHERE user_id IS NULL GROUP BY key_id
        """
    )
    return {RequestOwner(user_id, key_id): count for user_id, key_id, count in rows}


async def prune_owner(tx: Transaction, owner: RequestOwner, *, limit: int, with_text: bool = False) -> int:
    """Delete up to `limit` of the oldest requests of an owner, or only their texts; returns how many."""
    condition, values = owner.condition()
    joint = "AND" if with_text else "WHERE"
    rows = await tx.fetch_all(
        f"SELECT id FROM {_source(with_text)} {joint} {condition} ORDER BY id LIMIT ?", (*values, limit)
    )
    ids = msgspec.json.encode([row["id"] for row in rows]).decode()
    matches = "id IN (SELECT value FROM json_each(?))"
    if with_text:
        await tx.execute(f"UPDATE requests SET has_text = 0 WHERE {matches}", (ids,))
    else:
        await tx.execute(f"DELETE FROM requests WHERE {matches}", (ids,))
    await tx.execute(f"DELETE FROM request_texts WHERE {matches}", (ids,))
    return len(rows)


def _source(with_text: bool) -> str:
    # Without the hint SQLite reads the index of the owners, with a look at every request.
    return "requests INDEXED BY requests_with_text WHERE has_text" if with_text else "requests"


# --- reading -----------------------------------------------------------------------------------------

_SELECT = f"""
    SELECT requests.*,
        {KEY_NAME_SQL.format(id="requests.key_id")} AS key_name,
        {USERNAME_SQL.format(id="requests.user_id")} AS username,
        {NODE_NAME_SQL.format(id="coalesce(requests.node_id, requests.endpoint_id)")} AS node_name
    FROM requests
"""


def build_page_query(
    owner: OwnerFilter, filters: RequestFilter, *, limit: int, before_id: int | None = None
) -> tuple[str, list[Any]]:
    """Statement and parameters of `list_page`.

    It contains only the conditions that are set, so that SQLite picks the matching index.
    """
    terms = [
        ("user_id = ?", owner.user_id),
        ("key_id = ?", owner.key_id),
        ("key_id = ?", filters.key_id),
        ("model = ?", filters.model),
        ("node_id = ?", filters.node_id),
        ("endpoint_id = ?", filters.endpoint_id),
        ("request_id = ?", filters.request_id),
        ("id >= ?", None if filters.since is None else int(filters.since * MICROSECONDS_PER_S)),
        ("id < ?", None if filters.until is None else int(filters.until * MICROSECONDS_PER_S)),
        ("id < ?", before_id),
    ]
    conditions = [condition for condition, value in terms if value is not None]
    if filters.failed is not None:
        conditions.append("error_code IS NOT NULL" if filters.failed else "error_code IS NULL")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    values = [value for _, value in terms if value is not None]
    return f"{_SELECT} {where} ORDER BY id DESC LIMIT ?", [*values, limit]


async def list_page(
    db: Reader,
    owner: OwnerFilter,
    filters: RequestFilter = MATCH_ALL,
    *,
    limit: int = 100,
    before_id: int | None = None,
) -> list[RequestRow]:
    """The newest `limit` requests, newest first; only requests older than `before_id` if given."""
    rows = await db.fetch_all(*build_page_query(owner, filters, limit=limit, before_id=before_id))
    return [_record_from_row(row) for row in rows]


async def get(db: Reader, owner: OwnerFilter, record_id: int) -> RequestRow | None:
    """The request `record_id`, if it matches `owner`."""
    rows = await list_page(db, owner, limit=1, before_id=record_id + 1)
    return rows[0] if rows and rows[0].id == record_id else None


async def get_text(db: Reader, record_id: int) -> RequestText | None:
    row = await db.fetch_one("SELECT * FROM request_texts WHERE id = ?", (record_id,))
    if row is None:
        return None
    return RequestText(
        prompt=row["prompt"],
        prompt_truncated=bool(row["prompt_truncated"]),
        answer=row["answer"],
        answer_truncated=bool(row["answer_truncated"]),
    )


def _record_from_row(row: sqlite3.Row) -> RequestRow:
    return RequestRow(**{**dict(row), "stream": bool(row["stream"]), "has_text": bool(row["has_text"])})
