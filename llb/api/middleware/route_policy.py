"""What a route asks of its caller, written at the handler: one of `@public`, `@passed_on(media_types)`, `@authenticated`,
`@requires(scope)`, `@node_only`, `@ticketed`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sanic import Sanic
from sanic_routing import Route

from llb.wire import Scope

H = TypeVar("H", bound=Callable[..., Any])
_POLICY_ATTRIBUTE = "__llb_access__"
PUBLIC_BODY_BYTES = 64 * 1024
_JSON_MEDIA_TYPES = ("application/json",)


@dataclass(frozen=True, kw_only=True)
class RoutePolicy:
    """A route's rule. `scope` None: every valid credential will do; `or_local`: so will none, on this host itself."""

    public: bool = False
    node_only: bool = False  # a node, or the balancer of this one: nobody else's credential opens it
    requires_file_token: bool = False  # the handler looks at the ticket; no other credential counts
    scope: Scope | None = None
    or_local_program: bool = False
    unless_exposed: bool = False  # `or_local` ends when the server listens beyond loopback
    media_types: tuple[str, ...] = _JSON_MEDIA_TYPES
    max_body_bytes: int | None = None  # None: as many as anybody may send

    @property
    def allowed_callers(self) -> str:
        """Who may call, for a table."""
        if self.public:
            return "everybody"
        if self.node_only:
            return "a node"
        if self.requires_file_token:
            return "who has a ticket"
        who = "any key or session" if self.scope is None else f"`{self.scope.value}`"
        if not self.or_local_program:
            return who
        return f"{who}, or a program of this host" + (
            " while it listens on loopback" if self.unless_exposed else ""
        )


class RoutePolicyError(RuntimeError):
    """A route without a rule, or with two: a mistake in the code, found when the server starts."""


def _attach_policy(handler: H, policy: RoutePolicy) -> H:
    if hasattr(handler, _POLICY_ATTRIBUTE):
        raise RoutePolicyError(f"{handler!r} declares its access twice")
    setattr(handler, _POLICY_ATTRIBUTE, policy)
    return handler


def public(handler: H) -> H:
    """Everybody may call, with little to say; who it is, is not looked at."""
    return _attach_policy(handler, RoutePolicy(public=True, max_body_bytes=PUBLIC_BODY_BYTES))


def proxied(media_types: tuple[str, ...]) -> Callable[[H], H]:
    """Everybody may call with such a body: the host that the request is passed on to decides."""
    return lambda handler: _attach_policy(handler, RoutePolicy(public=True, media_types=media_types))


def authenticated(handler: H) -> H:
    """Every valid key or session may call; the handler says what it may see."""
    return _attach_policy(handler, RoutePolicy())


def node_only(handler: H) -> H:
    """The other end of a link may call, by the credential that was given when the node joined."""
    return _attach_policy(handler, RoutePolicy(node_only=True))


def requires_file_token(handler: H) -> H:
    """Whoever brings a ticket may call: no key and no session counts, and the handler checks `request.ctx.credential`."""
    return _attach_policy(handler, RoutePolicy(requires_file_token=True))


def requires_scope(
    scope: Scope,
    *,
    or_local_program: bool = False,
    unless_exposed: bool = False,
    media_types: tuple[str, ...] = _JSON_MEDIA_TYPES,
) -> Callable[[H], H]:
    """Callers must hold `scope`. With `or_local` a local program without any credential may call too (principal None)."""
    access = RoutePolicy(
        scope=scope, or_local_program=or_local_program, unless_exposed=unless_exposed, media_types=media_types
    )
    return lambda handler: _attach_policy(handler, access)


def decorator_mark_of(route: Route, name: str) -> Any:
    """What a decorator left on the handler of `route` under `name`; None without it."""
    handler: Any = route.handler
    while handler is not None:
        if (mark := getattr(handler, name, None)) is not None:
            return mark
        if isinstance(handler, functools.partial):
            # A WebSocket's handler is the first argument of a partial of Sanic's own.
            handler = handler.args[0] if handler.args else handler.func
        else:
            handler = getattr(handler, "__wrapped__", None)
    return None


def route_policy_of(route: Route) -> RoutePolicy:
    """The rule of `route`; raises `UndeclaredAccess`."""
    access = decorator_mark_of(route, _POLICY_ATTRIBUTE)
    if isinstance(access, RoutePolicy):
        return access
    if getattr(route.extra, "static", False):
        return RoutePolicy(public=True)
    raise RoutePolicyError(f"the route {sorted(route.methods)} /{route.path} declares no access rule")


def route_policy_table(app: Sanic[Any, Any]) -> Iterator[tuple[str, str, RoutePolicy]]:
    """Method, path and rule of every route of `app`; raises `UndeclaredAccess` where one has none."""
    for route in app.router.routes:
        access = route_policy_of(route)
        for method in sorted(route.methods):
            yield method, f"/{route.path}", access
