"""How much a key may ask for, and who may say so, without HTTP: the routes and the commands on the host stand on it.

A key has its limits, and the ceiling that an admin has set, if one has: its owner may lower the limits, and raise them again up to
the ceiling. A key that has limits can give itself and others no looser ones.
"""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import asdict

from llb.auth import Principal, allows
from llb.errors import InvalidRequest, PermissionDenied
from llb.store.keys import ApiKey
from llb.wire import KeyLimits, KeyLimitsPatch, Scope

MOST = 1_000_000_000
UNLIMITED = KeyLimits()
_IN_WORDS = {
    "requests_per_minute": "{} requests a minute",
    "tokens_per_minute": "{} tokens a minute",
    "concurrent": "{} at the same time",
}


def check(limits: KeyLimits) -> None:
    """Raises `InvalidRequest`, whose `param` names the field."""
    for name, value in asdict(limits).items():
        if value is not None and not 1 <= value <= MOST:
            raise InvalidRequest(
                f"{name} is a whole number from 1 to {MOST}, or null for no limit", param=f"limits.{name}"
            )


def patched(limits: KeyLimits, patch: KeyLimitsPatch | None) -> KeyLimits:
    """`limits` with what the patch names; None takes all away. Raises `InvalidRequest`."""
    given = (
        {} if patch is None else {name: value for name, value in asdict(patch).items() if value is not UNSET}
    )
    changed = KeyLimits(**({} if patch is None else asdict(limits)) | given)
    check(changed)
    return changed


def tightest(one: KeyLimits, other: KeyLimits) -> KeyLimits:
    """Of each limit the lower one."""
    others = asdict(other)
    return KeyLimits(
        **{
            name: min((limit for limit in (value, others[name]) if limit is not None), default=None)
            for name, value in asdict(one).items()
        }
    )


def of_new_key(wish: KeyLimits, maker: Principal) -> tuple[KeyLimits, KeyLimits]:
    """Limits and ceiling of a key that `maker` makes: of a key with limits no looser ones. Raises `InvalidRequest`."""
    check(wish)
    bound = maker.limits or UNLIMITED
    limits = tightest(wish, bound)
    return limits, limits if allows(maker, Scope.ADMIN) else bound


def of_changed_key(wish: KeyLimits, ceiling: KeyLimits, by: Principal) -> tuple[KeyLimits, KeyLimits]:
    """Limits and ceiling of a key whose limits `by` changes. Raises `PermissionDenied` for looser ones than they may set."""
    is_admin = allows(by, Scope.ADMIN)
    bound = by.limits or UNLIMITED
    if not is_admin:
        bound = tightest(bound, ceiling)
    if tightest(wish, bound) != wish:
        raise PermissionDenied(f"You can set limits for this key of at most: {in_words(bound)}")
    return wish, wish if is_admin else ceiling


def in_words(limits: KeyLimits) -> str:
    """For people: `60 requests a minute, 2 at the same time`; empty for none."""
    return ", ".join(
        _IN_WORDS[name].format(value) for name, value in asdict(limits).items() if value is not None
    )


def limits_target(key: ApiKey, limits: KeyLimits) -> str:
    """How the audit trail calls a change of a key's limits."""
    return f"{key.name} ({key.prefix}…): {in_words(limits) or 'no limits'}"
