"""Single-use tokens with which a host joins. Only their hashes are stored."""

from __future__ import annotations

from enum import StrEnum

from llb.store.database import Transaction

# After its expiry a token is kept for this long, so that its use is rejected as used or expired.
RETENTION_S = 7 * 86_400.0


class TokenRejection(StrEnum):
    """Reason for rejecting a join token."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"


async def add(tx: Transaction, token_hash: str, *, created_by: str, now: float, expires_at: float) -> None:
    """Store a new token; remove the ones that expired more than `RETENTION_S` ago."""
    await tx.execute("DELETE FROM join_tokens WHERE expires_at < ?", (now - RETENTION_S,))
    await tx.execute(
        "INSERT INTO join_tokens (hash, created_by, created_at, expires_at) VALUES (?, ?, ?, ?)",
        (token_hash, created_by, now, expires_at),
    )


async def consume(tx: Transaction, token_hash: str, now: float) -> TokenRejection | None:
    """Mark the token as used; returns why it is rejected, None if it is valid.

    A single statement does it, so only one of two concurrent hosts succeeds.
    """
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
