"""Which key somebody may make, without HTTP: the route and the command on the host both stand on it."""

from __future__ import annotations

from llb import auth
from llb.api.keylimits import UNLIMITED, of_new_key
from llb.api.times import from_iso, to_iso
from llb.auth import NewApiKey, Principal, PrincipalKind
from llb.errors import InvalidRequest, PermissionDenied
from llb.store.keys import ApiKey
from llb.wire import KeyView, NewKey, Scope

NAME_MAX_LENGTH = 64


def plan_key(wish: NewKey, maker: Principal, now: float) -> tuple[NewApiKey, ApiKey]:
    """The key that `maker` may have for `wish`: never more than the maker can do, nor longer, nor less limited than a key
    that makes it.

    Raises `InvalidRequest` or `PermissionDenied`.
    """
    if not (0 < len(wish.name) <= NAME_MAX_LENGTH) or not wish.name.isprintable():
        raise InvalidRequest(f"A key's name has 1 to {NAME_MAX_LENGTH} printable characters", param="name")
    if wish.scopes is not None and not wish.scopes:
        raise InvalidRequest(
            "A key without any scope could do nothing; leave scopes out for all", param="scopes"
        )
    scopes = _all_of(maker) if wish.scopes is None else frozenset(wish.scopes)
    if missing := auth.expand(scopes) - maker.grants:
        raise PermissionDenied(f"You cannot give the scope '{min(missing).value}', which you do not have")
    expires_at = None if wish.expires_at is None else from_iso(wish.expires_at, "expires_at")
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("expires_at is in the past", param="expires_at")
    if maker.kind is PrincipalKind.KEY and maker.expires_at is not None:
        expires_at = maker.expires_at if expires_at is None else min(expires_at, maker.expires_at)
    limits, ceiling = of_new_key(wish.limits or UNLIMITED, maker)
    new = auth.new_api_key()
    record = ApiKey(
        id=auth.new_id(),
        name=wish.name,
        hash=new.hash,
        prefix=new.prefix,
        scopes=scopes,
        owner_id=maker.user_id,
        expires_at=expires_at,
        created_at=now,
        limits=limits,
        ceiling=ceiling,
    )
    return new, record


def _all_of(maker: Principal) -> frozenset[Scope]:
    grants = maker.grants
    return frozenset({Scope.ADMIN}) if Scope.ADMIN in grants else grants


def key_view(key: ApiKey) -> KeyView:
    """A key as the API and the commands show it: never the secret itself."""
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=tuple(sorted(key.scopes)),
        expires_at=to_iso(key.expires_at),
        created_at=to_iso(key.created_at),
        last_used_at=to_iso(key.last_used_at),
        owner=key.owner_name,
        limits=key.limits,
        ceiling=key.ceiling,
    )
