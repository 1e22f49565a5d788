"""The wishes that the cluster hold a model. Every change of them raises the revision in the same transaction."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Literal

import msgspec
from msgspec import Struct

from llb.store.database import Database, Transaction
from llb.wire import FileSpec, Model


class RegistrationState(StrEnum):
    ACTIVE = "active"
    DELETING = "deleting"  # a tombstone: it stays until every node said that the files are gone


class Registration(Struct, frozen=True, kw_only=True):
    """`entry` is the catalogue entry as it was then; `resolved` the pinned files, None until the Hub has told."""

    model_id: str
    attempt: int = 1
    replicas: int | Literal["all"] = "all"
    state: RegistrationState = RegistrationState.ACTIVE
    entry: Model
    resolved: tuple[FileSpec, ...] | None = None
    error: str | None = None
    pinned: bool = False  # its engines stay in memory
    created_at: float
    created_by: str

    @property
    def is_active(self) -> bool:
        return self.state is RegistrationState.ACTIVE


async def get_revision(db: Database | Transaction) -> int:
    """Grows with every change of any registration, and never shrinks."""
    row = await db.fetch_one("SELECT value FROM settings WHERE key = 'revision'")
    return 0 if row is None else int(row["value"])


async def list_registrations(db: Database | Transaction) -> list[Registration]:
    """All of them, tombstones too, in the order they were made."""
    rows = await db.fetch_all("SELECT * FROM registrations ORDER BY created_at, model_id")
    return [_registration_from_row(row) for row in rows]


async def get(db: Database | Transaction, model_id: str) -> Registration | None:
    row = await db.fetch_one("SELECT * FROM registrations WHERE model_id = ?", (model_id,))
    return None if row is None else _registration_from_row(row)


async def put(tx: Transaction, registration: Registration) -> None:
    """Add or replace a registration, all of it."""
    await tx.execute(
        "INSERT OR REPLACE INTO registrations "
        "(model_id, attempt, replicas, state, entry, resolved, error, pinned, created_at, created_by) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            registration.model_id,
            registration.attempt,
            msgspec.json.encode(registration.replicas).decode(),
            registration.state,
            msgspec.json.encode(registration.entry).decode(),
            None if registration.resolved is None else msgspec.json.encode(registration.resolved).decode(),
            registration.error,
            registration.pinned,
            registration.created_at,
            registration.created_by,
        ),
    )
    await _increment_revision(tx)


async def remove(tx: Transaction, model_id: str) -> bool:
    """Remove a tombstone; False when there is none, for instance because the model is wanted again."""
    removed = bool(
        await tx.execute("DELETE FROM registrations WHERE model_id = ? AND state = 'deleting'", (model_id,))
    )
    if removed:
        await _increment_revision(tx)
    return removed


async def _increment_revision(tx: Transaction) -> None:
    await tx.execute("UPDATE settings SET value = value + 1 WHERE key = 'revision'")


def _registration_from_row(row: sqlite3.Row) -> Registration:
    resolved = row["resolved"]
    return Registration(
        model_id=row["model_id"],
        attempt=row["attempt"],
        replicas=msgspec.json.decode(row["replicas"], type=int | Literal["all"]),
        state=RegistrationState(row["state"]),
        entry=msgspec.json.decode(row["entry"], type=Model),
        resolved=None if resolved is None else msgspec.json.decode(resolved, type=tuple[FileSpec, ...]),
        error=row["error"],
        pinned=bool(row["pinned"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
    )
