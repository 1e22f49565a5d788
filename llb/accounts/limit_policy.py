"""How much a key may ask for, and who may say so, without HTTP: the routes and the commands on the host stand on it.

A key has its limits, and the ceiling that an admin has set, if one has: its owner may lower the limits, and raise them again up to
the ceiling. A key that has limits can give itself and others no looser ones.
"""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import asdict

from llb.errors import InvalidRequest, PermissionDenied
from llb.security.permissions import Principal, has_scope
from llb.store.tables.keys import ApiKey
from llb.wire import KeyLimits, KeyLimitsPatch, Scope

MAX_LIMIT_VALUE = 1_000_000_000
UNLIMITED = KeyLimits()
_LIMIT_DESCRIPTIONS = {
    "requests_per_minute": "{} requests a minute",
    "tokens_per_minute": "{} tokens a minute",
    "concurrent": "{} at the same time",
}


def validate_limits(limits: KeyLimits) -> None:
    """Raises `InvalidRequest`, whose `param` names the field."""
    for name, value in asdict(limits).items():
        if value is not None and not 1 <= value <= MAX_LIMIT_VALUE:
            raise InvalidRequest(
                f"{name} is a whole number from 1 to {MAX_LIMIT_VALUE}, or null for no limit",
                param=f"limits.{name}",
            )


def apply_limits_patch(limits: KeyLimits, patch: KeyLimitsPatch | None) -> KeyLimits:
    """`limits` with what the patch names; None takes all away. Raises `InvalidRequest`."""
    given = (
        {} if patch is None else {name: value for name, value in asdict(patch).items() if value is not UNSET}
    )
    changed = KeyLimits(**({} if patch is None else asdict(limits)) | given)
    validate_limits(changed)
    return changed


def strictest_limits(one: KeyLimits, other: KeyLimits) -> KeyLimits:
    """Of each limit the lower one."""
    others = asdict(other)
    return KeyLimits(
        **{
            name: min((limit for limit in (value, others[name]) if limit is not None), default=None)
            for name, value in asdict(one).items()
        }
    )


def limits_for_new_key(requested: KeyLimits, creator: Principal) -> tuple[KeyLimits, KeyLimits]:
    """Limits and ceiling of a key that `maker` makes: of a key with limits no looser ones. Raises `InvalidRequest`."""
    validate_limits(requested)
    bound = creator.limits or UNLIMITED
    limits = strictest_limits(requested, bound)
    return limits, limits if has_scope(creator, Scope.ADMIN) else bound


def limits_for_changed_key(
    requested: KeyLimits, ceiling: KeyLimits, actor: Principal
) -> tuple[KeyLimits, KeyLimits]:
    """Limits and ceiling of a key whose limits `by` changes. Raises `PermissionDenied` for looser ones than they may set."""
    is_admin = has_scope(actor, Scope.ADMIN)
    bound = actor.limits or UNLIMITED
    if not is_admin:
        bound = strictest_limits(bound, ceiling)
    if strictest_limits(requested, bound) != requested:
        raise PermissionDenied(f"You can set limits for this key of at most: {describe_limits(bound)}")
    return requested, requested if is_admin else ceiling


def describe_limits(limits: KeyLimits) -> str:
    """For people: `60 requests a minute, 2 at the same time`; empty for none."""
    return ", ".join(
        _LIMIT_DESCRIPTIONS[name].format(value) for name, value in asdict(limits).items() if value is not None
    )


def limits_audit_target(key: ApiKey, limits: KeyLimits) -> str:
    """How the audit trail calls a change of a key's limits."""
    return f"{key.name} ({key.prefix}…): {describe_limits(limits) or 'no limits'}"
