"""Limit policy: what an owner may set within what an administrator has set."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from llb.accounts.limit_policy import (
    MAX_LIMIT_VALUE,
    UNLIMITED,
    apply_limits_patch,
    describe_limits,
    limits_for_changed_key,
    limits_for_new_key,
    strictest_limits,
    validate_limits,
)
from llb.errors import InvalidRequest, PermissionDenied
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import KeyLimits, KeyLimitsPatch, Role, Scope


def principal(role: Role, limits: KeyLimits | None = None) -> Principal:
    return Principal(
        kind=PrincipalKind.KEY, id="k", role=role, scopes=frozenset({Scope.ADMIN}), limits=limits
    )


def of(requests: int | None = None, tokens: int | None = None, concurrent: int | None = None) -> KeyLimits:
    return KeyLimits(requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent)


USER, ADMIN = principal(Role.USER), principal(Role.ADMIN)


@pytest.mark.parametrize("value", [1, MAX_LIMIT_VALUE, None])
def test_a_limit_in_range(value: int | None) -> None:
    validate_limits(of(value, value, value))


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@pytest.mark.parametrize("value", [0, -1, MAX_LIMIT_VALUE + 1])
def test_a_limit_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate_limits(KeyLimits(**{name: value}))
    assert refused.value.details["param"] == f"limits.{name}"


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({}, of(5, 6, 7)),
        ({"concurrent": 1}, of(5, 6, 1)),
        ({"concurrent": None}, of(5, 6)),
        ({"concurrent": UNSET, "tokens_per_minute": 9}, of(5, 9, 7)),
    ],
)
def test_a_patch_changes_what_it_names(patch: dict[str, Any], result: KeyLimits) -> None:
    assert apply_limits_patch(of(5, 6, 7), KeyLimitsPatch(**patch)) == result


def test_no_patch_takes_all_limits_away_and_a_bad_one_is_refused() -> None:
    assert apply_limits_patch(of(5, 6, 7), None) == UNLIMITED
    with pytest.raises(InvalidRequest):
        apply_limits_patch(of(5), KeyLimitsPatch(concurrent=0))


def test_the_strictest_of_two_is_field_by_field() -> None:
    assert strictest_limits(of(5, None, 7), of(9, 3)) == of(5, 3, 7)
    assert strictest_limits(UNLIMITED, UNLIMITED) == UNLIMITED


def test_an_admin_gives_a_ceiling_with_the_limits_and_a_user_gives_its_own() -> None:
    assert limits_for_new_key(of(5), ADMIN) == (of(5), of(5))
    assert limits_for_new_key(of(5), USER) == (of(5), UNLIMITED)
    limited = principal(Role.USER, of(9, 9))
    assert limits_for_new_key(of(5), limited) == (of(5, 9), of(9, 9))
    assert limits_for_new_key(UNLIMITED, limited) == (of(9, 9), of(9, 9))


@pytest.mark.parametrize(
    ("requested", "ceiling", "actor", "result"),
    [
        # Up to the ceiling, and no further.
        (of(5), of(5), USER, (of(5), of(5))),
        (of(6), of(5), USER, "5 requests a minute"),
        (UNLIMITED, of(5), USER, "5 requests a minute"),
        (of(5, 1), of(5), USER, (of(5, 1), of(5))),
        # Without a ceiling an owner sets what it wants.
        (UNLIMITED, UNLIMITED, USER, (UNLIMITED, UNLIMITED)),
        # An administrator moves the ceiling.
        (of(6), of(5), ADMIN, (of(6), of(6))),
        (UNLIMITED, of(5), ADMIN, (UNLIMITED, UNLIMITED)),
        # But a limited key gives no key more than it has.
        (of(6), of(5), principal(Role.ADMIN, of(5)), "5 requests a minute"),
        (of(3), of(9), principal(Role.USER, of(None, None, 2)), "9 requests a minute, 2 at the same time"),
    ],
)
def test_who_may_change_limits_how_far(
    requested: KeyLimits, ceiling: KeyLimits, actor: Principal, result: tuple[KeyLimits, KeyLimits] | str
) -> None:
    if isinstance(result, str):
        with pytest.raises(PermissionDenied) as refused:
            limits_for_changed_key(requested, ceiling, actor)
        assert str(refused.value) == f"You can set limits for this key of at most: {result}"
    else:
        assert limits_for_changed_key(requested, ceiling, actor) == result


def test_limits_in_words() -> None:
    assert describe_limits(UNLIMITED) == ""
    assert describe_limits(of(60, 9, 2)) == "60 requests a minute, 9 tokens a minute, 2 at the same time"
