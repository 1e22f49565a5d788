"""Cache of the metadata in the headers of model files, keyed by the sha256 of the file."""

from __future__ import annotations

from llb.store.database import Reader, Transaction


async def get(db: Reader, sha256: str) -> bytes | None:
    row = await db.fetch_one("SELECT facts FROM file_facts WHERE sha256 = ?", (sha256,))
    return None if row is None else bytes(row["facts"])


async def put(tx: Transaction, sha256: str, metadata: bytes) -> None:
    await tx.execute("INSERT OR REPLACE INTO file_facts (sha256, facts) VALUES (?, ?)", (sha256, metadata))
