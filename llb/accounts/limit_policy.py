"""Limit policy: the limits of an API key, and who may set them. Used by the routes and by the commands.

A key has limits, and a ceiling that an administrator may set: the owner may lower the limits, and raise them
again up to the ceiling. A limited key can give neither itself nor other keys higher limits.
"""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import asdict

from llb.errors import InvalidRequest, PermissionDenied
from llb.security.permissions import Principal, has_scope
from llb.store.tables.keys import ApiKey
from llb.texts.coded_text import CodedText
from llb.wire import KeyLimits, KeyLimitsPatch, Scope

MAX_LIMIT_VALUE = 1_000_000_000
UNLIMITED = KeyLimits()
_LIMIT_DESCRIPTIONS = {
    "requests_per_minute": "{} requests a minute",
    "tokens_per_minute": "{} tokens a minute",
    "concurrent": "{} at the same time",
}


def validate_limits(limits: KeyLimits) -> None:
    """Raise `InvalidRequest`, whose `param` names the field, for a limit out of range."""
    for name, value in asdict(limits).items():
        if value is not None and not 1 <= value <= MAX_LIMIT_VALUE:
            raise InvalidRequest(
                CodedText(
                    "key_limit_rule",
                    "{name} must be a whole number from 1 to {max}, or null for no limit",
                    name=name,
                    max=MAX_LIMIT_VALUE,
                ),
                param=f"limits.{name}",
            )


def apply_limits_patch(limits: KeyLimits, patch: KeyLimitsPatch | None) -> KeyLimits:
    """Return `limits` with the fields of `patch`, without any limit for None; raises `InvalidRequest`."""
    changes = (
        {} if patch is None else {name: value for name, value in asdict(patch).items() if value is not UNSET}
    )
    changed = KeyLimits(**({} if patch is None else asdict(limits)) | changes)
    validate_limits(changed)
    return changed


def strictest_limits(one: KeyLimits, other: KeyLimits) -> KeyLimits:
    """Return the lower of each limit."""
    others = asdict(other)
    return KeyLimits(
        **{
            name: min((limit for limit in (value, others[name]) if limit is not None), default=None)
            for name, value in asdict(one).items()
        }
    )


def limits_for_new_key(requested: KeyLimits, creator: Principal) -> tuple[KeyLimits, KeyLimits]:
    """Return limits and ceiling of a key that `creator` creates, within its own; raises `InvalidRequest`."""
    validate_limits(requested)
    bound = creator.limits or UNLIMITED
    limits = strictest_limits(requested, bound)
    return limits, limits if has_scope(creator, Scope.ADMIN) else bound


def limits_for_changed_key(
    requested: KeyLimits, ceiling: KeyLimits, actor: Principal
) -> tuple[KeyLimits, KeyLimits]:
    """Return limits and ceiling of a key that `actor` changes; raises `PermissionDenied`."""
    is_admin = has_scope(actor, Scope.ADMIN)
    bound = actor.limits or UNLIMITED
    if not is_admin:
        bound = strictest_limits(bound, ceiling)
    if strictest_limits(requested, bound) != requested:
        raise PermissionDenied(
            CodedText(
                "key_limit_bound",
                "You can set limits for this key of at most: {limits}",
                limits=describe_limits(bound),
            )
        )
    return requested, requested if is_admin else ceiling


def describe_limits(limits: KeyLimits) -> str:
    """Describe limits: `60 requests a minute, 2 at the same time`; empty without any."""
    return ", ".join(
        _LIMIT_DESCRIPTIONS[name].format(value) for name, value in asdict(limits).items() if value is not None
    )


def key_audit_target(key: ApiKey) -> str:
    """Return the audit trail's name of a key: its name and the beginning of the key itself."""
    return f"{key.name} ({key.prefix}…)"


def limits_audit_target(key: ApiKey, limits: KeyLimits) -> str:
    """Return the audit trail's description of a change of a key's limits."""
    return f"{key_audit_target(key)}: {describe_limits(limits) or 'no limits'}"
