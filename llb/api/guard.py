"""Who may call: the rules that hold for every route and WebSocket, before its handler sees the request."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse, HTTPResponse

from llb import auth, logs
from llb.api.access import Access, UndeclaredAccess, access_of
from llb.api.identity import Credentials
from llb.api.peer import Doorway, Peer, is_loopback, parse_origin
from llb.api.replies import Passed, request_id
from llb.api.traces import trace_id
from llb.auth import Principal, PrincipalKind, allows
from llb.config import Config
from llb.errors import InvalidApiKey, OriginNotAllowed, PermissionDenied, SetupError, UnsupportedMediaType
from llb.runfile import TOKEN_PREFIX
from llb.wire import KeyLimits, Role, Scope

SESSION_COOKIE = "llb_session"

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL_PRINCIPAL = Principal(kind=PrincipalKind.LOCAL, id="local", role=Role.ADMIN)
# Nothing but the page's own files, in same-origin requests and WebSockets; markup becomes DOM through two policies only.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types llb dompurify",
    )
)
_NEVER_USED = (
    "camera",
    "display-capture",
    "geolocation",
    "hid",
    "microphone",
    "midi",
    "payment",
    "serial",
    "usb",
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _NEVER_USED),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_DEFAULT_HEADERS = {**_SECURITY_HEADERS, "Cache-Control": "no-store"}
_FIXED = tuple(Passed.encoded(name, value) for name, value in _DEFAULT_HEADERS.items())
_CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# What official clients tell of themselves: a browser asks for leave for each.
_STAINLESS = (
    "arch", "helper-method", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout"
)  # fmt: skip
_CORS_HEADERS = ", ".join(
    (
        "authorization, content-type, x-api-key, x-request-id, x-session-id",
        "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access",
        "traceparent, tracestate",
        *(f"x-stainless-{name}" for name in _STAINLESS),
    )
)
_CORS_EXPOSED = ", ".join(
    (
        "x-request-id",
        "request-id",
        "retry-after",
        "x-llb-node",
        "x-llb-queue-ms",
        *(
            f"x-ratelimit-{figure}-{what}"
            for what in ("requests", "tokens")
            for figure in ("limit", "remaining", "reset")
        ),
    )
)
_CORS_MAX_AGE_S = 600


class Guard:
    """Checks every request of an app; leaves `request.ctx.peer`, `.credential` and `.principal` to the handlers."""

    def __init__(self, config: Config, identity: Credentials, *, local_token: str) -> None:
        """Raises `SetupError` for an allowed host or origin, or a proxy, that cannot be one."""
        self._doorway = Doorway(config)
        self._identity = identity
        self._local_token = local_token
        self.limit_headers: Callable[[str, KeyLimits], dict[str, str]] = lambda _key_id, _limits: {}
        self.on_refused: Callable[[Request, Principal, Scope], None] = lambda _request, _who, _scope: None
        self.exposed = not (config.listen_host == "localhost" or is_loopback(config.listen_host))
        self._any_origin = "*" in config.allowed_origins
        self._origins = frozenset(parse_origin(text) for text in config.allowed_origins if text != "*")
        if None in self._origins:
            raise SetupError("--allowed-origin: give an origin such as https://host:8443, or *.")

    def install(self, app: Sanic[Any, Any]) -> None:
        """Stand before every route of `app`; a route that declares no access rule stops the start."""
        app.ctx.guard = self
        app.register_middleware(self.before, "request", priority=1000)
        app.register_middleware(self.after, "response", priority=-1000)
        app.register_listener(self._declare_all, "before_server_start")

    async def _declare_all(self, app: Sanic[Any, Any]) -> None:
        for route in app.router.routes:
            route.ctx.access = access_of(route)

    # --- request -------------------------------------------------------------------------------------

    async def check(self, request: Request) -> None:
        """What `before` does, before the body is read: raises what it raises, and is not done twice."""
        request.ctx.checked = await self.before(request) is None

    async def before(self, request: Request) -> HTTPResponse | None:
        """Refuse what may not pass, by raising; answers only a preflight itself."""
        if getattr(request.ctx, "checked", False):
            return None
        logs.of_request(request_id(request), trace_id(request))
        request.ctx.principal = None
        if request.method == "NONE":
            return None  # Sanic's stand-in for what was no request: its own refusal says why
        peer = self._doorway.look(request)
        request.ctx.peer = peer
        _drop_own_headers(request)
        credential = request.ctx.credential = _credential(request)
        foreign = self._is_foreign(request, peer)
        if foreign and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return self._preflight(request)
        if foreign and _is_unsafe(request) and not (credential is not None and self._origin_allowed(request)):
            raise OriginNotAllowed(
                "A page of another origin may not do this; behind a reverse proxy, name it with --trusted-proxy"
            )
        if request.route is None:
            return None  # there is nothing at this address, or not for this method
        access = getattr(request.route.ctx, "access", None)
        if access is None:
            raise UndeclaredAccess(f"the route {request.route.path} was added after the start")
        _check_media_type(request, access)
        request.ctx.principal = await self._admit(request, access, peer, credential, foreign=foreign)
        return None

    async def _admit(
        self, request: Request, access: Access, peer: Peer, credential: str | None, *, foreign: bool
    ) -> Principal | None:
        """The principal, where `access` lets it pass; None where nobody in particular may."""
        if access.public or access.ticketed:
            return None
        if access.node:
            if _from_a_page(request):
                raise OriginNotAllowed("No page may speak for a node")
            principal = self._identity.of_node(credential or "")
            if principal is None:
                raise InvalidApiKey("This needs the credential of a node that belongs here")
            return principal
        principal = await self._principal(request, peer, credential, foreign=foreign)
        if principal is None:
            if access.or_local and self._is_local_program(request, access, peer):
                return None
            raise InvalidApiKey(
                "No valid credential was given: sign in, or send 'Authorization: Bearer sk-…'"
            )
        if principal.must_change_password and not peer.is_local:
            raise PermissionDenied("While the password is the default one it works on the host itself only")
        if access.scope is not None and not allows(principal, access.scope):
            self.on_refused(request, principal, access.scope)
            raise PermissionDenied(f"This needs the scope '{access.scope.value}'")
        return principal

    async def _principal(
        self, request: Request, peer: Peer, credential: str | None, *, foreign: bool
    ) -> Principal | None:
        if credential is not None:
            # It alone decides: a good cookie beside a bad key is not looked at.
            if credential.startswith(TOKEN_PREFIX):
                if not (peer.on_loopback and auth.same_token(credential, self._local_token)):
                    raise InvalidApiKey("The credential is not valid here")
                return _LOCAL_PRINCIPAL
            if credential.startswith(auth.NODE_MARK):
                raise InvalidApiKey("The credential of a node opens its own routes only")
            return await self._identity.of_key(credential)
        if foreign:
            return None  # a cookie never counts for another origin's page
        token = request.cookies.get(SESSION_COOKIE)
        return None if not token else await self._identity.of_session(token)

    def _is_local_program(self, request: Request, access: Access, peer: Peer) -> bool:
        unsheltered = access.unless_exposed and self.exposed
        return peer.is_local and not _from_a_page(request) and not unsheltered

    # --- origins -------------------------------------------------------------------------------------

    def _is_foreign(self, request: Request, peer: Peer) -> bool:
        """Whether a page of another origin makes this request; `same-site` is another origin too."""
        origins = request.headers.getall("origin", [])
        site = request.headers.get("sec-fetch-site")
        if origins and (len(origins) > 1 or parse_origin(origins[0]) != peer.origin):
            return True
        # `none` is a person at the address bar: good enough to read, and never how a page acts.
        return site is not None and site != "same-origin" and (_is_unsafe(request) or site != "none")

    def _origin_allowed(self, request: Request) -> bool:
        origins = request.headers.getall("origin", [])
        if len(origins) != 1:
            return False
        return self._any_origin or parse_origin(origins[0]) in self._origins

    def _preflight(self, request: Request) -> HTTPResponse:
        if not self._origin_allowed(request):
            raise OriginNotAllowed("A page of this origin may not call; allow it with --allowed-origin")
        return HTTPResponse(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _CORS_METHODS,
                "Access-Control-Allow-Headers": _CORS_HEADERS,
                "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
            },
        )

    # --- response ------------------------------------------------------------------------------------

    async def after(self, request: Request, response: BaseHTTPResponse) -> None:
        headers = response.headers
        if isinstance(response, Passed):
            response.fixed = (*_FIXED, (b"x-request-id", request_id(request).encode("ascii")))
        else:
            headers["X-Request-ID"] = request_id(request)
            for name, value in _DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
        principal: Principal | None = getattr(request.ctx, "principal", None)  # none: it was no request
        if principal is not None and principal.limits is not None:
            headers.update(self.limit_headers(principal.id, principal.limits))
        if self._any_origin or self._origins:
            headers.add("Vary", "Origin")
            if self._origin_allowed(request):
                headers["Access-Control-Allow-Origin"] = request.headers["origin"]
                headers["Access-Control-Expose-Headers"] = _CORS_EXPOSED


def _from_a_page(request: Request) -> bool:
    """Whether a browser makes the request for a page, of whatever origin."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def _is_unsafe(request: Request) -> bool:
    """Whether the request can change something; a WebSocket can, though it begins as a GET."""
    return request.method not in _SAFE_METHODS or "websocket" in request.headers.get("upgrade", "").lower()


def _credential(request: Request) -> str | None:
    """The Bearer token or X-API-Key; None without one. Raises `InvalidApiKey` when they are ambiguous."""
    lines = request.headers.getall("authorization", [])
    tokens = [
        token.strip()
        for scheme, _, token in (line.partition(" ") for line in lines)
        if scheme.lower() == "bearer"
    ]
    tokens += request.headers.getall("x-api-key", [])
    if len(set(tokens)) > 1:
        raise InvalidApiKey("More than one credential was given")
    return tokens[0] if tokens else None


def _drop_own_headers(request: Request) -> None:
    for name in _own_among(tuple(request.headers)):
        request.headers.popall(name, None)


@lru_cache(maxsize=1024)  # a client sends the same names again and again
def _own_among(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in names if name.lower().startswith("x-llb-"))


def _check_media_type(request: Request, access: Access) -> None:
    if request.method in _SAFE_METHODS:
        return
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (has_body or given) and given not in access.media_types:
        raise UnsupportedMediaType(
            f"The body must be {' or '.join(access.media_types)}; say so in Content-Type"
        )
