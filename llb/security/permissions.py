"""Principals and permissions: the sender of a request and the scopes it has."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property

from msgspec import Struct

from llb.wire import KeyLimits, Role, Scope


class PrincipalKind(StrEnum):
    """Kind of credential; LOCAL is the command line on the host."""

    SESSION = "session"
    KEY = "key"
    LOCAL = "local"
    NODE = "node"


ALL_SCOPES = frozenset(Scope)
_SCOPES_BY_ROLE = {Role.ADMIN: ALL_SCOPES, Role.USER: frozenset({Scope.INFERENCE, Scope.MODELS_READ})}


def expand_scopes(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """Return `scopes` with those they imply: admin implies all."""
    return ALL_SCOPES if Scope.ADMIN in scopes else scopes


class KeyAllowance(Struct, frozen=True):
    """Limits of one key, which the keys that come from it use up too."""

    key_id: str
    limits: KeyLimits


class Principal(Struct, frozen=True, kw_only=True, dict=True):
    """Authenticated sender of a request.

    `id` is that of the session, key or node; a key made on the host has no user.
    """

    kind: PrincipalKind
    id: str
    role: Role
    scopes: frozenset[Scope] = ALL_SCOPES
    user_id: str | None = None
    username: str | None = None
    must_change_password: bool = False
    expires_at: float | None = None
    name: str | None = None
    # Limits of a key: the strictest of its own and those of the keys that it comes from.
    limits: KeyLimits | None = None
    # Each of those limits, with its key.
    allowances: tuple[KeyAllowance, ...] = ()
    # The first of the keys that made one another, the last of which is this one; None for itself.
    root_key_id: str | None = None
    # Its key and all keys that this one comes from.
    key_ids: tuple[str, ...] = ()
    # Number of keys that it comes from.
    generation: int = 0

    @cached_property
    def root_id(self) -> str:
        """What all keys that come from one key have in common; all sessions of a user are one."""
        if self.kind is PrincipalKind.SESSION:
            return self.user_id or self.id
        return self.root_key_id or self.id

    @cached_property
    def account_id(self) -> str:
        """The user; for a key that was made on the host, the root of its keys."""
        return self.user_id or self.root_id

    @cached_property
    def owner_id(self) -> str:
        """The user; a credential without a user is its own owner."""
        return self.user_id or f"{self.kind}:{self.id}"

    @cached_property
    def granted_scopes(self) -> frozenset[Scope]:
        """Scopes of the credential that the role allows.

        None for a node, whose routes check the kind instead.
        """
        if self.kind is PrincipalKind.NODE:
            return frozenset()
        return expand_scopes(self.scopes) & _SCOPES_BY_ROLE[self.role]

    @property
    def label(self) -> str:
        """Name in the audit log."""
        if self.kind is PrincipalKind.SESSION:
            return self.username or self.id
        if self.kind is PrincipalKind.KEY:
            owner = f" of {self.username}" if self.username else ""
            return f"key {self.name or self.id}{owner}"
        return self.kind.value if self.kind is PrincipalKind.LOCAL else f"{self.kind.value} {self.id}"


# The commands on the host.
LOCAL_PRINCIPAL = Principal(kind=PrincipalKind.LOCAL, id="local", role=Role.ADMIN)


def scopes_of_role(role: Role) -> frozenset[Scope]:
    """Return all scopes that `role` allows."""
    return _SCOPES_BY_ROLE[role]


def has_scope(principal: Principal, scope: Scope) -> bool:
    """Return whether the scopes and the role of `principal` grant `scope`."""
    return scope in principal.granted_scopes
