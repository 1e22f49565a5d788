"""API keys: made, listed, revoked."""

from __future__ import annotations

import time

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import auth
from llb.api.access import authenticated
from llb.api.identity import Identity
from llb.api.replies import body, no_content, reply
from llb.api.times import from_iso, to_iso
from llb.auth import NewApiKey, Principal, PrincipalKind, allows
from llb.errors import InvalidRequest, NotFound, PermissionDenied
from llb.store import audit, keys
from llb.store.database import Database
from llb.store.keys import ApiKey
from llb.wire import KeyList, KeyView, NewKey, NewKeyReply, Scope

NAME_MAX_LENGTH = 64


def plan_key(wish: NewKey, maker: Principal, now: float) -> tuple[NewApiKey, ApiKey]:
    """The key that `maker` may have for `wish`: never more than the maker can do, nor longer than a key that makes it.

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
    )
    return new, record


def _all_of(maker: Principal) -> frozenset[Scope]:
    grants = maker.grants
    return frozenset({Scope.ADMIN}) if Scope.ADMIN in grants else grants


def keys_blueprint(db: Database, identity: Identity) -> Blueprint:
    """`/api/keys`. Everybody has their own keys; an admin sees and revokes all."""
    blueprint = Blueprint("keys")

    @blueprint.get("/api/keys")
    @authenticated
    async def list_keys(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        visible = [key for key in await keys.all_keys(db) if _may_manage(principal, key)]
        return reply(KeyList(tuple(_view(key) for key in visible)))

    @blueprint.post("/api/keys")
    @authenticated
    async def make_key(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        new, record = plan_key(body(request, NewKey), principal, time.time())
        async with db.write() as tx:
            await keys.add(tx, record)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.create",
                target=f"{record.name} ({record.prefix}…)",
                address=request.ctx.peer.address,
            )
        made = NewKeyReply(
            id=record.id,
            name=record.name,
            key=new.key,
            prefix=record.prefix,
            scopes=tuple(sorted(record.scopes)),
            expires_at=to_iso(record.expires_at),
        )
        return reply(made, 201)

    @blueprint.delete("/api/keys/<key_id:str>")
    @authenticated
    async def revoke_key(request: Request, key_id: str) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        async with db.write() as tx:
            key = await keys.get(tx, key_id)
            # Whose key it is, is nobody else's business: others' look as if they were not there.
            if key is None or not _may_manage(principal, key):
                raise NotFound("There is no such key")
            await keys.remove(tx, key_id)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.delete",
                target=f"{key.name} ({key.prefix}…)",
                address=request.ctx.peer.address,
            )
        identity.forget()
        return no_content()

    return blueprint


def _may_manage(principal: Principal, key: ApiKey) -> bool:
    if allows(principal, Scope.ADMIN):
        return True
    is_itself = principal.kind is PrincipalKind.KEY and principal.id == key.id
    is_own = principal.user_id is not None and principal.user_id == key.owner_id
    # A lesser key must not revoke its owner's greater ones.
    return is_itself or (
        is_own and principal.grants >= auth.expand(key.scopes) & auth.grants_of(principal.role)
    )


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        scopes=tuple(sorted(key.scopes)),
        expires_at=to_iso(key.expires_at),
        created_at=to_iso(key.created_at),
        last_used_at=to_iso(key.last_used_at),
        owner=key.owner_name,
    )
