"""Principals and permissions: who makes a request, and which scopes that grants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llb.wire import KeyLimits, Role, Scope


class PrincipalKind(StrEnum):
    SESSION = "session"
    KEY = "key"
    LOCAL = "local"  # the command line on the host
    NODE = "node"


ALL_SCOPES = frozenset(Scope)
_SCOPES_BY_ROLE = {Role.ADMIN: ALL_SCOPES, Role.USER: frozenset({Scope.INFERENCE, Scope.MODELS_READ})}


def expand_scopes(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """`scopes` with what they imply: admin implies all."""
    return ALL_SCOPES if Scope.ADMIN in scopes else scopes


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who makes a request. `id` is the session's, the key's or the node's; a key made on the host has no user."""

    kind: PrincipalKind
    id: str
    role: Role
    scopes: frozenset[Scope] = ALL_SCOPES
    user_id: str | None = None
    username: str | None = None
    must_change_password: bool = False
    expires_at: float | None = None
    name: str | None = None
    limits: KeyLimits | None = None  # of a key that has any

    @property
    def granted_scopes(self) -> frozenset[Scope]:
        """What it may do: its scopes, as far as the role goes. A node has none: its routes ask for a node."""
        if self.kind is PrincipalKind.NODE:
            return frozenset()
        return expand_scopes(self.scopes) & _SCOPES_BY_ROLE[self.role]

    @property
    def label(self) -> str:
        """How the audit trail calls it."""
        if self.kind is PrincipalKind.SESSION:
            return self.username or self.id
        if self.kind is PrincipalKind.KEY:
            return (
                f"key {self.name or self.id} of {self.username}"
                if self.username
                else f"key {self.name or self.id}"
            )
        return self.kind.value if self.kind is PrincipalKind.LOCAL else f"{self.kind.value} {self.id}"


def scopes_of_role(role: Role) -> frozenset[Scope]:
    """All that somebody of `role` may do."""
    return _SCOPES_BY_ROLE[role]


def has_scope(principal: Principal, scope: Scope) -> bool:
    """Whether `principal` may do what `scope` stands for: what its scopes say and its role allows."""
    return scope in principal.granted_scopes
