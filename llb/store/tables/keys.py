"""API keys. Only their hashes are stored."""
# ruff: noqa: S608  # only constants of this module are formatted into statements

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction, encode_ids
from llb.wire import KeyLimits, Role, Scope

_UNLIMITED = KeyLimits()
# Keys that made one another, the first one not counted. SQLite deletes them with one statement.
MAX_GENERATIONS = 8


class ApiKey(Struct, frozen=True, kw_only=True):
    """API key with its owner.

    `owner_id` is None for a key that was created with the command line of the host. `owner_role` is the
    current role of the owner. An admin sets `ceiling`; the owner cannot raise `limits` above it. `parent_id`
    is the key that made this one, which ends with it.
    """

    id: str
    name: str
    hash: str
    prefix: str
    scopes: frozenset[Scope]
    owner_id: str | None
    owner_name: str | None = None
    owner_role: Role | None = None
    expires_at: float | None
    created_at: float
    last_used_at: float | None = None
    limits: KeyLimits = _UNLIMITED
    ceiling: KeyLimits = _UNLIMITED
    parent_id: str | None = None


class KeyCursor(Struct, frozen=True):
    """Position in the list of keys, which is in order of creation."""

    created_at: float
    key_id: str


_SELECT = """
    SELECT api_keys.*, users.username AS owner_name, users.role AS owner_role
    FROM api_keys LEFT JOIN users ON users.id = api_keys.owner_id
"""


async def list_keys(
    db: Reader,
    *,
    owner_id: str | None = None,
    limit: int | None = None,
    after: KeyCursor | None = None,
    newest_first: bool = False,
) -> list[ApiKey]:
    """The first `limit` keys, of `owner_id` or of all, in order of creation, from the position `after` on."""
    conditions: list[str] = ["TRUE"]
    values: list[str | float] = []
    if owner_id is not None:
        conditions.append("api_keys.owner_id = ?")
        values.append(owner_id)
    if after is not None:
        conditions.append(f"(api_keys.created_at, api_keys.id) {'<' if newest_first else '>'} (?, ?)")
        values += [after.created_at, after.key_id]
    order = "DESC" if newest_first else "ASC"
    rows = await db.fetch_all(
        f"{_SELECT} WHERE {' AND '.join(conditions)} "
        f"ORDER BY api_keys.created_at {order}, api_keys.id {order} LIMIT ?",
        (*values, -1 if limit is None else limit),
    )
    return [_key_from_row(row) for row in rows]


async def list_by_ids(db: Reader, ids: Collection[str]) -> list[ApiKey]:
    rows = await db.fetch_all(
        _SELECT + " WHERE api_keys.id IN (SELECT value FROM json_each(?))", (encode_ids(ids),)
    )
    return [_key_from_row(row) for row in rows]


async def find(db: Reader, *, id_or_hash: tuple[str, str], name: str, prefix: str) -> list[ApiKey]:
    """The key with this id or this hash; without one, those with this name; without any, those whose prefix
    begins with `prefix`. At most 10.
    """
    rows = await db.fetch_all(_SELECT + " WHERE api_keys.id = ? OR api_keys.hash = ?", id_or_hash)
    if not rows:
        rows = await db.fetch_all(
            _SELECT + " WHERE api_keys.name = ? ORDER BY api_keys.created_at LIMIT 10", (name,)
        )
    if not rows and prefix:
        rows = await db.fetch_all(
            f"{_SELECT} WHERE substr(api_keys.prefix, 1, length(?1)) = ?1 "
            "ORDER BY api_keys.created_at LIMIT 10",
            (prefix,),
        )
    return [_key_from_row(row) for row in rows]


async def list_ancestors(db: Reader, key: ApiKey) -> list[ApiKey]:
    """The keys that `key` comes from, its parent first."""
    if key.parent_id is None:
        return []
    rows = await db.fetch_all(
        f"""
        WITH RECURSIVE ancestors (id, generation) AS (
            VALUES (?, 1)
            UNION ALL
            SELECT parent_id, generation + 1 FROM ancestors JOIN api_keys USING (id)
            WHERE parent_id IS NOT NULL AND generation < {MAX_GENERATIONS}
        )
        {_SELECT} JOIN ancestors ON ancestors.id = api_keys.id ORDER BY ancestors.generation
        """,
        (key.parent_id,),
    )
    return [_key_from_row(row) for row in rows]


