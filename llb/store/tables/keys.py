"""API keys. Only their hashes are stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from llb.store.database import Database, Transaction
from llb.wire import KeyLimits, Role, Scope

_UNLIMITED = KeyLimits()


class ApiKey(Struct, frozen=True, kw_only=True):
    """API key with its owner.

    `owner_id` is None for a key that was created with the command line of the host. `owner_role` is the
    current role of the owner. An admin sets `ceiling`; the owner cannot raise `limits` above it.
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


_SELECT = """
    SELECT api_keys.*, users.username AS owner_name, users.role AS owner_role
    FROM api_keys LEFT JOIN users ON users.id = api_keys.owner_id
"""


async def list_keys(db: Database | Transaction) -> list[ApiKey]:
    rows = await db.fetch_all(_SELECT + " ORDER BY api_keys.created_at, api_keys.id")
    return [_key_from_row(row) for row in rows]


async def get(db: Database | Transaction, key_id: str) -> ApiKey | None:
    row = await db.fetch_one(_SELECT + " WHERE api_keys.id = ?", (key_id,))
    return None if row is None else _key_from_row(row)


async def get_by_hash(db: Database | Transaction, key_hash: str) -> ApiKey | None:
    row = await db.fetch_one(_SELECT + " WHERE api_keys.hash = ?", (key_hash,))
    return None if row is None else _key_from_row(row)


async def add(tx: Transaction, key: ApiKey) -> None:
    await tx.execute(
        "INSERT INTO api_keys "
        "(id, name, hash, prefix, scopes, owner_id, expires_at, created_at, limits, ceiling) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    return bool(await tx.execute("DELETE FROM api_keys WHERE id = ?", (key_id,)))


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
    )


def _encode_limits(limits: KeyLimits) -> str | None:
    return None if limits == _UNLIMITED else msgspec.json.encode(limits).decode()


def _decode_limits(text: str | None) -> KeyLimits:
    return _UNLIMITED if text is None else msgspec.json.decode(text, type=KeyLimits)
