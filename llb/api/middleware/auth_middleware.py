"""Who may call: the rules that hold for every route and WebSocket, before its handler sees the request."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse, HTTPResponse

from llb.accounts.authenticator import Authenticator
from llb.api.middleware.client_info import ClientInfo, ClientInfoResolver, is_loopback, parse_origin
from llb.api.middleware.route_policy import RoutePolicy, RoutePolicyError, route_policy_of
from llb.api.middleware.trace_context import trace_id_of
from llb.api.responses import PassthroughResponse, request_id_of
from llb.base import log_setup
from llb.base.runfile import LOCAL_TOKEN_PREFIX
from llb.config import Config
from llb.errors import InvalidApiKey, OriginNotAllowed, PermissionDenied, SetupError, UnsupportedMediaType
from llb.security import tokens
from llb.security.permissions import Principal, PrincipalKind, has_scope
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
_DISABLED_FEATURES = (
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
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _DISABLED_FEATURES),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_DEFAULT_HEADERS = {**_SECURITY_HEADERS, "Cache-Control": "no-store"}
_ENCODED_DEFAULT_HEADERS = tuple(
    PassthroughResponse.encode_header(name, value) for name, value in _DEFAULT_HEADERS.items()
)
_CORS_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# What official clients tell of themselves: a browser asks for leave for each.
_STAINLESS_HEADERS = (
    "arch", "helper-method", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout"
)  # fmt: skip
_CORS_ALLOWED_HEADERS = ", ".join(
    (
        "authorization, content-type, x-api-key, x-request-id, x-session-id",
        "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access",
        "traceparent, tracestate",
        *(f"x-stainless-{name}" for name in _STAINLESS_HEADERS),
    )
)
_CORS_EXPOSED_HEADERS = ", ".join(
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


class AuthMiddleware:
    """Checks every request of an app; leaves `request.ctx.peer`, `.credential` and `.principal` to the handlers."""

    def __init__(self, config: Config, authenticator: Authenticator, *, local_token: str) -> None:
        """Raises `SetupError` for an allowed host or origin, or a proxy, that cannot be one."""
        self._client_resolver = ClientInfoResolver(config)
        self._authenticator = authenticator
        self._local_token = local_token
        self.rate_limit_headers_of: Callable[[str, KeyLimits], dict[str, str]] = lambda _key_id, _limits: {}
        self.on_access_denied: Callable[[Request, Principal, Scope], None] = lambda _request, _who, _scope: (
            None
        )
        self.is_exposed = not (config.listen_host == "localhost" or is_loopback(config.listen_host))
        self._allows_any_origin = "*" in config.allowed_origins
        self._allowed_origins = frozenset(
            parse_origin(text) for text in config.allowed_origins if text != "*"
        )
        if None in self._allowed_origins:
            raise SetupError("--allowed-origin: give an origin such as https://host:8443, or *.")

    def install(self, app: Sanic[Any, Any]) -> None:
        """Stand before every route of `app`; a route that declares no access rule stops the start."""
        app.ctx.guard = self
        app.register_middleware(self.on_request, "request", priority=1000)
        app.register_middleware(self.on_response, "response", priority=-1000)
        app.register_listener(self._bind_route_policies, "before_server_start")

    async def _bind_route_policies(self, app: Sanic[Any, Any]) -> None:
        for route in app.router.routes:
            route.ctx.access = route_policy_of(route)

    # --- request -------------------------------------------------------------------------------------

    async def authorise_early(self, request: Request) -> None:
        """What `before` does, before the body is read: raises what it raises, and is not done twice."""
        request.ctx.checked = await self.on_request(request) is None

    async def on_request(self, request: Request) -> HTTPResponse | None:
        """Refuse what may not pass, by raising; answers only a preflight itself."""
        if getattr(request.ctx, "checked", False):
            return None
        log_setup.bind_request(request_id_of(request), trace_id_of(request))
        request.ctx.principal = None
        if request.method == "NONE":
            return None  # Sanic's stand-in for what was no request: its own refusal says why
        peer = self._client_resolver.resolve(request)
        request.ctx.peer = peer
        _strip_internal_headers(request)
        credential = request.ctx.credential = _credential_of(request)
        foreign = self._is_cross_origin(request, peer)
        if foreign and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return self._preflight_response(request)
        if (
            foreign
            and _can_change_state(request)
            and not (credential is not None and self._is_origin_allowed(request))
        ):
            raise OriginNotAllowed(
                "A page of another origin may not do this; behind a reverse proxy, name it with --trusted-proxy"
            )
        if request.route is None:
            return None  # there is nothing at this address, or not for this method
        access = getattr(request.route.ctx, "access", None)
        if access is None:
            raise RoutePolicyError(f"the route {request.route.path} was added after the start")
        _check_media_type(request, access)
        request.ctx.principal = await self._authorise(request, access, peer, credential, cross_origin=foreign)
        return None

    async def _authorise(
        self,
        request: Request,
        policy: RoutePolicy,
        client: ClientInfo,
        credential: str | None,
        *,
        cross_origin: bool,
    ) -> Principal | None:
        """The principal, where `access` lets it pass; None where nobody in particular may."""
        if policy.public or policy.requires_file_token:
            return None
        if policy.node_only:
            if _is_from_browser(request):
                raise OriginNotAllowed("No page may speak for a node")
            principal = self._authenticator.authenticate_node(credential or "")
            if principal is None:
                raise InvalidApiKey("This needs the credential of a node that belongs here")
            return principal
        principal = await self._authenticate(request, client, credential, cross_origin=cross_origin)
        if principal is None:
            if policy.or_local_program and self._is_local_program(request, policy, client):
                return None
            raise InvalidApiKey(
                "No valid credential was given: sign in, or send 'Authorization: Bearer sk-…'"
            )
        if principal.must_change_password and not client.is_local:
            raise PermissionDenied("While the password is the default one it works on the host itself only")
        if policy.scope is not None and not has_scope(principal, policy.scope):
            self.on_access_denied(request, principal, policy.scope)
            raise PermissionDenied(f"This needs the scope '{policy.scope.value}'")
        return principal

    async def _authenticate(
        self, request: Request, client: ClientInfo, credential: str | None, *, cross_origin: bool
    ) -> Principal | None:
        if credential is not None:
            # It alone decides: a good cookie beside a bad key is not looked at.
            if credential.startswith(LOCAL_TOKEN_PREFIX):
                if not (client.on_loopback and tokens.tokens_equal(credential, self._local_token)):
                    raise InvalidApiKey("The credential is not valid here")
                return _LOCAL_PRINCIPAL
            if credential.startswith(tokens.NODE_CREDENTIAL_PREFIX):
                raise InvalidApiKey("The credential of a node opens its own routes only")
            return await self._authenticator.authenticate_key(credential)
        if cross_origin:
            return None  # a cookie never counts for another origin's page
        token = request.cookies.get(SESSION_COOKIE)
        return None if not token else await self._authenticator.authenticate_session(token)

    def _is_local_program(self, request: Request, policy: RoutePolicy, client: ClientInfo) -> bool:
        unsheltered = policy.unless_exposed and self.is_exposed
        return client.is_local and not _is_from_browser(request) and not unsheltered

    # --- origins -------------------------------------------------------------------------------------

    def _is_cross_origin(self, request: Request, client: ClientInfo) -> bool:
        """Whether a page of another origin makes this request; `same-site` is another origin too."""
        origins = request.headers.getall("origin", [])
        site = request.headers.get("sec-fetch-site")
        if origins and (len(origins) > 1 or parse_origin(origins[0]) != client.origin):
            return True
        # `none` is a person at the address bar: good enough to read, and never how a page acts.
        return site is not None and site != "same-origin" and (_can_change_state(request) or site != "none")

    def _is_origin_allowed(self, request: Request) -> bool:
        origins = request.headers.getall("origin", [])
        if len(origins) != 1:
            return False
        return self._allows_any_origin or parse_origin(origins[0]) in self._allowed_origins

    def _preflight_response(self, request: Request) -> HTTPResponse:
        if not self._is_origin_allowed(request):
            raise OriginNotAllowed("A page of this origin may not call; allow it with --allowed-origin")
        return HTTPResponse(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _CORS_ALLOWED_METHODS,
                "Access-Control-Allow-Headers": _CORS_ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
            },
        )

    # --- response ------------------------------------------------------------------------------------

    async def on_response(self, request: Request, response: BaseHTTPResponse) -> None:
        headers = response.headers
        if isinstance(response, PassthroughResponse):
            response.fixed_headers = (
                *_ENCODED_DEFAULT_HEADERS,
                (b"x-request-id", request_id_of(request).encode("ascii")),
            )
        else:
            headers["X-Request-ID"] = request_id_of(request)
            for name, value in _DEFAULT_HEADERS.items():
                headers.setdefault(name, value)
        principal: Principal | None = getattr(request.ctx, "principal", None)  # none: it was no request
        if principal is not None and principal.limits is not None:
            headers.update(self.rate_limit_headers_of(principal.id, principal.limits))
        if self._allows_any_origin or self._allowed_origins:
            headers.add("Vary", "Origin")
            if self._is_origin_allowed(request):
                headers["Access-Control-Allow-Origin"] = request.headers["origin"]
                headers["Access-Control-Expose-Headers"] = _CORS_EXPOSED_HEADERS


def _is_from_browser(request: Request) -> bool:
    """Whether a browser makes the request for a page, of whatever origin."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def _can_change_state(request: Request) -> bool:
    """Whether the request can change something; a WebSocket can, though it begins as a GET."""
    return request.method not in _SAFE_METHODS or "websocket" in request.headers.get("upgrade", "").lower()


def _credential_of(request: Request) -> str | None:
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


def _strip_internal_headers(request: Request) -> None:
    for name in _internal_headers(tuple(request.headers)):
        request.headers.popall(name, None)


@lru_cache(maxsize=1024)  # a client sends the same names again and again
def _internal_headers(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in names if name.lower().startswith("x-llb-"))


def _check_media_type(request: Request, policy: RoutePolicy) -> None:
    if request.method in _SAFE_METHODS:
        return
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (has_body or given) and given not in policy.media_types:
        raise UnsupportedMediaType(
            f"The body must be {' or '.join(policy.media_types)}; say so in Content-Type"
        )
