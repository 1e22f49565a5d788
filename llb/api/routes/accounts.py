"""Account routes: sign in and out, change the password, manage users."""

from __future__ import annotations

from msgspec.structs import asdict
from sanic import Request
from sanic.response import HTTPResponse

from llb.accounts.authenticator import SESSION_MAX_S
from llb.accounts.service import AccountService, LoginSource, NewSession, user_view
from llb.api.blueprint import Blueprint
from llb.api.middleware.auth_middleware import SESSION_COOKIE, AuthMiddleware
from llb.api.middleware.route_policy import authenticated, public, requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.errors import Conflict, InvalidCredentials, NotFound, PermissionDenied, RateLimited
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import users
from llb.wire import (
    ChangedUser,
    LoginReply,
    LoginRequest,
    Me,
    NewUser,
    PasswordRequest,
    Scope,
    SetupRequest,
    SetupState,
    UserList,
    UserPatch,
    UserView,
    text_code_of,
)

DEVICE_COOKIE = "llb_device"
_DEVICE_COOKIE_MAX_AGE_S = 365 * 86_400


def accounts_blueprint(
    db: Database, account_service: AccountService, auth_middleware: AuthMiddleware
) -> Blueprint:
    """`/api/auth/*` and `/api/users`. `auth_middleware` knows who may use the default password."""
    blueprint = Blueprint("accounts")
    _add_login_routes(blueprint, db, account_service, auth_middleware)
    _add_own_account_routes(blueprint, db, account_service)
    _add_user_routes(blueprint, db, account_service)
    return blueprint


def _add_login_routes(
    blueprint: Blueprint, db: Database, account_service: AccountService, auth_middleware: AuthMiddleware
) -> None:
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
            _source_of(request),
            require_local=lambda: auth_middleware.require_local(request),
            replaced_token=request.cookies.get(SESSION_COOKIE),
        )
        return _session_response(request, session)

    @blueprint.get("/api/auth/setup")
    @public
    @ApiOperation("Show whether the default password is in use, and works from here", response=SetupState)
    async def setup_state(request: Request) -> HTTPResponse:
        if not await users.is_default_password_in_use(db):
            return json_response(SetupState(default_password=False))
        doubt = await auth_middleware.local_proof.find_doubt(request, may_reach_outside=False)
        return json_response(
            SetupState(
                default_password=True,
                refused_because=None if doubt is None else str(doubt),
                refused_because_code=text_code_of(doubt),
            )
        )

    @blueprint.post("/api/auth/setup")
    @public
    @ApiOperation(
        "Choose the first password",
        description="Needs the token of the link that llb prints when it starts with the default password. "
        "The token is valid once, for a day. The response sets the session cookie.",
        body=SetupRequest,
        response=LoginReply,
        errors=(InvalidCredentials,),
    )
    async def set_up(request: Request) -> HTTPResponse:
        body = parse_body(request, SetupRequest)
        session = await account_service.set_up(body.token, body.new_password, _source_of(request))
        return _session_response(request, session)


def _add_own_account_routes(blueprint: Blueprint, db: Database, account_service: AccountService) -> None:
    @blueprint.post("/api/auth/logout")
    @authenticated
    @ApiOperation("Sign out", description="Ends the session. An API key stays valid.", status=204)
    async def log_out(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        response = no_content()
        if principal.kind is PrincipalKind.SESSION:
            await account_service.log_out(principal, request.ctx.client.address)
            _set_cookie(request, response, SESSION_COOKIE, "", 0)
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
        description="Needs a session. All your sessions end; the response sets the cookie of a new one. "
        "API keys made under the default password end with it: `ended_keys` names them.",
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
            principal, body.current_password, body.new_password, _source_of(request)
        )
        return _session_response(request, session)


def _add_user_routes(blueprint: Blueprint, db: Database, account_service: AccountService) -> None:
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
        description="Omitted fields stay. A new password ends the sessions of the user, and with the default "
        "password the API keys made under it: `ended_keys` names them.",
        body=UserPatch,
        response=ChangedUser,
        errors=(NotFound, Conflict),
    )
    async def change_user(request: Request, user_id: str) -> HTTPResponse:
        patch = parse_body(request, UserPatch)
        user, ended_keys = await account_service.change_user(
            request.ctx.principal, user_id, patch, request.ctx.client.address
        )
        return json_response(ChangedUser(**asdict(user_view(user)), ended_keys=ended_keys))

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


def _source_of(request: Request) -> LoginSource:
    return LoginSource(
        address=request.ctx.client.address, device_token=request.cookies.get(DEVICE_COOKIE) or None
    )


def _session_response(request: Request, session: NewSession) -> HTTPResponse:
    response = json_response(
        LoginReply(
            expires_at=to_iso(session.expires_at), user=user_view(session.user), ended_keys=session.ended_keys
        )
    )
    _set_cookie(request, response, SESSION_COOKIE, session.token, int(SESSION_MAX_S))
    if session.device_token is not None:
        _set_cookie(request, response, DEVICE_COOKIE, session.device_token, _DEVICE_COOKIE_MAX_AGE_S)
    return response


def _set_cookie(request: Request, response: HTTPResponse, name: str, value: str, max_age_s: int) -> None:
    response.add_cookie(
        name,
        value,
        path=request.ctx.client.base_path or "/",
        httponly=True,
        samesite="Strict",
        secure=request.ctx.client.scheme == "https",
        max_age=max_age_s,
    )
