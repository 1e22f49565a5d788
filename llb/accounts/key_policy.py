"""Key policy: the API key that a principal may create. Used by the route and by the command."""

from __future__ import annotations

from llb.accounts.limit_policy import UNLIMITED, limits_for_new_key
from llb.base.timestamps import from_iso, to_iso
from llb.errors import InvalidRequest, PermissionDenied
from llb.security import permissions, tokens
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.security.tokens import NewApiKey
from llb.store.tables.keys import MAX_GENERATIONS, ApiKey
from llb.texts.coded_text import CodedText
from llb.wire import KeyView, NewKey, Scope

KEY_NAME_MAX_LENGTH = 64
# A service that makes keys for its own users needs many.
MAX_KEYS_OF_USER, MAX_KEYS_OF_ADMIN = 100, 10_000
# A program needs no more; a forgotten choice grants nothing more.
DEFAULT_KEY_SCOPES = frozenset({Scope.INFERENCE, Scope.MODELS_READ})


def build_key(requested: NewKey, creator: Principal, now: float) -> tuple[NewApiKey, ApiKey]:
    """Build the key that `creator` requests: the secret, and the record to store.

    The key has at most the scopes of its creator. A key that another key created also expires and ends with
    that one, has no higher limits, and uses up the limits of that one too. Raises `InvalidRequest` or
    `PermissionDenied`.
    """
    if creator.kind is PrincipalKind.KEY and not has_scope(creator, Scope.ADMIN):
        raise PermissionDenied(
            "This key cannot create keys: sign in to llb's page and create one there, "
            "use a key with the scope 'admin', or run 'llb keys create' on the host"
        )
    if creator.generation >= MAX_GENERATIONS:
        raise PermissionDenied(
            f"This key cannot create keys: {creator.generation} keys made one another before it; "
            "use one of those, or sign in to llb's page"
        )
    if not (0 < len(requested.name) <= KEY_NAME_MAX_LENGTH) or not requested.name.isprintable():
        raise InvalidRequest(
            CodedText(
                "key_name_rule", "A key's name has 1 to {max} printable characters", max=KEY_NAME_MAX_LENGTH
            ),
            param="name",
        )
    if requested.scopes is not None and not requested.scopes:
        raise InvalidRequest(
            CodedText(
                "key_scopes_rule", "A key needs at least one scope; omit scopes for inference and models:read"
            ),
            param="scopes",
        )
    scopes = DEFAULT_KEY_SCOPES if requested.scopes is None else frozenset(requested.scopes)
    if missing := permissions.expand_scopes(scopes) - creator.granted_scopes:
        raise PermissionDenied(
            CodedText(
                "key_scope_not_granted",
                "You cannot grant the scope '{scope}': you do not have it",
                scope=min(missing).value,
            )
        )
    expires_at = None if requested.expires_at is None else from_iso(requested.expires_at, "expires_at")
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest(
            CodedText("key_expires_in_past", "expires_at is in the past"), param="expires_at"
        )
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
        parent_id=creator.id if creator.kind is PrincipalKind.KEY else None,
    )
    return new_key, record


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
        parent_id=key.parent_id,
    )


def can_manage(principal: Principal, key: ApiKey) -> bool:
    """Whether `principal` may limit and revoke `key`.

    A key manages only itself unless it has the scope `admin`: it may be held by someone other than its owner.
    """
    if has_scope(principal, Scope.ADMIN):
        return True
    if principal.kind is PrincipalKind.KEY:
        return principal.id == key.id
    return principal.user_id is not None and principal.user_id == key.owner_id


def can_see(principal: Principal, key: ApiKey) -> bool:
    """Whether `key` is in the list of `principal`: also the keys of its owner that can do no more than it."""
    is_own = principal.user_id is not None and principal.user_id == key.owner_id
    usable = permissions.expand_scopes(key.scopes) & permissions.scopes_of_role(principal.role)
    return can_manage(principal, key) or (is_own and principal.granted_scopes >= usable)
