"""Permissions: the scopes of a principal, limited by its role."""

from __future__ import annotations

import pytest

from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.wire import Role, Scope

ALL = frozenset(Scope)


@pytest.mark.parametrize(
    ("role", "scopes", "granted"),
    [
        (Role.ADMIN, {Scope.ADMIN}, ALL),
        (Role.ADMIN, ALL, ALL),
        (Role.ADMIN, {Scope.INFERENCE}, {Scope.INFERENCE}),
        (Role.ADMIN, set(), set()),
        (Role.USER, {Scope.ADMIN}, {Scope.INFERENCE, Scope.MODELS_READ}),
        (Role.USER, {Scope.MODELS_WRITE}, set()),
        (Role.USER, {Scope.MODELS_READ, Scope.MODELS_WRITE}, {Scope.MODELS_READ}),
    ],
)
def test_what_a_principal_may_is_its_scopes_as_far_as_its_role_goes(
    role: Role, scopes: set[Scope], granted: set[Scope]
) -> None:
    principal = Principal(kind=PrincipalKind.KEY, id="k", role=role, scopes=frozenset(scopes))
    assert principal.granted_scopes == granted
    for scope in Scope:
        assert has_scope(principal, scope) == (scope in granted)
