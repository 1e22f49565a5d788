"""Key policy: what a new key may do, when it ends, who sees and manages it."""

from __future__ import annotations

from typing import Any

import pytest

from llb.accounts.key_policy import KEY_NAME_MAX_LENGTH, build_key, can_manage, can_see, key_view
from llb.errors import InvalidRequest, PermissionDenied
from llb.security import tokens
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.store.tables.keys import MAX_GENERATIONS, ApiKey
from llb.wire import KeyLimits, NewKey, Role, Scope

NOW = 1_800_000_000.0
LATER = "2027-06-01T00:00:00Z"
LATER_S = 1_811_808_000.0
USER = Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="bob")
ADMIN = Principal(kind=PrincipalKind.SESSION, id="s", role=Role.ADMIN, user_id="ann")


def key_principal(*scopes: Scope, **more: Any) -> Principal:
    fields: dict[str, Any] = {"id": "parent", "role": Role.ADMIN, "user_id": "ann"} | more
    return Principal(kind=PrincipalKind.KEY, scopes=frozenset(scopes), **fields)


ADMIN_KEY = key_principal(Scope.ADMIN)


def build(creator: Principal = ADMIN, name: str = "laptop", **requested: Any) -> ApiKey:
    return build_key(NewKey(name, **requested), creator, NOW)[1]


def test_a_key_infers_and_reads_unless_more_is_asked_for() -> None:
    secret, record = build_key(NewKey("laptop"), USER, NOW)
    assert record.scopes == {Scope.INFERENCE, Scope.MODELS_READ}
    assert (record.owner_id, record.expires_at, record.created_at) == ("bob", None, NOW)
    assert (record.parent_id, record.limits, record.ceiling) == (None, KeyLimits(), KeyLimits())
    assert record.hash == tokens.hash_token(secret.key)
    assert secret.key.startswith(record.prefix)
    assert secret.key not in repr(key_view(record))


def test_nobody_grants_what_they_do_not_have() -> None:
    assert build(USER, scopes=(Scope.INFERENCE,)).scopes == {Scope.INFERENCE}
    for creator in (USER, key_principal(Scope.ADMIN, role=Role.USER)):
        with pytest.raises(PermissionDenied):
            build(creator, scopes=(Scope.MODELS_WRITE,))
    # The scope `admin` stands for all others.
    with pytest.raises(PermissionDenied, match="You cannot grant the scope 'admin'"):
        build(USER, scopes=(Scope.INFERENCE, Scope.ADMIN))
    assert build(ADMIN, scopes=(Scope.ADMIN,)).scopes == {Scope.ADMIN}


@pytest.mark.parametrize("creator", [key_principal(Scope.MODELS_WRITE), key_principal(Scope.INFERENCE)])
def test_a_key_without_the_scope_makes_none(creator: Principal) -> None:
    with pytest.raises(PermissionDenied, match="'llb keys create' on the host"):
        build(creator)


def test_keys_make_one_another_so_many_times_and_no_more() -> None:
    record = build(key_principal(Scope.ADMIN, generation=MAX_GENERATIONS - 1))
    assert record.parent_id == "parent"
    with pytest.raises(PermissionDenied, match=f"{MAX_GENERATIONS} keys made one another"):
        build(key_principal(Scope.ADMIN, generation=MAX_GENERATIONS))


@pytest.mark.parametrize("name", ["", "a" * (KEY_NAME_MAX_LENGTH + 1), "a\nb", "a\x1b[2Jb"])
def test_a_name_that_no_key_may_have(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        build(name=name)
    assert refused.value.details["param"] == "name"


@pytest.mark.parametrize(
    ("requested", "param"),
    [
        ({"scopes": ()}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2027-01-15T08:00:00Z"}, "expires_at"),
        ({"limits": KeyLimits(concurrent=0)}, "limits.concurrent"),
    ],
)
def test_what_is_refused(requested: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        build(**requested)
    assert refused.value.details["param"] == param


@pytest.mark.parametrize(
    ("creator", "requested", "expires_at"),
    [
        (ADMIN, LATER, LATER_S),
        (ADMIN_KEY, None, None),
        (key_principal(Scope.ADMIN, expires_at=NOW + 9), None, NOW + 9),
        (key_principal(Scope.ADMIN, expires_at=NOW + 9), LATER, NOW + 9),
        (key_principal(Scope.ADMIN, expires_at=LATER_S + 9), LATER, LATER_S),
        # Keys made in a session do not end with it.
        (Principal(kind=PrincipalKind.SESSION, id="s", role=Role.ADMIN, expires_at=NOW + 9), None, None),
    ],
)
def test_a_key_expires_no_later_than_the_key_that_made_it(
    creator: Principal, requested: str | None, expires_at: float | None
) -> None:
    assert build(creator, expires_at=requested).expires_at == expires_at


def test_a_key_of_a_limited_key_is_limited() -> None:
    limited = key_principal(Scope.ADMIN, limits=KeyLimits(concurrent=2))
    record = build(limited, limits=KeyLimits(concurrent=9, requests_per_minute=5))
    assert record.limits == record.ceiling == KeyLimits(concurrent=2, requests_per_minute=5)


KEY = build(USER)


@pytest.mark.parametrize(
    ("principal", "manages", "sees"),
    [
        (LOCAL_PRINCIPAL, True, True),
        (ADMIN, True, True),
        (ADMIN_KEY, True, True),
        (USER, True, True),
        (Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="eve"), False, False),
        # A session that has no user owns no key without an owner.
        (Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER), False, False),
        (key_principal(Scope.INFERENCE, id=KEY.id, role=Role.USER, user_id="bob"), True, True),
        # Another key of the same owner may be held by someone else.
        (key_principal(Scope.INFERENCE, Scope.MODELS_READ, role=Role.USER, user_id="bob"), False, True),
        (key_principal(Scope.INFERENCE, role=Role.USER, user_id="bob"), False, False),
        (key_principal(Scope.ADMIN, role=Role.USER, user_id="bob"), False, True),
    ],
)
def test_who_manages_and_sees_a_key(principal: Principal, manages: bool, sees: bool) -> None:
    assert (can_manage(principal, KEY), can_see(principal, KEY)) == (manages, sees)
