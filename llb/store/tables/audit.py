"""Audit log: actor, action, client address and result.

Each class of records has a quota, and within a class each actor a fair share of it: no one else's actions
push out a record of an administrator, and an actor that fills a class pushes out its own records.
"""

from __future__ import annotations

import sqlite3
import time
from enum import StrEnum

from msgspec import Struct

from llb.policy.fair_share import largest_share
from llb.store.database import Reader, Transaction


class AuditClass(StrEnum):
    """Class of records, which no other class can push out."""

    # Acts of administrators, of the host's commands and of llb itself.
    ADMIN = "admin"
    # Acts of other users and keys.
    USER = "user"
    LOGIN = "login"
    # Refused actions, including failed logins.
    DENIED = "denied"


QUOTAS = {
    AuditClass.ADMIN: 50_000,
    AuditClass.USER: 20_000,
    AuditClass.LOGIN: 20_000,
    AuditClass.DENIED: 10_000,
}
# Records between two checks of the quotas, each of which counts the records of a class.
PRUNE_INTERVAL = 64
_LOGIN_ACTIONS = frozenset({"login", "logout"})


class AuditActor(Struct, frozen=True, kw_only=True):
    """Who acted. `label` is shown; `id` is what the records of one actor are counted by."""

    label: str
    id: str
    is_admin: bool = False


SYSTEM = AuditActor(label="system", id="system", is_admin=True)


class AuditRecord(Struct, frozen=True, kw_only=True):
    id: int
    time: float
    actor: str
    action: str
    target: str | None
    address: str | None
    result: str


_COLUMNS = ", ".join(AuditRecord.__struct_fields__)


async def record(
    tx: Transaction,
    *,
    actor: AuditActor,
    action: str,
    target: str | None = None,
    address: str | None = None,
    result: str = "ok",
    denied: bool = False,
) -> int:
    """Record an action in the transaction that performs it; remove the oldest records above the quotas.

    Returns the id of the record.

    `denied`: it was refused. Then the records are counted by address, because anyone can try anything.
    """
    if denied:
        record_class, actor_id = AuditClass.DENIED, address or actor.id
    elif action in _LOGIN_ACTIONS:
        record_class, actor_id = AuditClass.LOGIN, actor.id
    else:
        record_class, actor_id = AuditClass.ADMIN if actor.is_admin else AuditClass.USER, actor.id
    row_id = await tx.insert(
        "INSERT INTO audit (time, actor, action, target, address, result, actor_id, class) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (time.time(), actor.label, action, target, address, result, actor_id, record_class),
    )
    if row_id % PRUNE_INTERVAL == 0:
        for each_class, quota in QUOTAS.items():
            await _prune(tx, each_class, quota)
    return row_id


async def set_result(tx: Transaction, record_id: int, result: str) -> None:
    """Change the result of an action that was recorded before its end."""
    await tx.execute("UPDATE audit SET result = ? WHERE id = ?", (result, record_id))


async def _prune(tx: Transaction, record_class: AuditClass, quota: int) -> None:
    """Remove the oldest records of the actors that have more than their share of a class above its quota."""
    rows = await tx.fetch_all(
        "SELECT actor_id, count(*) AS records FROM audit WHERE class = ? GROUP BY actor_id", (record_class,)
    )
    excess = sum(row["records"] for row in rows) - quota
    if excess <= 0:
        return
    share = largest_share((row["records"] for row in rows), quota)
    if share == 0:
        await tx.execute(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE class = ? ORDER BY id LIMIT ?)",
            (record_class, excess),
        )
        return
    for row in rows:
        if row["records"] > share:
            await tx.execute(
                "DELETE FROM audit WHERE id IN "
                "(SELECT id FROM audit WHERE class = ? AND actor_id = ? ORDER BY id LIMIT ?)",
                (record_class, row["actor_id"], row["records"] - share),
            )


async def list_newest(db: Reader, *, limit: int = 100, before_id: int | None = None) -> list[AuditRecord]:
    """The newest `limit` records, newest first; only records older than `before_id` if given."""
    rows = await db.fetch_all(
        f"SELECT {_COLUMNS} FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608
        (before_id, before_id, limit),
    )
    return [_record_from_row(row) for row in rows]


def _record_from_row(row: sqlite3.Row) -> AuditRecord:
    return AuditRecord(**dict(row))
