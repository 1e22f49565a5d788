"""What was asked of the models: each request, and its text where that is kept. Both for a while; `usage` has the totals."""
# ruff: noqa: S608  # what is put into a statement are constants of this module

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llb.store.database import Database, Transaction
from llb.store.tables.display_names import KEY_NAME_SQL, NODE_NAME_SQL, USERNAME_SQL
from llb.wire import RequestText

MICROSECONDS_PER_S = 1_000_000  # microseconds a second: ids are such


class RequestRow(Struct, frozen=True, kw_only=True, array_like=True):
    """One request. `id` is the unix microsecond at which it came. `key_name`, `username` and `node_name` are found at
    reading: the names of now, or the last ones of what is gone."""

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
    key_name: str | None = None
    username: str | None = None
    node_name: str | None = None


class OwnerFilter(Struct, frozen=True, kw_only=True):
    """Whose requests: a person's, a key's, or everybody's."""

    user_id: str | None = None
    key_id: str | None = None


class RequestFilter(Struct, frozen=True, kw_only=True):
    """Which requests: those that meet all that is given. Unix seconds, `until` excluded."""

    request_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    node_id: str | None = None
    failed: bool | None = None
    since: float | None = None
    until: float | None = None


MATCH_ALL = RequestFilter()


_JOINED_COLUMNS = ("key_name", "username", "node_name")
_STORED_COLUMNS = tuple(name for name in RequestRow.__struct_fields__ if name not in _JOINED_COLUMNS)


# --- writing -----------------------------------------------------------------------------------------


async def add(tx: Transaction, records: Sequence[RequestRow]) -> None:
    """Keep the requests. One whose `id` is taken, because the clock was set back, is left out."""
    values = ", ".join(json_column(name) for name in _STORED_COLUMNS)
    await tx.execute(
        f"INSERT OR IGNORE INTO requests ({', '.join(_STORED_COLUMNS)}) SELECT {values} FROM json_each(?)",
        (encode_rows(records),),
    )


async def add_texts(tx: Transaction, texts: Sequence[tuple[int, RequestText]]) -> None:
    """Keep the text of requests, by `RequestRecord.id`."""
    await tx.execute_many(
        "INSERT OR IGNORE INTO request_texts (id, prompt, prompt_truncated, answer, answer_truncated) "
        "VALUES (?, ?, ?, ?, ?)",
        [
            (record_id, text.prompt, text.prompt_truncated, text.answer, text.answer_truncated)
            for record_id, text in texts
        ],
    )


def encode_rows(records: Sequence[RequestRow]) -> str:
    """For `json_each` and `column`: many rows in one step. A step a row would have to win the interpreter's lock each
    time, from an event loop that has its hands full."""
    return msgspec.json.encode(records).decode()


def json_column(name: str) -> str:
    """SQL of a field in a row of `as_json`."""
    return f"json_extract(value, '$[{RequestRow.__struct_fields__.index(name)}]')"


# --- forgetting --------------------------------------------------------------------------------------


async def delete_all(tx: Transaction) -> None:
    """Forget every request and its text; the totals stay."""
    await tx.execute("DELETE FROM requests")
    await tx.execute("DELETE FROM request_texts")


async def prune(tx: Transaction, *, before_id: int, limit: int) -> int:
    """Forget the oldest requests before `before_id`, at most `limit` of them; returns how many."""
    removed, last = await _find_oldest(tx, "id < ?", before_id, limit)
    if removed:
        await tx.execute("DELETE FROM requests WHERE id <= ?", (last,))
        await tx.execute("DELETE FROM request_texts WHERE id <= ?", (last,))
    return removed


async def prune_texts(tx: Transaction, *, before_id: int, limit: int) -> int:
    """As `prune`, but of the requests' texts alone."""
    removed, last = await _find_oldest(tx, "has_text AND id < ?", before_id, limit)
    if removed:
        await tx.execute("UPDATE requests SET has_text = 0 WHERE has_text AND id <= ?", (last,))
        await tx.execute("DELETE FROM request_texts WHERE id <= ?", (last,))
    return removed


async def find_oldest_kept_id(tx: Transaction, max_rows: int) -> int:
    """The `id` from which on there are not more than `rows` requests; 0 where there are not so many at all."""
    return await _find_oldest_kept(tx, "requests", max_rows)


async def find_oldest_kept_text_id(tx: Transaction, max_rows: int) -> int:
    """As `first_kept`, of the requests that have their text."""
    return await _find_oldest_kept(tx, "requests WHERE has_text", max_rows)


async def _find_oldest(tx: Transaction, condition: str, before_id: int, limit: int) -> tuple[int, int]:
    """How many of the oldest requests, at most `limit`, there are, and the `id` of the last of them."""
    [row] = await tx.fetch_all(
        f"SELECT count(*), max(id) FROM (SELECT id FROM requests WHERE {condition} ORDER BY id LIMIT ?)",
        (before_id, limit),
    )
    return row[0], row[1]


async def _find_oldest_kept(tx: Transaction, table_clause: str, max_rows: int) -> int:
    # Counted first, which an index does: to walk back from the newest would read all the rows.
    [[count]] = await tx.fetch_all(f"SELECT count(*) FROM {table_clause}")
    if count <= max_rows:
        return 0
    [[first]] = await tx.fetch_all(
        f"SELECT id FROM {table_clause} ORDER BY id LIMIT 1 OFFSET ?", (count - max_rows,)
    )
    return int(first)


# --- reading -----------------------------------------------------------------------------------------

_SELECT = f"""
    SELECT requests.*,
        {KEY_NAME_SQL.format(id="requests.key_id")} AS key_name,
        {USERNAME_SQL.format(id="requests.user_id")} AS username,
        {NODE_NAME_SQL.format(id="requests.node_id")} AS node_name
    FROM requests
"""


def build_page_query(
    owner: OwnerFilter, filters: RequestFilter, *, limit: int, before_id: int | None = None
) -> tuple[str, list[Any]]:
    """The statement of `page`. Only what is given stands in it, so that SQLite takes the index that goes with it."""
    terms = [
        ("user_id = ?", owner.user_id),
        ("key_id = ?", owner.key_id),
        ("key_id = ?", filters.key_id),
        ("model = ?", filters.model),
        ("node_id = ?", filters.node_id),
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
    db: Database | Transaction,
    owner: OwnerFilter,
    filters: RequestFilter = MATCH_ALL,
    *,
    limit: int = 100,
    before_id: int | None = None,
) -> list[RequestRow]:
    """The newest `limit` requests, newest first; those that came before record `before_id` if given."""
    rows = await db.fetch_all(*build_page_query(owner, filters, limit=limit, before_id=before_id))
    return [_record_from_row(row) for row in rows]


async def get(db: Database | Transaction, owner: OwnerFilter, record_id: int) -> RequestRow | None:
    """The request, if it is one of these people's or keys'."""
    rows = await list_page(db, owner, limit=1, before_id=record_id + 1)
    return rows[0] if rows and rows[0].id == record_id else None


async def get_text(db: Database | Transaction, record_id: int) -> RequestText | None:
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
