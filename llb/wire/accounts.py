"""People, sessions and keys, and the audit trail."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"


# In the history, in place of a key: whoever used the port that asks for none.
OLLAMA_PORT_KEY_ID = "ollama-port"


class Scope(StrEnum):
    INFERENCE = "inference"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    ADMIN = "admin"


class LoginRequest(Struct, frozen=True):
    username: str
    password: str


class UserView(Struct, frozen=True, kw_only=True):
    id: str
    username: str
    role: Role
    must_change_password: bool
    created_at: str | None = None


class LoginReply(Struct, frozen=True, kw_only=True):
    expires_at: str
    user: UserView


class UserList(Struct, frozen=True):
    users: tuple[UserView, ...]


class Me(Struct, frozen=True, kw_only=True):
    """Whose credential it is and what it may do; `user` is None for a key made on the host."""

    kind: Literal["session", "key", "local", "node"]
    user: UserView | None
    scopes: tuple[Scope, ...]
    expires_at: str | None


class PasswordRequest(Struct, frozen=True):
    current_password: str
    new_password: str


class NewUser(Struct, frozen=True):
    username: str
    password: str
    role: Role = Role.USER


class UserPatch(Struct, frozen=True):
    role: Role | None = None
    password: str | None = None


class KeyLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a key may ask for; None: as much as there is. Tokens are those of prompts and of answers."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class KeyLimitsPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is not named stays, None takes a limit away."""

    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    concurrent: int | UnsetType | None = UNSET


class NewKey(Struct, frozen=True):
    name: str
    scopes: tuple[Scope, ...] | None = None
    expires_at: str | None = None
    limits: KeyLimits | None = None


class KeyPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """`limits` None takes all limits away."""

    limits: KeyLimitsPatch | None


class KeyView(Struct, frozen=True, kw_only=True):
    """`ceiling` is what an admin has set: the owner can make the limits no looser."""

    id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    expires_at: str | None
    created_at: str
    last_used_at: str | None = None
    owner: str | None = None
    limits: KeyLimits
    ceiling: KeyLimits


class KeyList(Struct, frozen=True):
    keys: tuple[KeyView, ...]


class NewKeyReply(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    key: str
    prefix: str
    scopes: tuple[Scope, ...]
    expires_at: str | None
    limits: KeyLimits


class AuditEntry(Struct, frozen=True, kw_only=True):
    id: int
    time: str
    actor: str
    action: str
    target: str | None
    address: str | None
    result: str


class AuditPage(Struct, frozen=True):
    """Newest first; `next_cursor` goes into `?before=` for what is older, None at the end."""

    entries: tuple[AuditEntry, ...]
    next_cursor: int | None
