"""API key routes: create, list, limit, revoke."""

from __future__ import annotations

import time

from msgspec import structs
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_policy import build_key, key_view
from llb.accounts.limit_policy import (
    apply_limits_patch,
    key_audit_target,
    limits_audit_target,
    limits_for_changed_key,
)
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import authenticated
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.errors import NotFound, PermissionDenied
from llb.security import permissions
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.store.database import Database, Transaction
from llb.store.tables import audit, keys
from llb.store.tables.keys import ApiKey
from llb.wire import KeyList, KeyPatch, KeyView, NewKey, NewKeyReply, Scope


def keys_blueprint(db: Database, authenticator: AccountAuthenticator) -> Blueprint:
    """`/api/keys`. Users manage their own keys, administrators all keys."""
    blueprint = Blueprint("keys")

    @blueprint.get("/api/keys")
    @authenticated
    @ApiOperation("List API keys", description="Your own; with the scope `admin`, all.", response=KeyList)
    async def list_keys(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        visible = [key for key in await keys.list_keys(db) if _can_manage(principal, key)]
        return json_response(KeyList(tuple(key_view(key) for key in visible)))

    @blueprint.post("/api/keys")
    @authenticated
    @ApiOperation(
        "Create an API key",
        description="Only this response contains the key itself. The key gets at most your own scopes.",
        body=NewKey,
        response=NewKeyReply,
        status=201,
        errors=(PermissionDenied,),
    )
    async def make_key(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        new_key, record = build_key(parse_body(request, NewKey), principal, time.time())
        async with db.write() as tx:
            await keys.add(tx, record)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.create",
                target=key_audit_target(record),
                address=request.ctx.client.address,
            )
        reply = NewKeyReply(
            id=record.id,
            name=record.name,
            key=new_key.key,
            prefix=record.prefix,
            scopes=tuple(sorted(record.scopes)),
            expires_at=to_iso(record.expires_at),
            limits=record.limits,
        )
        return json_response(reply, 201)

    @blueprint.patch("/api/keys/<key_id:str>")
    @authenticated
    @ApiOperation(
        "Change the limits of an API key",
        description="Omitted limits stay; `null` removes a limit. See docs/api.md.",
        body=KeyPatch,
        response=KeyView,
        errors=(NotFound, PermissionDenied),
    )
    async def limit_key(request: Request, key_id: str) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        patch = parse_body(request, KeyPatch)
        async with db.write() as tx:
            key = await _get_managed_key(tx, principal, key_id)
            limits, ceiling = limits_for_changed_key(
                apply_limits_patch(key.limits, patch.limits), key.ceiling, principal
            )
            await keys.set_limits(tx, key_id, limits, ceiling)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.limits",
                target=limits_audit_target(key, limits),
                address=request.ctx.client.address,
            )
        authenticator.clear_cache()
        return json_response(key_view(structs.replace(key, limits=limits, ceiling=ceiling)))

    @blueprint.delete("/api/keys/<key_id:str>")
    @authenticated
    @ApiOperation("Revoke an API key", status=204, errors=(NotFound,))
    async def revoke_key(request: Request, key_id: str) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        async with db.write(uses_ballast=True) as tx:
            key = await _get_managed_key(tx, principal, key_id)
            await keys.remove(tx, key_id)
            await audit.record(
                tx,
                actor=principal.label,
                action="key.delete",
                target=key_audit_target(key),
                address=request.ctx.client.address,
            )
        authenticator.clear_cache()
        return no_content()

    return blueprint


async def _get_managed_key(tx: Transaction, principal: Principal, key_id: str) -> ApiKey:
    """Return a key; raises `NotFound` also for a key of another user, so that its existence stays hidden."""
    key = await keys.get(tx, key_id)
    if key is None or not _can_manage(principal, key):
        raise NotFound("There is no such API key")
    return key


def _can_manage(principal: Principal, key: ApiKey) -> bool:
    if has_scope(principal, Scope.ADMIN):
        return True
    is_same_key = principal.kind is PrincipalKind.KEY and principal.id == key.id
    is_own = principal.user_id is not None and principal.user_id == key.owner_id
    # A key with fewer rights than another key of its owner must not revoke that one.
    return is_same_key or (
        is_own
        and principal.granted_scopes
        >= permissions.expand_scopes(key.scopes) & permissions.scopes_of_role(principal.role)
    )
