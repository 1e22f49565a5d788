"""Registered models: the desired state of the cluster. Each change increments the revision with it."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.texts.text_columns import decode_text, encode_code, plain_text
from llb.wire import FileSpec, LoadOptions, Model, Placement

DecodedT = TypeVar("DecodedT")


class RegistrationState(StrEnum):
    ACTIVE = "active"
    # Tombstone, kept until every node has reported that the files are removed.
    DELETING = "deleting"


class Registration(Struct, frozen=True, kw_only=True):
    """Registered model.

    `entry` is the catalogue entry at the time of registration. `resolved` are the files of one commit, None
    until the Hub has answered. `pinned` keeps the engines of the model in memory.
    """

    model_id: str
    attempt: int = 1
    replicas: int | Literal["all"] = "all"
    state: RegistrationState = RegistrationState.ACTIVE
    entry: Model
    resolved: tuple[FileSpec, ...] | None = None
    error: str | None = None
    pinned: bool = False
    options: LoadOptions | None = None
    placement: Placement | None = None
    created_at: float
    created_by: str

    @property
    def is_active(self) -> bool:
        return self.state is RegistrationState.ACTIVE


async def get_revision(db: Reader) -> int:
    """Revision of the registrations; every change increments it."""
    row = await db.fetch_one("SELECT value FROM settings WHERE key = 'revision'")
    return 0 if row is None else int(row["value"])


async def list_registrations(db: Reader) -> list[Registration]:
    """All registrations, including tombstones, in the order of their creation."""
    rows = await db.fetch_all("SELECT * FROM registrations ORDER BY created_at, model_id")
    return [_registration_from_row(row) for row in rows]


async def get(db: Reader, model_id: str) -> Registration | None:
    row = await db.fetch_one("SELECT * FROM registrations WHERE model_id = ?", (model_id,))
    return None if row is None else _registration_from_row(row)


async def put(tx: Transaction, registration: Registration) -> None:
    """Insert or replace the whole row of a registration."""
    await tx.execute(
        "INSERT OR REPLACE INTO registrations "
        "(model_id, attempt, replicas, state, entry, resolved, error, pinned, created_at, created_by, "
        "options, placement, error_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            registration.model_id,
            registration.attempt,
            msgspec.json.encode(registration.replicas).decode(),
            registration.state,
            msgspec.json.encode(registration.entry).decode(),
            _encode_optional(registration.resolved),
            plain_text(registration.error),
            registration.pinned,
            registration.created_at,
            registration.created_by,
            _encode_optional(registration.options),
            _encode_optional(registration.placement),
            encode_code(registration.error),
        ),
    )
    await _increment_revision(tx)


async def remove(tx: Transaction, model_id: str) -> bool:
    """Remove a tombstone; False if there is none, for example because the model was registered again."""
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
        error=decode_text(row["error"], row["error_code"]),
        pinned=bool(row["pinned"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        options=_decode_optional(row["options"], LoadOptions),
        placement=_decode_optional(row["placement"], Placement),
    )


def _encode_optional(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _decode_optional(text: str | None, value_type: type[DecodedT]) -> DecodedT | None:
    return None if text is None else msgspec.json.decode(text, type=value_type)
