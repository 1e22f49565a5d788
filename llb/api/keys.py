"""API keys: made, listed, limited, revoked."""

from __future__ import annotations

import time

from msgspec import structs
from sanic import Request
from sanic.response import HTTPResponse

from llb import auth
from llb.api.access import authenticated
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.api.identity import Identity
from llb.api.keylimits import limits_target, of_changed_key, patched
from llb.api.keyplan import key_view, plan_key
from llb.api.replies import body, no_content, reply
from llb.api.times import to_iso
from llb.auth import Principal, PrincipalKind, allows
from llb.errors import NotFound, PermissionDenied
from llb.store import audit, keys
from llb.store.database import Database, Transaction
from llb.store.keys import ApiKey
from llb.wire import KeyList, KeyPatch, KeyView, NewKey, NewKeyReply, Scope


def keys_blueprint(db: Database, identity: Identity) -> Blueprint:
    """`/api/keys`. Everybody has their own keys; an admin sees, limits and revokes all."""
    blueprint = Blueprint("keys")

    @blueprint.get("/api/keys")
    @authenticated
    @Documented("List API keys", text="One's own; all of them for `admin`.", reply=KeyList)
    async def list_keys(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        visible = [key for key in await keys.all_keys(db) if _may_manage(principal, key)]
        return reply(KeyList(tuple(key_view(key) for key in visible)))

    @blueprint.post("/api/keys")
    @authenticated
    @Documented(
        "Make an API key",
        text="The answer is the only place where the key itself is told. It may do no more than whoever makes it.",
        body=NewKey,
        reply=NewKeyReply,
        status=201,
        errors=(PermissionDenied,),
    )
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
            limits=record.limits,
        )
        return reply(made, 201)

    @blueprint.patch("/api/keys/<key_id:str>")
    @authenticated
    @Documented(
        "Change the limits of an API key",
        text="What is not named stays; `null` takes a limit away. See docs/api.md.",
        body=KeyPatch,
        reply=KeyView,
        errors=(NotFound, PermissionDenied),
    )
    async def limit_key(request: Request, key_id: str) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        patch = body(request, KeyPatch)
        async with db.write() as tx:
            key = await _managed(tx, principal, key_id)
            limits, ceiling = of_changed_key(patched(key.limits, patch.limits), key.ceiling, principal)
            await keys.set_limits(tx, key_id, limits, ceiling)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.limits",
                target=limits_target(key, limits),
                address=request.ctx.peer.address,
            )
        identity.forget()
        return reply(key_view(structs.replace(key, limits=limits, ceiling=ceiling)))

    @blueprint.delete("/api/keys/<key_id:str>")
    @authenticated
    @Documented("Revoke an API key", status=204, errors=(NotFound,))
    async def revoke_key(request: Request, key_id: str) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        async with db.write() as tx:
            key = await _managed(tx, principal, key_id)
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


async def _managed(tx: Transaction, principal: Principal, key_id: str) -> ApiKey:
    """Raises `NotFound`. Whose key it is, is nobody else's business: others' look as if they were not there."""
    key = await keys.get(tx, key_id)
    if key is None or not _may_manage(principal, key):
        raise NotFound("There is no such key")
    return key


def _may_manage(principal: Principal, key: ApiKey) -> bool:
    if allows(principal, Scope.ADMIN):
        return True
    is_itself = principal.kind is PrincipalKind.KEY and principal.id == key.id
    is_own = principal.user_id is not None and principal.user_id == key.owner_id
    # A lesser key must not revoke its owner's greater ones.
    return is_itself or (
        is_own and principal.grants >= auth.expand(key.scopes) & auth.grants_of(principal.role)
    )
