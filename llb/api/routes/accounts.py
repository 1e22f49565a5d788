"""Account routes: sign in and out, change the password, manage users."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.authenticator import SESSION_MAX_S
from llb.accounts.service import AccountService, user_view
from llb.api.blueprint import Blueprint
from llb.api.middleware.auth_middleware import SESSION_COOKIE
from llb.api.middleware.route_policy import authenticated, public, requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.errors import Conflict, InvalidCredentials, NotFound, PermissionDenied, RateLimited
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import users
from llb.store.tables.users import User
from llb.wire import (
    LoginReply,
    LoginRequest,
    Me,
    NewUser,
    PasswordRequest,
    Scope,
    UserList,
    UserPatch,
    UserView,
)


def accounts_blueprint(db: Database, account_service: AccountService) -> Blueprint:
    """`/api/auth/*` and `/api/users`."""
    blueprint = Blueprint("accounts")

    @blueprint.post("/api/auth/login")
    @public
    @ApiOperation(
        "Sign in",
        description="The response sets the session cookie, for browsers. Programs use an API key.",
        body=LoginRequest,
        response=LoginReply,
        errors=(InvalidCredentials, PermissionDenied, RateLimited),
    )
    async def log_in(request: Request) -> HTTPResponse:
        body = parse_body(request, LoginRequest)
        session = await account_service.log_in(
            body.username,
            body.password,
            address=request.ctx.client.address,
            is_local=request.ctx.client.is_local,
            replaced_token=request.cookies.get(SESSION_COOKIE),
        )
        return _session_response(request, *session)

    @blueprint.post("/api/auth/logout")
    @authenticated
    @ApiOperation("Sign out", description="Ends the session. An API key stays valid.", status=204)
    async def log_out(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        response = no_content()
        if principal.kind is PrincipalKind.SESSION:
            await account_service.log_out(principal, request.ctx.client.address)
            _set_session_cookie(request, response, "", 0)
        return response

    @blueprint.get("/api/auth/me")
    @authenticated
    @ApiOperation("Show the user and the scopes of the credential", response=Me)
    async def me(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        user = None if principal.user_id is None else await users.get(db, principal.user_id)
        return json_response(
            Me(
                kind=principal.kind.value,
                user=None if user is None else user_view(user),
                scopes=tuple(sorted(principal.granted_scopes)),
                expires_at=to_iso(principal.expires_at),
            )
        )

    @blueprint.post("/api/auth/password")
    @authenticated
    @ApiOperation(
        "Change your own password",
        description="Needs a session. All your sessions end; the response sets the cookie of a new one.",
        body=PasswordRequest,
        response=LoginReply,
        errors=(InvalidCredentials, PermissionDenied, RateLimited),
    )
    async def change_password(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        if principal.kind is not PrincipalKind.SESSION:
            raise PermissionDenied("Sign in to change your password")
        body = parse_body(request, PasswordRequest)
        session = await account_service.change_password(
            principal, body.current_password, body.new_password, request.ctx.client.address
        )
        return _session_response(request, *session)

    @blueprint.get("/api/users")
    @requires_scope(Scope.ADMIN)
    @ApiOperation("List users", response=UserList)
    async def list_users(_: Request) -> HTTPResponse:
        return json_response(UserList(tuple(user_view(user) for user in await users.list_users(db))))

    @blueprint.post("/api/users")
    @requires_scope(Scope.ADMIN)
    @ApiOperation("Add a user", body=NewUser, response=UserView, status=201, errors=(Conflict,))
    async def add_user(request: Request) -> HTTPResponse:
        user = await account_service.add_user(
            request.ctx.principal, parse_body(request, NewUser), request.ctx.client.address
        )
        return json_response(user_view(user), 201)

    @blueprint.patch("/api/users/<user_id:str>")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Change the role or the password of a user",
        description="Omitted fields stay. A new password ends the sessions of the user.",
        body=UserPatch,
        response=UserView,
        errors=(NotFound, Conflict),
    )
    async def change_user(request: Request, user_id: str) -> HTTPResponse:
        patch = parse_body(request, UserPatch)
        user = await account_service.change_user(
            request.ctx.principal, user_id, patch, request.ctx.client.address
        )
        return json_response(user_view(user))

    @blueprint.delete("/api/users/<user_id:str>")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Remove a user",
        description="The sessions and the API keys of the user end too.",
        status=204,
        errors=(NotFound, Conflict),
    )
    async def remove_user(request: Request, user_id: str) -> HTTPResponse:
        await account_service.remove_user(request.ctx.principal, user_id, request.ctx.client.address)
        return no_content()

    return blueprint


def _session_response(request: Request, token: str, user: User, expires_at: float) -> HTTPResponse:
    response = json_response(LoginReply(expires_at=to_iso(expires_at), user=user_view(user)))
    _set_session_cookie(request, response, token, int(SESSION_MAX_S))
    return response


def _set_session_cookie(request: Request, response: HTTPResponse, value: str, max_age_s: int) -> None:
    response.add_cookie(
        SESSION_COOKIE,
        value,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=request.ctx.client.scheme == "https",
        max_age=max_age_s,
    )
