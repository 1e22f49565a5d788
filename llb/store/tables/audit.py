"""Audit log: actor, action, client address and result."""

from __future__ import annotations

import sqlite3
import time

from msgspec import Struct

from llb.store.database import Database, Transaction

# Denied logins must not fill a disk, so the oldest records are removed.
MAX_ROWS = 100_000


class AuditRecord(Struct, frozen=True, kw_only=True):
    id: int
    time: float
    actor: str
    action: str
    target: str | None
    address: str | None
    result: str


async def record(
    tx: Transaction,
    *,
    actor: str,
    action: str,
    target: str | None = None,
    address: str | None = None,
    result: str = "ok",
) -> None:
    """Record an action in the transaction that performs it; remove the oldest records above `MAX_ROWS`."""
    await tx.execute(
        "INSERT INTO audit (time, actor, action, target, address, result) VALUES (?, ?, ?, ?, ?, ?)",
        (time.time(), actor, action, target, address, result),
    )
    await tx.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (MAX_ROWS,))


async def list_newest(
    db: Database | Transaction, *, limit: int = 100, before_id: int | None = None
) -> list[AuditRecord]:
    """The newest `limit` records, newest first; only records older than `before_id` if given."""
    rows = await db.fetch_all(
        "SELECT * FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",
        (before_id, before_id, limit),
    )
    return [_record_from_row(row) for row in rows]


def _record_from_row(row: sqlite3.Row) -> AuditRecord:
    return AuditRecord(**dict(row))
