"""Key policy: the API key that a principal may create. Used by the route and by the command."""

from __future__ import annotations

from llb.accounts.limit_policy import UNLIMITED, limits_for_new_key
from llb.base.timestamps import from_iso, to_iso
from llb.errors import InvalidRequest, PermissionDenied
from llb.security import permissions, tokens
from llb.security.permissions import Principal, PrincipalKind
from llb.security.tokens import NewApiKey
from llb.store.tables.keys import ApiKey
from llb.wire import KeyView, NewKey, Scope

KEY_NAME_MAX_LENGTH = 64


def build_key(requested: NewKey, creator: Principal, now: float) -> tuple[NewApiKey, ApiKey]:
    """Build the key that `creator` requests: the secret, and the record to store.

    The key has at most the scopes of its creator. A key that another key created also expires no later than
    that one, and has no higher limits. Raises `InvalidRequest` or `PermissionDenied`.
    """
    if not (0 < len(requested.name) <= KEY_NAME_MAX_LENGTH) or not requested.name.isprintable():
        raise InvalidRequest(
            f"A key's name has 1 to {KEY_NAME_MAX_LENGTH} printable characters", param="name"
        )
    if requested.scopes is not None and not requested.scopes:
        raise InvalidRequest(
            "A key needs at least one scope; omit scopes to give it all of yours", param="scopes"
        )
    scopes = _all_scopes_of(creator) if requested.scopes is None else frozenset(requested.scopes)
    if missing := permissions.expand_scopes(scopes) - creator.granted_scopes:
        raise PermissionDenied(f"You cannot grant the scope '{min(missing).value}': you do not have it")
    expires_at = None if requested.expires_at is None else from_iso(requested.expires_at, "expires_at")
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("expires_at is in the past", param="expires_at")
    if creator.kind is PrincipalKind.KEY and creator.expires_at is not None:
        expires_at = creator.expires_at if expires_at is None else min(expires_at, creator.expires_at)
    limits, ceiling = limits_for_new_key(requested.limits or UNLIMITED, creator)
    new_key = tokens.new_api_key()
    record = ApiKey(
        id=tokens.new_random_id(),
        name=requested.name,
        hash=new_key.hash,
        prefix=new_key.prefix,
        scopes=scopes,
        owner_id=creator.user_id,
        expires_at=expires_at,
        created_at=now,
        limits=limits,
        ceiling=ceiling,
    )
    return new_key, record


def _all_scopes_of(creator: Principal) -> frozenset[Scope]:
    granted = creator.granted_scopes
    return frozenset({Scope.ADMIN}) if Scope.ADMIN in granted else granted


def key_view(key: ApiKey) -> KeyView:
    """Return the view of a key for the API and the commands, without the secret."""
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
