"""Users and keys of the tests."""

from __future__ import annotations

from typing import Any

from llb.store.database import Database
from llb.store.tables import keys, users
from llb.wire import Role, Scope


def make_user(name: str, role: Role = Role.USER, *, default_password: bool = False) -> users.User:
    return users.User(
        id=f"id-{name}",
        username=name,
        password_hash=f"hash of {name}",
        role=role,
        must_change_password=default_password,
        created_at=1.0,
    )


def make_key(name: str, owner_id: str | None = None, **more: Any) -> keys.ApiKey:
    fields: dict[str, Any] = {
        "id": f"id-{name}",
        "name": name,
        "hash": f"hash of {name}",
        "prefix": "sk-1234567",
        "scopes": frozenset({Scope.INFERENCE, Scope.MODELS_READ}),
        "owner_id": owner_id,
        "expires_at": 5.0,
        "created_at": 1.0,
    }
    return keys.ApiKey(**{**fields, **more})


async def add_users(db: Database, *accounts: users.User) -> None:
    async with db.write() as tx:
        for person in accounts:
            await users.add(tx, person)


async def add_keys(db: Database, *made: keys.ApiKey) -> None:
    async with db.write() as tx:
        for key in made:
            await keys.add(tx, key)