async def count_descendants(db: Reader, key_id: str) -> int:
    """Number of the keys that come from this one."""
    [[count]] = await db.fetch_all(
        """
        WITH RECURSIVE descendants (id) AS (
            SELECT id FROM api_keys WHERE parent_id = ?
            UNION SELECT api_keys.id FROM descendants JOIN api_keys ON api_keys.parent_id = descendants.id
        )
        SELECT count(*) FROM descendants
        """,
        (key_id,),
    )
    return int(count)


async def count_of_owner(db: Reader, owner_id: str) -> int:
    """Number of the keys of a user, expired ones too."""
    [[count]] = await db.fetch_all("SELECT count(*) FROM api_keys WHERE owner_id = ?", (owner_id,))
    return int(count)


async def get(db: Reader, key_id: str) -> ApiKey | None:
    row = await db.fetch_one(_SELECT + " WHERE api_keys.id = ?", (key_id,))
    return None if row is None else _key_from_row(row)


async def get_by_hash(db: Reader, key_hash: str) -> ApiKey | None:
    row = await db.fetch_one(_SELECT + " WHERE api_keys.hash = ?", (key_hash,))
    return None if row is None else _key_from_row(row)


async def add(tx: Transaction, key: ApiKey) -> None:
    await tx.execute(
        "INSERT INTO api_keys "
        "(id, name, hash, prefix, scopes, owner_id, expires_at, created_at, limits, ceiling, parent_id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key.id,
            key.name,
            key.hash,
            key.prefix,
            msgspec.json.encode(sorted(key.scopes)).decode(),
            key.owner_id,
            key.expires_at,
            key.created_at,
            _encode_limits(key.limits),
            _encode_limits(key.ceiling),
            key.parent_id,
        ),
    )


async def set_limits(tx: Transaction, key_id: str, limits: KeyLimits, ceiling: KeyLimits) -> None:
    await tx.execute(
        "UPDATE api_keys SET limits = ?, ceiling = ? WHERE id = ?",
        (_encode_limits(limits), _encode_limits(ceiling), key_id),
    )


async def update_last_used(tx: Transaction, last_used_by_key: Mapping[str, float]) -> None:
    """Record when each key was last used, in Unix seconds."""
    await tx.execute_many(
        "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?",
        [(at, key_id) for key_id, at in last_used_by_key.items()],
    )


async def remove(tx: Transaction, key_id: str) -> bool:
    """Remove a key and the keys that come from it; False if there is no such key."""
    return bool(await tx.execute("DELETE FROM api_keys WHERE id = ?", (key_id,)))


async def remove_by_owner(tx: Transaction, owner_id: str) -> list[ApiKey]:
    """Remove all keys of a user; returns them."""
    rows = await tx.fetch_all(_SELECT + " WHERE api_keys.owner_id = ?", (owner_id,))
    await tx.execute("DELETE FROM api_keys WHERE owner_id = ?", (owner_id,))
    return [_key_from_row(row) for row in rows]


async def remove_expired_of_owner(tx: Transaction, owner_id: str, now: float) -> int:
    """Remove the keys of a user that have expired; returns how many."""
    return await tx.execute("DELETE FROM api_keys WHERE owner_id = ? AND expires_at <= ?", (owner_id, now))


async def keep_expired(tx: Transaction, before: float, *, now: float) -> None:
    """Let the keys that expired before one time have expired by an earlier one, `now`."""
    await tx.execute(
        "UPDATE api_keys SET expires_at = ?2 WHERE expires_at <= ?1 AND expires_at > ?2", (before, now)
    )


def _key_from_row(row: sqlite3.Row) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        hash=row["hash"],
        prefix=row["prefix"],
        scopes=msgspec.json.decode(row["scopes"], type=frozenset[Scope]),
        owner_id=row["owner_id"],
        owner_name=row["owner_name"],
        owner_role=None if row["owner_role"] is None else Role(row["owner_role"]),
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        limits=_decode_limits(row["limits"]),
        ceiling=_decode_limits(row["ceiling"]),
        parent_id=row["parent_id"],
    )


def _encode_limits(limits: KeyLimits) -> str | None:
    return None if limits == _UNLIMITED else msgspec.json.encode(limits).decode()


def _decode_limits(text: str | None) -> KeyLimits:
    return _UNLIMITED if text is None else msgspec.json.decode(text, type=KeyLimits)
