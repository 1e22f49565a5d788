"""Route policy: who may call a route, declared at its handler.

Each handler has exactly one of `@public`, `@probe`, `@proxied(media_types)`, `@authenticated`,
`@authenticated_up_to(max_body_bytes)`, `@requires_scope(scope)`, `@node_only` and `@requires_file_token`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from msgspec import Struct
from sanic import Sanic
from sanic_routing import Route

from llb.wire import Scope

H = TypeVar("H", bound=Callable[..., Any])
_POLICY_ATTRIBUTE = "__llb_route_policy__"
PUBLIC_BODY_BYTES = 64 * 1024
_JSON_MEDIA_TYPES = ("application/json",)
# In `RoutePolicy.media_types`: a body of any type, or of none.
ANY_MEDIA_TYPE = "*/*"


class RoutePolicy(Struct, frozen=True, kw_only=True):
    """Who may call a route, and with what kind of body."""

    public: bool = False
    # Health checks of load balancers may leave out Host.
    is_probe: bool = False
    # Only the credential of a node, or on a joined node that of its balancer.
    node_only: bool = False
    # The handler verifies the token; no other credential counts.
    requires_file_token: bool = False
    # None: any valid credential.
    scope: Scope | None = None
    # A program of this host needs no credential.
    or_local_program: bool = False
    # `or_local_program` does not apply while the server listens beyond loopback.
    unless_exposed: bool = False
    media_types: tuple[str, ...] = _JSON_MEDIA_TYPES
    # None: the server's limit.
    max_body_bytes: int | None = None

    @property
    def limits_writes(self) -> bool:
        """Whether a request that changes something counts against the write limit of its sender.

        Inference and the reads of models have other limits.
        """
        is_open = self.public or self.node_only or self.requires_file_token
        return not is_open and self.scope in (None, Scope.MODELS_WRITE, Scope.ADMIN)

    @property
    def allowed_callers(self) -> str:
        """The callers in words, for the table in docs/security.md."""
        if self.public:
            return "everybody"
        if self.node_only:
            return "a node"
        if self.requires_file_token:
            return "a file token"
        who = "any key or session" if self.scope is None else f"`{self.scope.value}`"
        if not self.or_local_program:
            return who
        return f"{who}, or a program of this host" + (
            " while it listens on loopback" if self.unless_exposed else ""
        )


class RoutePolicyError(RuntimeError):
    """A route without a policy, or with two: a programming error, found at start."""


def _attach_policy(handler: H, policy: RoutePolicy) -> H:
    if hasattr(handler, _POLICY_ATTRIBUTE):
        raise RoutePolicyError(f"{handler!r} declares two route policies")
    setattr(handler, _POLICY_ATTRIBUTE, policy)
    return handler


def public(handler: H) -> H:
    """Let everybody call, with a small body; credentials are ignored."""
    return _attach_policy(handler, RoutePolicy(public=True, max_body_bytes=PUBLIC_BODY_BYTES))


def probe(handler: H) -> H:
    """Let everybody call, also without Host: HAProxy and others check servers so, in HTTP/1.0."""
    return _attach_policy(handler, RoutePolicy(public=True, is_probe=True, max_body_bytes=PUBLIC_BODY_BYTES))


def proxied(media_types: tuple[str, ...]) -> Callable[[H], H]:
    """Let everybody call with these media types: the host that receives the forwarded request decides."""
    return lambda handler: _attach_policy(handler, RoutePolicy(public=True, media_types=media_types))


def authenticated(handler: H) -> H:
    """Let every valid key or session call; the handler decides what it may see."""
    return _attach_policy(handler, RoutePolicy())


def authenticated_up_to(max_body_bytes: int) -> Callable[[H], H]:
    """Let every valid key or session call, with a body up to `max_body_bytes`."""
    return lambda handler: _attach_policy(handler, RoutePolicy(max_body_bytes=max_body_bytes))


def node_only(handler: H) -> H:
    """Let the other end of a link call, with the credential issued when the node joined."""
    return _attach_policy(handler, RoutePolicy(node_only=True))


def requires_file_token(handler: H) -> H:
    """Let requests with a file token call, which the handler verifies: `request.ctx.credentials`."""
    return _attach_policy(handler, RoutePolicy(requires_file_token=True))


def requires_scope(
    scope: Scope,
    *,
    or_local_program: bool = False,
    unless_exposed: bool = False,
    media_types: tuple[str, ...] = _JSON_MEDIA_TYPES,
) -> Callable[[H], H]:
    """Require `scope`.

    With `or_local_program`, a program of this host without any credential may call too (principal None).
    """
    policy = RoutePolicy(
        scope=scope, or_local_program=or_local_program, unless_exposed=unless_exposed, media_types=media_types
    )
    return lambda handler: _attach_policy(handler, policy)


def decorator_mark_of(route: Route, name: str) -> Any:
    """Return the attribute `name` that a decorator set on the handler of `route`; None without it."""
    handler: Any = route.handler
    while handler is not None:
        if (mark := getattr(handler, name, None)) is not None:
            return mark
        if isinstance(handler, functools.partial):
            # Sanic wraps the handler of a WebSocket as the first argument of a partial.
            handler = handler.args[0] if handler.args else handler.func
        else:
            handler = getattr(handler, "__wrapped__", None)
    return None


def route_policy_of(route: Route) -> RoutePolicy:
    """Return the policy of `route`; raises `RoutePolicyError` without one."""
    policy = decorator_mark_of(route, _POLICY_ATTRIBUTE)
    if isinstance(policy, RoutePolicy):
        return policy
    if getattr(route.extra, "static", False):
        return RoutePolicy(public=True)
    raise RoutePolicyError(f"the route {sorted(route.methods)} /{route.path} declares no route policy")


def route_policy_table(app: Sanic[Any, Any]) -> Iterator[tuple[str, str, RoutePolicy]]:
    """Yield method, path and policy of every route of `app`; raises `RoutePolicyError` where one has none."""
    for route in app.router.routes:
        policy = route_policy_of(route)
        for method in sorted(route.methods):
            yield method, f"/{route.path}", policy
