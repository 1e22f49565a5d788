"""User accounts."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from llb.errors import Conflict, NotFound
from llb.store.database import Reader, Transaction
from llb.wire import Role


class User(Struct, frozen=True, kw_only=True):
    """User account. `must_change_password`: it still has the default password of the first start."""

    id: str
    username: str
    password_hash: str
    role: Role
    must_change_password: bool
    created_at: float


async def list_users(db: Reader) -> list[User]:
    return [_user_from_row(row) for row in await db.fetch_all("SELECT * FROM users ORDER BY created_at, id")]


async def get(db: Reader, user_id: str) -> User | None:
    row = await db.fetch_one("SELECT * FROM users WHERE id = ?", (user_id,))
    return None if row is None else _user_from_row(row)


async def get_by_name(db: Reader, username: str) -> User | None:
    """User named `username`, case-insensitive."""
    row = await db.fetch_one("SELECT * FROM users WHERE username = ?", (username,))
    return None if row is None else _user_from_row(row)


async def is_default_password_in_use(db: Reader) -> bool:
    """Whether any user still has the default password."""
    return await db.fetch_one("SELECT 1 FROM users WHERE must_change_password LIMIT 1") is not None


async def add(tx: Transaction, user: User) -> None:
    """Add a user. Raises `Conflict` if the name is taken."""
    try:
        await tx.execute(
            "INSERT INTO users (id, username, password_hash, role, must_change_password, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                user.id,
                user.username,
                user.password_hash,
                user.role,
                user.must_change_password,
                user.created_at,
            ),
        )
    except sqlite3.IntegrityError:
        raise Conflict(f"A user '{user.username}' exists already") from None


async def set_password(tx: Transaction, user_id: str, password_hash: str) -> None:
    """Change the password; the user has no default password any more. Raises `NotFound`."""
    changed = await tx.execute(
        "UPDATE users SET password_hash = ?, must_change_password = 0 WHERE id = ?", (password_hash, user_id)
    )
    if not changed:
        raise NotFound("There is no such user")


async def rehash_password(tx: Transaction, user_id: str, old_hash: str, new_hash: str) -> None:
    """Replace the hash of an unchanged password; no effect if the password was changed meanwhile."""
    await tx.execute(
        "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?", (new_hash, user_id, old_hash)
    )


async def set_role(tx: Transaction, user_id: str, role: Role) -> None:
    """Change the role of a user. Raises `NotFound`, and `Conflict` if no admin would be left."""
    if not await tx.execute("UPDATE users SET role = ? WHERE id = ?", (role, user_id)):
        raise NotFound("There is no such user")
    await _require_admin(tx)


async def remove(tx: Transaction, user_id: str) -> None:
    """Remove a user with all sessions and keys. Raises `NotFound`, and `Conflict` for the last admin."""
    if not await tx.execute("DELETE FROM users WHERE id = ?", (user_id,)):
        raise NotFound("There is no such user")
    await _require_admin(tx)


async def _require_admin(tx: Transaction) -> None:
    # Raising rolls the change back, so the rule also holds for concurrent changes.
    if await tx.fetch_one("SELECT 1 FROM users WHERE role = ? LIMIT 1", (Role.ADMIN,)) is None:
        raise Conflict("The last admin cannot be removed or demoted")


def _user_from_row(row: sqlite3.Row) -> User:
    return User(
        id=row["id"],
        username=row["username"],
        password_hash=row["password_hash"],
        role=Role(row["role"]),
        must_change_password=bool(row["must_change_password"]),
        created_at=row["created_at"],
    )
