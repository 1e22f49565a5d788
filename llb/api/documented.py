"""What a route tells its callers of itself, written at the handler beside its access rule: `@Documented(…)`, or
`@Internal(why)` where no client has any business. `api/openapi.py` makes the reference of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from sanic_routing import Route

from llb.api.access import access_of, mark_of
from llb.errors import LlbError

# Types of arguments.
MOMENT = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def up_to(high: int) -> Any:
    """A whole number from 1 to `high`."""
    return Annotated[int, Meta(ge=1, le=high)]


H = TypeVar("H", bound=Callable[..., Any])
_MARK = "__llb_documented__"


@dataclass(frozen=True)
class Argument:
    """A value beside the body. `kind` is its type, as msgspec knows types; `place` is `query` or `header`."""

    name: str
    kind: Any
    text: str
    place: str = "query"


@dataclass(frozen=True)
class Dialect:
    """How errors are told: the `shape` of their bodies, and the statuses that are not the contract's own.
    `has_code`: whether the body's `error.code` is ours."""

    shape: type[Struct]
    statuses: tuple[tuple[type[LlbError], int], ...] = ()  # Sanic wants what stands at a route to have a hash
    has_code: bool = True


@dataclass(frozen=True)
class Documented:
    """One operation. `errors` are those of its own; what the door and the code around every route refuse is known to the
    reference. `also` are further statuses with the same reply."""

    summary: str
    _: KW_ONLY
    text: str = ""
    body: type[Struct] | None = None
    reply: type[Struct] | None = None
    text_type: str = ""  # of a reply that is text for programs, not JSON
    events: type[Struct] | None = None  # what a stream of it carries, one a line
    stream_type: str = "text/event-stream"
    messages: Any = None  # what a WebSocket sends
    status: int = 200
    also: tuple[int, ...] = ()
    arguments: tuple[Argument, ...] = ()
    errors: tuple[type[LlbError], ...] = ()
    dialect: Dialect | None = None  # None: the contract's own

    def __call__(self, handler: H) -> H:
        setattr(handler, _MARK, self)
        return handler

    @property
    def statuses(self) -> tuple[int, ...]:
        return (self.status, *self.also)


@dataclass(frozen=True)
class Internal:
    """A route that is no client's business, and why."""

    why: str

    def __call__(self, handler: H) -> H:
        setattr(handler, _MARK, self)
        return handler


class Undocumented(RuntimeError):
    """A route that says nothing of itself: a mistake in the code."""


def declared(route: Route) -> Documented | Internal:
    """What `route` says of itself; raises `Undocumented`. Routes of one handler each bring it as `ctx_documented`."""
    mark = getattr(route.ctx, "documented", None) or mark_of(route, _MARK)
    if isinstance(mark, Documented | Internal):
        return mark
    access = access_of(route)
    if access.node or access.ticketed:
        return Internal("between hosts")
    raise Undocumented(f"the route {sorted(route.methods)} /{route.path} is not documented")
