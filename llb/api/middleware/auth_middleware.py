"""Authentication and authorisation: the steps that every request passes before its handler sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sanic import Sanic
from sanic.response import BaseHTTPResponse, HTTPResponse
from sanic_routing import Route

from llb.accounts.authenticator import Authenticator, default_login_text
from llb.accounts.write_limiter import WriteLimiter
from llb.api.head_facts import facts_of, request_id_of
from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.client_info import ClientInfo, ClientInfoResolver, is_loopback
from llb.api.middleware.cors import SAFE_METHODS, CorsPolicy, is_cross_origin, is_from_browser, is_preflight
from llb.api.middleware.local_proof import LocalProof
from llb.api.middleware.route_policy import (
    ANY_MEDIA_TYPE,
    RoutePolicy,
    RoutePolicyError,
    route_policy_of,
)
from llb.api.middleware.security_headers import add_security_headers
from llb.api.middleware.vouched_origins import VouchedOrigins
from llb.base.logs import log_setup
from llb.base.runfile import LOCAL_TOKEN_PREFIX
from llb.config import Config
from llb.errors import InvalidApiKey, OriginNotAllowed, PermissionDenied, UnsupportedMediaType
from llb.security import tokens
from llb.security.permissions import LOCAL_PRINCIPAL, KeyAllowance, Principal, PrincipalKind, has_scope
from llb.texts.coded_text import CodedText
from llb.wire import OLLAMA_PORT_KEY_ID, Scope

SESSION_COOKIE = "llb_session"


class AuthMiddleware:
    """Authenticates and authorises the requests of an app.

    It leaves `request.ctx.client`, `.credentials` and `.principal` to the handlers.
    """

    def __init__(
        self,
        config: Config,
        authenticator: Authenticator,
        *,
        local_token: str,
        local_proof: LocalProof | None = None,
        rate_limit_headers_of: Callable[[Sequence[KeyAllowance]], dict[str, str]] = lambda _allowances: {},
        on_access_denied: Callable[
            [IncomingRequest, Principal, Scope], None
        ] = lambda _request, _principal, _scope: None,
    ) -> None:
        """Raises `SetupError` for an invalid allowed host, allowed origin or trusted proxy."""
        self._client_resolver = ClientInfoResolver(config)
        self._cors = CorsPolicy(config)
        self.authenticator = authenticator
        self._local_token = local_token
        self.local_proof = local_proof or LocalProof()
        self._rate_limit_headers_of = rate_limit_headers_of
        self._on_access_denied = on_access_denied
        self._vouched_origins = VouchedOrigins()
        self._write_limiter = WriteLimiter()
        self.is_exposed = not (config.listen_host == "localhost" or is_loopback(config.listen_host))

    def install(self, app: Sanic[Any, Any]) -> None:
        """Register with `app`; a route without a policy makes its start fail."""
        app.ctx.auth_middleware = self
        app.register_middleware(self.on_request, "request", priority=1000)
        app.register_middleware(self.on_response, "response", priority=-1000)
        app.register_listener(self._bind_route_policies, "before_server_start")

    async def _bind_route_policies(self, app: Sanic[Any, Any]) -> None:
        for route in app.router.routes:
            route.ctx.policy = route_policy_of(route)

    async def authorise_early(self, request: IncomingRequest) -> None:
        """Do what `on_request` does, before the body is read; raises the same errors."""
        request.ctx.is_authorised = await self.on_request(request) is None

    async def on_request(self, request: IncomingRequest) -> HTTPResponse | None:
        """Authorise the request; raises the error that denies it. Returns a response to a preflight only."""
        if getattr(request.ctx, "is_authorised", False):
            if request.body:
                await self._authorise_again(request)
            return None
        self.bind_log(request)
        request.ctx.principal = None
        if request.method == "NONE":
            # Sanic's placeholder for bytes that are no HTTP request. Its own error describes them.
            return None
        policy = None if request.route is None else _policy_of(request.route)
        client = request.ctx.client = self._client_resolver.resolve(
            request, allows_missing_host=policy is not None and policy.is_probe
        )
        _strip_internal_headers(request)
        credentials = request.ctx.credentials = _credentials_of(request)
        vouched = None
        if client.is_port_unknown:
            vouched = self._vouched_origins.find(client, request.cookies.get(SESSION_COOKIE))
        cross_origin = is_cross_origin(request, client, vouched)
        if cross_origin and is_preflight(request):
            return self._cors.preflight_response(request, client)
        if cross_origin:
            self._cors.check_forgery(request, client, has_credential=bool(credentials))
        if policy is None:
            # Sanic answers with 404 or 405.
            return None
        _check_media_type(request, policy)
        request.ctx.principal = await self._authorise(
            request, policy, client, credentials, cross_origin=cross_origin
        )
        return None

    @staticmethod
    def bind_log(request: IncomingRequest) -> None:
        """Attach the ids of the request to the log records of the present task."""
        log_setup.bind_request(request_id_of(request), facts_of(request).trace_id)

    async def on_response(self, request: IncomingRequest, response: BaseHTTPResponse) -> None:
        """Like `add_response_headers`."""
        self.add_response_headers(request, response)

    def add_response_headers(self, request: IncomingRequest, response: BaseHTTPResponse) -> None:
        """Add the headers that every response has."""
        add_security_headers(response, request_id_of(request))
        # A request whose headers could not be parsed never reached `on_request`.
        principal: Principal | None = getattr(request.ctx, "principal", None)
        if principal is not None and principal.allowances:
            response.headers.update(self._rate_limit_headers_of(principal.allowances))
        self._cors.add_headers(request, response)

    async def _authorise(
        self,
        request: IncomingRequest,
        policy: RoutePolicy,
        client: ClientInfo,
        credentials: tuple[str, ...],
        *,
        cross_origin: bool,
    ) -> Principal | None:
        """Return the principal that `policy` admits, None where it admits an anonymous request."""
        if policy.public or policy.requires_file_token:
            return None
        if policy.node_only:
            return self._authorise_node(request, credentials)
        principal = await self._authenticate(request, client, credentials, cross_origin=cross_origin)
        if principal is None:
            if policy.or_local_program and await self._is_local_program(request, policy):
                return None
            raise InvalidApiKey(
                "No valid credential was given: sign in, or send 'Authorization: Bearer sk-…'"
            )
        if principal.must_change_password:
            await self.require_local(request)
        if policy.scope is not None and not has_scope(principal, policy.scope):
            self._on_access_denied(request, principal, policy.scope)
            raise PermissionDenied(
                CodedText("needs_scope", "This needs the scope '{scope}'", scope=policy.scope.value)
            )
        if policy.limits_writes and request.method not in SAFE_METHODS:
            self._write_limiter.count_write(principal)
        return principal

    async def _authorise_again(self, request: IncomingRequest) -> None:
        """Raise the error of a credential that ended, or lost its scope, while the body was read.

        A client that sends its body slowly could otherwise act long after its key was revoked.
        """
        before: Principal | None = request.ctx.principal
        if before is None or before.kind not in (PrincipalKind.KEY, PrincipalKind.SESSION):
            return
        if before.id == OLLAMA_PORT_KEY_ID:
            # It has no credential.
            return
        now = await self._authenticate(
            request, request.ctx.client, request.ctx.credentials, cross_origin=False
        )
        if now is None or now.id != before.id:
            raise InvalidApiKey("The session was ended while the request was sent")
        scope = None if request.route is None else _policy_of(request.route).scope
        if scope is not None and not has_scope(now, scope):
            self._on_access_denied(request, now, scope)
            raise PermissionDenied(
                CodedText("needs_scope", "This needs the scope '{scope}'", scope=scope.value)
            )
        request.ctx.principal = now

    def _authorise_node(self, request: IncomingRequest, credentials: tuple[str, ...]) -> Principal:
        if is_from_browser(request):
            raise OriginNotAllowed("A web page may not act as a node")
        principal = self.authenticator.authenticate_node(credentials[0] if len(credentials) == 1 else "")
        if principal is None:
            raise InvalidApiKey("This needs the credential of a node of this cluster")
        return principal

    async def _authenticate(
        self,
        request: IncomingRequest,
        client: ClientInfo,
        credentials: tuple[str, ...],
        *,
        cross_origin: bool,
    ) -> Principal | None:
        if credentials:
            # Only they count: a valid cookie does not make up for an invalid key.
            if _has_repeated_header(request):
                raise InvalidApiKey("More than one credential was given")
            return await self._authenticate_one_of(credentials, client)
        if cross_origin:
            # The browser sends the cookie on behalf of a page of another origin.
            return None
        token = request.cookies.get(SESSION_COOKIE)
        principal = None if not token else await self.authenticator.authenticate_session(token)
        if principal is not None and token:
            self._vouched_origins.record(request, client, token)
        return principal

    async def _authenticate_one_of(self, credentials: tuple[str, ...], client: ClientInfo) -> Principal:
        """Return the principal of the one credential that is valid. Raises `InvalidApiKey`.

        Some programs send a placeholder in one header and the key in another. Of two valid credentials none
        counts: whose rights are meant would be a guess.
        """
        principals, errors = [], []
        for credential in credentials:
            try:
                principals.append(await self._authenticate_credential(credential, client))
            except InvalidApiKey as error:
                errors.append(error)
        if len(principals) > 1:
            raise InvalidApiKey("More than one valid credential was given")
        if not principals:
            raise errors[0]
        return principals[0]

    async def _authenticate_credential(self, credential: str, client: ClientInfo) -> Principal:
        if credential.startswith(LOCAL_TOKEN_PREFIX):
            if not (client.on_loopback and tokens.tokens_equal(credential, self._local_token)):
                raise InvalidApiKey("The credential is not valid here")
            return LOCAL_PRINCIPAL
        if credential.startswith(tokens.NODE_CREDENTIAL_PREFIX):
            raise InvalidApiKey("The credential of a node is valid for the routes of nodes only")
        return await self.authenticator.authenticate_key(credential)

    async def require_local(self, request: IncomingRequest) -> None:
        """Raise `PermissionDenied` unless the default password may be used by the sender of `request`."""
        doubt = await self.local_proof.find_doubt(request, may_reach_outside=False)
        if doubt is not None:
            raise PermissionDenied(default_login_text(doubt))

    async def _is_local_program(self, request: IncomingRequest, policy: RoutePolicy) -> bool:
        if is_from_browser(request) or (policy.unless_exposed and self.is_exposed):
            return False
        return await self.local_proof.find_doubt(request) is None


def _policy_of(route: Route) -> RoutePolicy:
    policy: RoutePolicy | None = getattr(route.ctx, "policy", None)
    if policy is None:
        raise RoutePolicyError(f"the route {route.path} was added after the start")
    return policy


def _credentials_of(request: IncomingRequest) -> tuple[str, ...]:
    """Return the different Bearer tokens and values of X-API-Key, in this order.

    If another one is given, an empty one is a field that was left empty; alone it is an invalid credential,
    so that no cookie counts in its place.
    """
    different = tuple(dict.fromkeys((*_bearer_tokens_of(request), *request.headers.getall("x-api-key", []))))
    return tuple(credential for credential in different if credential) or different


def _bearer_tokens_of(request: IncomingRequest) -> list[str]:
    return [
        token.strip()
        for scheme, _, token in (line.partition(" ") for line in request.headers.getall("authorization", []))
        if scheme.lower() == "bearer"
    ]


def _has_repeated_header(request: IncomingRequest) -> bool:
    """Whether a header has two values: a proxy may have checked another one than the server would."""
    return len({*_bearer_tokens_of(request)}) > 1 or len({*request.headers.getall("x-api-key", [])}) > 1


def _strip_internal_headers(request: IncomingRequest) -> None:
    for name in _internal_headers(tuple(request.headers)):
        request.headers.popall(name, None)


# Cached, because a client sends the same names in every request.
@lru_cache(maxsize=1024)
def _internal_headers(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in names if name.lower().startswith("x-llb-"))


def _check_media_type(request: IncomingRequest, policy: RoutePolicy) -> None:
    """Raise `UnsupportedMediaType` for a body that an HTML form of any page could send."""
    if request.method in SAFE_METHODS or ANY_MEDIA_TYPE in policy.media_types:
        return
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (has_body or given) and given not in policy.media_types:
        raise UnsupportedMediaType(f"Content-Type must be {' or '.join(policy.media_types)}")
