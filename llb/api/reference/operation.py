"""What a route tells its callers of itself, written at the handler beside its access rule: `@Documented(…)`, or
`@Internal(why)` where no client has any business. `api/reference/openapi.py` makes the reference of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from sanic_routing import Route

from llb.api.middleware.route_policy import decorator_mark_of, route_policy_of
from llb.errors import LlbError

# Types of arguments.
DATE_TIME = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def positive_int_up_to(maximum: int) -> Any:
    """A whole number from 1 to `high`."""
    return Annotated[int, Meta(ge=1, le=maximum)]


H = TypeVar("H", bound=Callable[..., Any])
_OPERATION_ATTRIBUTE = "__llb_documented__"


@dataclass(frozen=True)
class RequestParameter:
    """A value beside the body. `kind` is its type, as msgspec knows types; `place` is `query` or `header`."""

    name: str
    value_type: Any
    description: str
    location: str = "query"


@dataclass(frozen=True)
class ErrorFormat:
    """How errors are told: the `shape` of their bodies, and the statuses that are not the contract's own.
    `has_code`: whether the body's `error.code` is ours."""

    schema_type: type[Struct]
    status_overrides: tuple[
        tuple[type[LlbError], int], ...
    ] = ()  # Sanic wants what stands at a route to have a hash
    has_llb_code: bool = True


@dataclass(frozen=True)
class ApiOperation:
    """One operation. `errors` are those of its own; what the door and the code around every route refuse is known to the
    reference. `also` are further statuses with the same reply."""

    summary: str
    _: KW_ONLY
    description: str = ""
    body: type[Struct] | None = None
    response: type[Struct] | None = None
    text_media_type: str = ""  # of a reply that is text for programs, not JSON
    stream_event: type[Struct] | None = None  # what a stream of it carries, one a line
    stream_media_type: str = "text/event-stream"
    websocket_message: Any = None  # what a WebSocket sends
    status: int = 200
    extra_statuses: tuple[int, ...] = ()
    parameters: tuple[RequestParameter, ...] = ()
    errors: tuple[type[LlbError], ...] = ()
    error_format: ErrorFormat | None = None  # None: the contract's own

    def __call__(self, handler: H) -> H:
        setattr(handler, _OPERATION_ATTRIBUTE, self)
        return handler

    @property
    def statuses(self) -> tuple[int, ...]:
        return (self.status, *self.extra_statuses)


@dataclass(frozen=True)
class InternalRoute:
    """A route that is no client's business, and why."""

    reason: str

    def __call__(self, handler: H) -> H:
        setattr(handler, _OPERATION_ATTRIBUTE, self)
        return handler


class UndocumentedRoute(RuntimeError):
    """A route that says nothing of itself: a mistake in the code."""


def operation_of(route: Route) -> ApiOperation | InternalRoute:
    """What `route` says of itself; raises `Undocumented`. Routes of one handler each bring it as `ctx_documented`."""
    mark = getattr(route.ctx, "documented", None) or decorator_mark_of(route, _OPERATION_ATTRIBUTE)
    if isinstance(mark, ApiOperation | InternalRoute):
        return mark
    access = route_policy_of(route)
    if access.node_only or access.requires_file_token:
        return InternalRoute("between hosts")
    raise UndocumentedRoute(f"the route {sorted(route.methods)} /{route.path} is not documented")
