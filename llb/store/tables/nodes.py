"""The nodes this balancer knows. A removed one is kept, so that its id never comes back as somebody else."""

from __future__ import annotations

import sqlite3
import time

import msgspec
from msgspec import Struct

from llb.store.database import Database, Transaction
from llb.wire import Hello
from llb.wire.decoding import DECODE_ERRORS


class NodeRecord(Struct, frozen=True, kw_only=True):
    """`hello` is the node's last one with what it holds by now, so that it can be shown while it is away.

    Times in unix seconds.
    """

    id: str
    name: str
    credential_hash: str | None = None  # of what the node presents; None for the local one
    hop_credential: str | None = None  # what is presented to the node
    tags: tuple[str, ...] = ()
    draining: bool = False
    created_at: float
    removed_at: float | None = None
    hello: Hello | None = None
    last_seen: float | None = None


async def list_nodes(db: Database | Transaction, *, include_removed: bool = False) -> list[NodeRecord]:
    """All nodes in the order they came; the removed ones too if asked for."""
    rows = await db.fetch_all(
        "SELECT * FROM nodes WHERE ? OR removed_at IS NULL ORDER BY created_at, id", (include_removed,)
    )
    return [_node_from_row(row) for row in rows]


async def get(db: Database | Transaction, node_id: str) -> NodeRecord | None:
    row = await db.fetch_one("SELECT * FROM nodes WHERE id = ?", (node_id,))
    return None if row is None else _node_from_row(row)


async def put(tx: Transaction, node: NodeRecord) -> None:
    """Add or replace a node, all of it."""
    await tx.execute(
        "INSERT OR REPLACE INTO nodes "
        "(id, name, credential_hash, hop_credential, tags, draining, created_at, removed_at, hello, last_seen) "
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
    """The node of this process: added at the first start, brought back if it was removed; its name is `name`."""
    await tx.execute(
        "INSERT INTO nodes (id, name, created_at) VALUES (?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, removed_at = NULL",
        (node_id, name, time.time()),
    )
    node = await get(tx, node_id)
    assert node is not None  # noqa: S101  # inserted just now
    return node


async def mark_removed(tx: Transaction, node_id: str) -> bool:
    """The node is gone for good: its credentials die with it, and what it held is forgotten."""
    await tx.execute("DELETE FROM replicas WHERE node_id = ?", (node_id,))
    return bool(
        await tx.execute(
            "UPDATE nodes SET removed_at = ?, credential_hash = NULL, hop_credential = NULL WHERE id = ? AND removed_at IS NULL",
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
        # Written by another version of the protocol; the node says hello again when it comes.
        return None
