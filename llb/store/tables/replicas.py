"""Replicas of models, as the node last reported them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.texts.text_columns import decode_text, encode_code, plain_text
from llb.wire import ReplicaState


class FileFingerprint(Struct, frozen=True, kw_only=True):
    """Verified file. Its sha256 is valid while size and modification time stay the same.

    `found`: the file existed before its host joined a cluster, so the cluster does not delete it.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    found: bool = False


class ReplicaRecord(Struct, frozen=True, kw_only=True):
    node_id: str
    model_id: str
    attempt: int
    state: ReplicaState
    error: str | None = None
    files: tuple[FileFingerprint, ...] = ()
    last_used: float | None = None
    pinned: bool = False


async def list_by_node(db: Reader, node_id: str) -> list[ReplicaRecord]:
    rows = await db.fetch_all("SELECT * FROM replicas WHERE node_id = ? ORDER BY model_id", (node_id,))
    return [_replica_from_row(row) for row in rows]


async def put(tx: Transaction, replica: ReplicaRecord) -> None:
    """Insert or replace the whole row of a replica."""
    await tx.execute(
        "INSERT OR REPLACE INTO replicas "
        "(node_id, model_id, attempt, state, error, files, last_used, pinned, error_code) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            replica.node_id,
            replica.model_id,
            replica.attempt,
            replica.state,
            plain_text(replica.error),
            msgspec.json.encode(replica.files).decode(),
            replica.last_used,
            replica.pinned,
            encode_code(replica.error),
        ),
    )


async def update_last_used(tx: Transaction, node_id: str, last_used_by_model: Mapping[str, float]) -> None:
    """Record when each model of a node was last used, in Unix seconds."""
    await tx.execute_many(
        "UPDATE replicas SET last_used = ? WHERE node_id = ? AND model_id = ?",
        [(at, node_id, model_id) for model_id, at in last_used_by_model.items()],
    )


async def remove(tx: Transaction, node_id: str, model_id: str) -> bool:
    return bool(
        await tx.execute("DELETE FROM replicas WHERE node_id = ? AND model_id = ?", (node_id, model_id))
    )


def _replica_from_row(row: sqlite3.Row) -> ReplicaRecord:
    return ReplicaRecord(
        node_id=row["node_id"],
        model_id=row["model_id"],
        attempt=row["attempt"],
        state=ReplicaState(row["state"]),
        error=decode_text(row["error"], row["error_code"]),
        files=msgspec.json.decode(row["files"], type=tuple[FileFingerprint, ...]),
        last_used=row["last_used"],
        pinned=bool(row["pinned"]),
    )
