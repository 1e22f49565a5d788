"""Actor of an audit record."""

from __future__ import annotations

import pytest

from llb.accounts.audit_actor import NOBODY, audit_actor_of
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.store.tables.audit import AuditActor
from llb.wire import Role, Scope

READING = frozenset({Scope.MODELS_READ})


@pytest.mark.parametrize(
    ("principal", "actor"),
    [
        (None, NOBODY),
        (LOCAL_PRINCIPAL, AuditActor(label="local", id="local", is_admin=True)),
        # A user is one actor with all sessions and keys.
        (
            Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="u", username="bob"),
            AuditActor(label="bob", id="u", is_admin=False),
        ),
        (
            Principal(
                kind=PrincipalKind.KEY, id="k", role=Role.ADMIN, user_id="u", username="ann", name="laptop"
            ),
            AuditActor(label="key laptop of ann", id="u", is_admin=True),
        ),
        # The key of an admin that may only read is not an admin.
        (
            Principal(kind=PrincipalKind.KEY, id="k", role=Role.ADMIN, scopes=READING, root_key_id="root"),
            AuditActor(label="key k", id="root", is_admin=False),
        ),
        (
            Principal(kind=PrincipalKind.NODE, id="n", role=Role.USER),
            AuditActor(label="node n", id="n", is_admin=True),
        ),
    ],
)
def test_who_acts(principal: Principal | None, actor: AuditActor) -> None:
    assert audit_actor_of(principal) == actor
