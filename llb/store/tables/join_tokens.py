"""Tokens that let a host join, each once. Only the hash of a token is kept; a used one for a while, to say so."""

from __future__ import annotations

from enum import StrEnum

from llb.store.database import Transaction

RETENTION_S = 7 * 86_400.0  # after its end: how long a host that brings it again is told what it was


class TokenRejection(StrEnum):
    """Why a token lets nobody in."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"


async def add(tx: Transaction, token_hash: str, *, created_by: str, now: float, expires_at: float) -> None:
    """Keep a new token, and forget those that ended long ago."""
    await tx.execute("DELETE FROM join_tokens WHERE expires_at < ?", (now - RETENTION_S,))
    await tx.execute(
        "INSERT INTO join_tokens (hash, created_by, created_at, expires_at) VALUES (?, ?, ?, ?)",
        (token_hash, created_by, now, expires_at),
    )


async def consume(tx: Transaction, token_hash: str, now: float) -> TokenRejection | None:
    """Use the token up, in one statement: of two hosts that bring it at the same time one gets in. None: it was good."""
    used = await tx.execute(
        "UPDATE join_tokens SET used_at = ? WHERE hash = ? AND used_at IS NULL AND expires_at > ?",
        (now, token_hash, now),
    )
    if used:
        return None
    row = await tx.fetch_one("SELECT used_at FROM join_tokens WHERE hash = ?", (token_hash,))
    if row is None:
        return TokenRejection.UNKNOWN
    return TokenRejection.EXPIRED if row["used_at"] is None else TokenRejection.USED
