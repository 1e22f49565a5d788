"""OpenAPI operations of routes, declared at the handler, next to its route policy.

A route for clients has `@ApiOperation(…)`, any other `@InternalRoute(reason)`. `api.reference.openapi` builds
the API reference from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from sanic_routing import Route

from llb.api.middleware.route_policy import decorator_mark_of, route_policy_of
from llb.errors import LlbError

DATE_TIME = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def positive_int_up_to(maximum: int) -> Any:
    """Return the type of a whole number from 1 to `maximum`."""
    return Annotated[int, Meta(ge=1, le=maximum)]


HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
_OPERATION_ATTRIBUTE = "__llb_documented__"


class RequestParameter(Struct, frozen=True):
    """Query parameter or header of an operation."""

    name: str
    # Any type that msgspec knows.
    value_type: Any
    description: str
    # "query" or "header".
    location: str = "query"


class ErrorFormat(Struct, frozen=True):
    """Error format of a dialect other than llb's own."""

    schema_type: type[Struct]
    # A tuple rather than a mapping: Sanic requires the attributes of a route to be hashable.
    status_overrides: tuple[tuple[type[LlbError], int], ...] = ()
    # Whether `error.code` in the body is llb's code.
    has_llb_code: bool = True


@dataclass(frozen=True)
class ApiOperation:
    """OpenAPI operation of one route; a decorator of its handler.

    `errors` are those of the operation itself. `error_responses` adds the errors of the middleware.
    """

    summary: str
    _: KW_ONLY
    description: str = ""
    body: type[Struct] | None = None
    response: type[Struct] | None = None
    # Media type of a text response, empty for JSON.
    text_media_type: str = ""
    # Type of each event of a streamed response.
    stream_event: type[Struct] | None = None
    stream_media_type: str = "text/event-stream"
    # Type of the messages that a WebSocket sends.
    websocket_message: Any = None
    status: int = 200
    # Further statuses with the same response.
    extra_statuses: tuple[int, ...] = ()
    parameters: tuple[RequestParameter, ...] = ()
    errors: tuple[type[LlbError], ...] = ()
    # None for llb's own format.
    error_format: ErrorFormat | None = None

    def __call__(self, handler: HandlerT) -> HandlerT:
        setattr(handler, _OPERATION_ATTRIBUTE, self)
        return handler

    @property
    def statuses(self) -> tuple[int, ...]:
        return (self.status, *self.extra_statuses)


class InternalRoute(Struct, frozen=True):
    """Mark of a route that the reference leaves out, with the reason."""

    reason: str

    def __call__(self, handler: HandlerT) -> HandlerT:
        setattr(handler, _OPERATION_ATTRIBUTE, self)
        return handler


class UndocumentedRoute(RuntimeError):
    """A route declares neither an operation nor that it is internal."""


def operation_of(route: Route) -> ApiOperation | InternalRoute:
    """Return what `route` declares; raises `UndocumentedRoute`.

    Routes that share one handler declare their operations as `ctx_operation`.
    """
    mark = getattr(route.ctx, "operation", None) or decorator_mark_of(route, _OPERATION_ATTRIBUTE)
    if isinstance(mark, ApiOperation | InternalRoute):
        return mark
    policy = route_policy_of(route)
    if policy.node_only or policy.requires_file_token:
        return InternalRoute("between hosts")
    raise UndocumentedRoute(f"the route {sorted(route.methods)} /{route.path} is not documented")
