"""Actor of an audit record."""

from __future__ import annotations

from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.store.tables.audit import AuditActor
from llb.wire import Scope

# A request without a credential, such as that of a host that joins.
NOBODY = AuditActor(label="nobody", id="nobody", is_admin=True)


def audit_actor_of(principal: Principal | None) -> AuditActor:
    """Return the actor of what `principal` does: a user is one actor with all sessions and keys."""
    if principal is None:
        return NOBODY
    # A node acts once, when it leaves.
    is_admin = principal.kind is PrincipalKind.NODE or has_scope(principal, Scope.ADMIN)
    return AuditActor(label=principal.label, id=principal.account_id, is_admin=is_admin)
