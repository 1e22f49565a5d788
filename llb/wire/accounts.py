"""Users, sessions, API keys and the audit log."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from llb.texts.text_codes import TextCode


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"


# Key id of the requests on the Ollama port, which need no key.
OLLAMA_PORT_KEY_ID = "ollama-port"


class Scope(StrEnum):
    INFERENCE = "inference"
    # Models of clouds, which cost money and to which prompts leave the network.
    CLOUD = "cloud"
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


class ChangedUser(UserView, frozen=True, kw_only=True):
    """`ended_keys`: names of the API keys that ended together with the default password."""

    ended_keys: tuple[str, ...] = ()


class LoginReply(Struct, frozen=True, kw_only=True):
    """`ended_keys`: names of the API keys that ended together with the default password."""

    expires_at: str
    user: UserView
    ended_keys: tuple[str, ...] = ()


class UserList(Struct, frozen=True):
    users: tuple[UserView, ...]


class Me(Struct, frozen=True, kw_only=True):
    """Owner and scopes of the credential of a request; `user` is None for a key made on the host."""

    kind: Literal["session", "key", "local", "node"]
    user: UserView | None
    scopes: tuple[Scope, ...]
    expires_at: str | None


class PasswordRequest(Struct, frozen=True):
    current_password: str
    new_password: str


class SetupRequest(Struct, frozen=True):
    token: str
    new_password: str


class SetupState(Struct, frozen=True, kw_only=True):
    """Whether `admin` still has the default password, and why it may not be used from here; None: it may."""

    default_password: bool
    refused_because: str | None = None
    refused_because_code: TextCode | None = None


class NewUser(Struct, frozen=True):
    username: str
    password: str
    role: Role = Role.USER


class UserPatch(Struct, frozen=True):
    role: Role | None = None
    password: str | None = None


class KeyLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a key; None: unlimited. Tokens are those of prompts and completions."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


class KeyLimitsPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of limits: a missing field stays, None removes the limit."""

    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    concurrent: int | UnsetType | None = UNSET


class NewKey(Struct, frozen=True):
    name: str
    scopes: tuple[Scope, ...] | None = None
    expires_at: str | None = None
    limits: KeyLimits | None = None


class KeyPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a key; `limits` None removes all limits."""

    limits: KeyLimitsPatch | None


class KeyView(Struct, frozen=True, kw_only=True):
    """API key; its owner cannot raise `limits` above `ceiling`, which an admin sets.

    `parent_id` is the key that made it and with which it ends.
    """

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
    parent_id: str | None = None


class KeyList(Struct, frozen=True):
    """Page of keys; `next_cursor` is `?after=` of the next page, None at the end."""

    keys: tuple[KeyView, ...]
    next_cursor: str | None = None


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
    """Page of the audit log, newest first; `next_cursor` is `?before=` of the next page, None at the end."""

    entries: tuple[AuditEntry, ...]
    next_cursor: int | None
