"""Sign-in sessions. Only the hashes of their tokens are stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

from msgspec import Struct

from llb.store.database import Reader, Transaction, encode_ids
from llb.wire import Role


class Session(Struct, frozen=True, kw_only=True):
    """Session with the fields of its user that each request needs. It ends at `expires_at` at the latest."""

    id: str
    user_id: str
    username: str
    role: Role
    must_change_password: bool
    created_at: float
    expires_at: float
    last_seen: float
    address: str | None


_SELECT = """
    SELECT sessions.*, users.username, users.role, users.must_change_password
    FROM sessions JOIN users ON users.id = sessions.user_id
"""


async def get(db: Reader, session_id: str) -> Session | None:
    row = await db.fetch_one(_SELECT + " WHERE sessions.id = ?", (session_id,))
    return None if row is None else _session_from_row(row)


async def list_addresses(db: Reader, user_id: str, limit: int = 100) -> list[str]:
    """Addresses from which the newest sessions of a user were started."""
    rows = await db.fetch_all(
        "SELECT address FROM sessions WHERE user_id = ? AND address IS NOT NULL "
        "GROUP BY address ORDER BY max(created_at) DESC LIMIT ?",
        (user_id, limit),
    )
    return [str(row["address"]) for row in rows]


async def list_by_ids(db: Reader, ids: Collection[str]) -> list[Session]:
    rows = await db.fetch_all(
        f"{_SELECT} WHERE sessions.id IN (SELECT value FROM json_each(?))",  # noqa: S608  # a constant
        (encode_ids(ids),),
    )
    return [_session_from_row(row) for row in rows]


async def add(
    tx: Transaction, *, session_id: str, user_id: str, now: float, expires_at: float, address: str | None
) -> None:
    await tx.execute(
        "INSERT INTO sessions (id, user_id, created_at, expires_at, last_seen, address) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (session_id, user_id, now, expires_at, now, address),
    )


async def update_last_seen(tx: Transaction, last_seen_by_session: Mapping[str, float]) -> None:
    """Record when each session was last used, in Unix seconds."""
    await tx.execute_many(
        "UPDATE sessions SET last_seen = max(last_seen, ?) WHERE id = ?",
        [(at, session_id) for session_id, at in last_seen_by_session.items()],
    )


async def remove(tx: Transaction, session_id: str) -> bool:
    return bool(await tx.execute("DELETE FROM sessions WHERE id = ?", (session_id,)))


async def remove_by_user(tx: Transaction, user_id: str) -> int:
    """Remove all sessions of a user; returns how many."""
    return await tx.execute("DELETE FROM sessions WHERE user_id = ?", (user_id,))


async def remove_excess(tx: Transaction, user_id: str, max_sessions: int) -> int:
    """Remove all sessions of a user but the `max_sessions` that were used last; returns how many."""
    return await tx.execute(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE user_id = ? "
        "ORDER BY last_seen DESC, created_at DESC LIMIT -1 OFFSET ?)",
        (user_id, max_sessions),
    )


async def remove_expired(tx: Transaction, *, now: float, idle_s: float) -> int:
    """Remove sessions that have expired or were not used for `idle_s`; returns how many."""
    return await tx.execute(
        "DELETE FROM sessions WHERE expires_at <= ? OR last_seen <= ?", (now, now - idle_s)
    )


def _session_from_row(row: sqlite3.Row) -> Session:
    return Session(
        id=row["id"],
        user_id=row["user_id"],
        username=row["username"],
        role=Role(row["role"]),
        must_change_password=bool(row["must_change_password"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_seen=row["last_seen"],
        address=row["address"],
    )
