"""API key routes: create, list, limit, revoke."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from msgspec import Meta
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.key_policy import can_see, key_view
from llb.accounts.key_service import KeyService
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import authenticated
from llb.api.query_params import enum_query_param, int_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.errors import InvalidRequest, KeyLimitReached, NotFound, PermissionDenied
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.store.database import Database
from llb.store.tables import keys
from llb.store.tables.keys import ApiKey, KeyCursor
from llb.wire import KeyList, KeyPatch, KeyView, NewKey, NewKeyReply, Scope

DEFAULT_LIMIT = MAX_LIMIT = 1000
_CURSOR_PATTERN = r"^[0-9]{1,12}\.[0-9]{1,20}~[0-9A-Za-z-]{1,64}$"
_Cursor = Annotated[str, Meta(pattern=_CURSOR_PATTERN)]


class KeyOrder(StrEnum):
    """Value of `order`."""

    OLDEST = "oldest"
    NEWEST = "newest"


def keys_blueprint(db: Database, key_service: KeyService) -> Blueprint:
    """`/api/keys`. Users manage their own keys, administrators all keys."""
    blueprint = Blueprint("keys")
    _add_list_route(blueprint, db)
    _add_change_routes(blueprint, key_service)
    return blueprint


def _add_list_route(blueprint: Blueprint, db: Database) -> None:
    @blueprint.get("/api/keys")
    @authenticated
    @ApiOperation(
        "List API keys",
        description=(
            "Your own; with the scope `admin`, all. A page may have fewer keys than `limit` although another "
            "one follows."
        ),
        response=KeyList,
        parameters=(
            RequestParameter(
                "limit", positive_int_up_to(MAX_LIMIT), f"Keys of a page; {DEFAULT_LIMIT} by default."
            ),
            RequestParameter("after", _Cursor, "The `next_cursor` of the previous page."),
            RequestParameter("order", KeyOrder, "By time of creation; `oldest` first by default."),
        ),
    )
    async def list_keys(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        limit = int_query_param(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        after = request.args.get("after")
        order = enum_query_param(request, "order", KeyOrder) or KeyOrder.OLDEST
        cursor = None if after is None else _parse_cursor(after)
        if has_scope(principal, Scope.ADMIN) or principal.user_id is not None:
            found = await keys.list_keys(
                db.reports,
                owner_id=None if has_scope(principal, Scope.ADMIN) else principal.user_id,
                limit=limit,
                after=cursor,
                newest_first=order is KeyOrder.NEWEST,
            )
        else:
            own = await keys.get(db, principal.id) if principal.kind is PrincipalKind.KEY else None
            found = [] if own is None or cursor is not None else [own]
        page = KeyList(
            tuple(key_view(key) for key in found if can_see(principal, key)),
            _format_cursor(found[-1]) if len(found) == limit else None,
        )
        return json_response(page)


def _add_change_routes(blueprint: Blueprint, key_service: KeyService) -> None:
    @blueprint.post("/api/keys")
    @authenticated
    @ApiOperation(
        "Create an API key",
        description=(
            "Needs a session, or a key with the scope `admin`: what that key makes ends with it and uses up "
            "its limits. Only this response contains the key itself. The key gets at most your own scopes."
        ),
        body=NewKey,
        response=NewKeyReply,
        status=201,
        errors=(PermissionDenied, KeyLimitReached),
    )
    async def make_key(request: Request) -> HTTPResponse:
        new_key, record = await key_service.create_key(
            request.ctx.principal, parse_body(request, NewKey), request.ctx.client.address
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
        patch = parse_body(request, KeyPatch)
        key = await key_service.change_limits(
            request.ctx.principal, key_id, patch.limits, request.ctx.client.address
        )
        return json_response(key_view(key))

    @blueprint.delete("/api/keys/<key_id:str>")
    @authenticated
    @ApiOperation(
        "Revoke an API key",
        description="The keys that were made with it end too.",
        status=204,
        errors=(NotFound,),
    )
    async def revoke_key(request: Request, key_id: str) -> HTTPResponse:
        await key_service.revoke_key(request.ctx.principal, key_id, request.ctx.client.address)
        return no_content()


def _format_cursor(key: ApiKey) -> str:
    return f"{key.created_at!r}~{key.id}"


def _parse_cursor(text: str) -> KeyCursor:
    if re.fullmatch(_CURSOR_PATTERN, text) is None:
        raise InvalidRequest("after must be the next_cursor of an earlier page", param="after")
    created_at, _, key_id = text.partition("~")
    return KeyCursor(float(created_at), key_id)
