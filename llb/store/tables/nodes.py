"""Nodes of the cluster. A removed node keeps its row, so that its id is never reused."""

from __future__ import annotations

import sqlite3
import time

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.wire import Hello
from llb.wire.decoding import DECODE_ERRORS


class NodeRecord(Struct, frozen=True, kw_only=True):
    """Node of the cluster. Times are Unix seconds.

    `hello` is the node's last hello, updated with its later replica reports, so that the node can be shown
    while it is offline.
    """

    id: str
    name: str
    # Hash of the credential that the node presents; None for the local node.
    credential_hash: str | None = None
    # Credential that the balancer presents to the node.
    hop_credential: str | None = None
    tags: tuple[str, ...] = ()
    draining: bool = False
    created_at: float
    removed_at: float | None = None
    hello: Hello | None = None
    last_seen: float | None = None


async def list_nodes(db: Reader, *, include_removed: bool = False) -> list[NodeRecord]:
    """Nodes in the order of their creation, without removed ones unless `include_removed`."""
    rows = await db.fetch_all(
        "SELECT * FROM nodes WHERE ? OR removed_at IS NULL ORDER BY created_at, id", (include_removed,)
    )
    return [_node_from_row(row) for row in rows]


async def get(db: Reader, node_id: str) -> NodeRecord | None:
    row = await db.fetch_one("SELECT * FROM nodes WHERE id = ?", (node_id,))
    return None if row is None else _node_from_row(row)


async def put(tx: Transaction, node: NodeRecord) -> None:
    """Insert or replace the whole row of a node."""
    await tx.execute(
        "INSERT OR REPLACE INTO nodes "
        "(id, name, credential_hash, hop_credential, tags, draining, created_at, removed_at, hello, "
        "last_seen) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            node.id,
            node.name,
            node.credential_hash,
            node.hop_credential,
            msgspec.json.encode(node.tags).decode(),
            node.draining,
            node.created_at,
            node.removed_at,
            None if node.hello is None else msgspec.json.encode(node.hello),
            node.last_seen,
        ),
    )


async def ensure_local(tx: Transaction, node_id: str, name: str) -> NodeRecord:
    """Add the local node, or rename it to `name` and undo its removal; returns it."""
    await tx.execute(
        "INSERT INTO nodes (id, name, created_at) VALUES (?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, removed_at = NULL",
        (node_id, name, time.time()),
    )
    node = await get(tx, node_id)
    assert node is not None  # noqa: S101  # inserted just now
    return node


async def mark_removed(tx: Transaction, node_id: str) -> bool:
    """Mark a node as removed; delete its credentials and replicas. False if it was not there."""
    await tx.execute("DELETE FROM replicas WHERE node_id = ?", (node_id,))
    return bool(
        await tx.execute(
            "UPDATE nodes SET removed_at = ?, credential_hash = NULL, hop_credential = NULL "
            "WHERE id = ? AND removed_at IS NULL",
            (time.time(), node_id),
        )
    )


def _node_from_row(row: sqlite3.Row) -> NodeRecord:
    return NodeRecord(
        id=row["id"],
        name=row["name"],
        credential_hash=row["credential_hash"],
        hop_credential=row["hop_credential"],
        tags=msgspec.json.decode(row["tags"], type=tuple[str, ...]),
        draining=bool(row["draining"]),
        created_at=row["created_at"],
        removed_at=row["removed_at"],
        hello=_decode_hello(row["hello"]),
        last_seen=row["last_seen"],
    )


def _decode_hello(blob: bytes | None) -> Hello | None:
    if blob is None:
        return None
    try:
        return msgspec.json.decode(blob, type=Hello)
    except DECODE_ERRORS:
        # Another protocol version wrote it. The node sends a new hello when it connects.
        return None
