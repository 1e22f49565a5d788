"""The routes of signing in and out, and of the people who may."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import authenticated, public, requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.api.guard import SESSION_COOKIE
from llb.api.identity import SESSION_MAX_S
from llb.api.people import Accounts, user_view
from llb.api.replies import body, no_content, reply
from llb.api.times import to_iso
from llb.auth import Principal, PrincipalKind
from llb.errors import Conflict, InvalidCredentials, NotFound, PermissionDenied, RateLimited
from llb.store import users
from llb.store.database import Database
from llb.store.users import User
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


def accounts_blueprint(db: Database, accounts: Accounts) -> Blueprint:
    """`/api/auth/*` and `/api/users`."""
    blueprint = Blueprint("accounts")

    @blueprint.post("/api/auth/login")
    @public
    @Documented(
        "Sign in",
        text="Answers with the session cookie, for browsers. Programs use an API key.",
        body=LoginRequest,
        reply=LoginReply,
        errors=(InvalidCredentials, PermissionDenied, RateLimited),
    )
    async def log_in(request: Request) -> HTTPResponse:
        given = body(request, LoginRequest)
        signed_in = await accounts.log_in(
            given.username,
            given.password,
            address=request.ctx.peer.address,
            local=request.ctx.peer.is_local,
            replaces=request.cookies.get(SESSION_COOKIE),
        )
        return _signed_in(request, *signed_in)

    @blueprint.post("/api/auth/logout")
    @authenticated
    @Documented("Sign out", text="Ends the session. A key stays what it is.", status=204)
    async def log_out(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        response = no_content()
        if principal.kind is PrincipalKind.SESSION:
            await accounts.log_out(principal, request.ctx.peer.address)
            _set_cookie(request, response, "", 0)
        return response

    @blueprint.get("/api/auth/me")
    @authenticated
    @Documented("Whose credential this is", reply=Me)
    async def me(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        user = None if principal.user_id is None else await users.get(db, principal.user_id)
        return reply(
            Me(
                kind=principal.kind.value,
                user=None if user is None else user_view(user),
                scopes=tuple(sorted(principal.grants)),
                expires_at=to_iso(principal.expires_at),
            )
        )

    @blueprint.post("/api/auth/password")
    @authenticated
    @Documented(
        "Change one's own password",
        text="For a session only. All sessions end; the answer brings the cookie of a new one.",
        body=PasswordRequest,
        reply=LoginReply,
        errors=(InvalidCredentials, PermissionDenied, RateLimited),
    )
    async def change_password(request: Request) -> HTTPResponse:
        principal: Principal = request.ctx.principal
        if principal.kind is not PrincipalKind.SESSION:
            raise PermissionDenied("Sign in to change your password")
        given = body(request, PasswordRequest)
        signed_in = await accounts.change_password(
            principal, given.current_password, given.new_password, request.ctx.peer.address
        )
        return _signed_in(request, *signed_in)

    @blueprint.get("/api/users")
    @requires(Scope.ADMIN)
    @Documented("List people", reply=UserList)
    async def list_users(_: Request) -> HTTPResponse:
        return reply(UserList(tuple(user_view(user) for user in await users.all_users(db))))

    @blueprint.post("/api/users")
    @requires(Scope.ADMIN)
    @Documented("Add somebody", body=NewUser, reply=UserView, status=201, errors=(Conflict,))
    async def add_user(request: Request) -> HTTPResponse:
        user = await accounts.add_user(
            request.ctx.principal, body(request, NewUser), request.ctx.peer.address
        )
        return reply(user_view(user), 201)

    @blueprint.patch("/api/users/<user_id:str>")
    @requires(Scope.ADMIN)
    @Documented(
        "Change somebody's role or password",
        text="What is left out stays. A new password ends that person's sessions.",
        body=UserPatch,
        reply=UserView,
        errors=(NotFound, Conflict),
    )
    async def change_user(request: Request, user_id: str) -> HTTPResponse:
        patch = body(request, UserPatch)
        user = await accounts.change_user(request.ctx.principal, user_id, patch, request.ctx.peer.address)
        return reply(user_view(user))

    @blueprint.delete("/api/users/<user_id:str>")
    @requires(Scope.ADMIN)
    @Documented(
        "Remove somebody", text="Their sessions and keys end too.", status=204, errors=(NotFound, Conflict)
    )
    async def remove_user(request: Request, user_id: str) -> HTTPResponse:
        await accounts.remove_user(request.ctx.principal, user_id, request.ctx.peer.address)
        return no_content()

    return blueprint


def _signed_in(request: Request, token: str, user: User, expires_at: float) -> HTTPResponse:
    response = reply(LoginReply(expires_at=to_iso(expires_at), user=user_view(user)))
    _set_cookie(request, response, token, int(SESSION_MAX_S))
    return response


def _set_cookie(request: Request, response: HTTPResponse, value: str, max_age_s: int) -> None:
    response.add_cookie(
        SESSION_COOKIE,
        value,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=request.ctx.peer.scheme == "https",
        max_age=max_age_s,
    )
