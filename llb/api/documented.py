"""What a route tells its callers of itself, written at the handler beside its access rule: `@documented(…)`, or
`@internal(why)` where no client has any business. `api/openapi.py` makes the reference of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Documented:
    """One operation. Without a `reply` it answers 204; `statuses` are those that answer with a `reply`.

    `errors` are those of its own; what the door and the code around every route refuse is known to the reference.
    `events` is what a stream of it carries, one a line of `data:`; `messages` what a WebSocket sends.
    """

    summary: str
    text: str = ""
    body: type[Struct] | None = None
    reply: type[Struct] | None = None
    statuses: tuple[int, ...] = (200,)
    arguments: tuple[Argument, ...] = ()
    errors: tuple[type[LlbError], ...] = ()
    events: type[Struct] | None = None
    messages: Any = None
    plain_reply: bool = False  # text for programs, not JSON


@dataclass(frozen=True)
class Internal:
    """A route that is no client's business, and why."""

    why: str


class Undocumented(RuntimeError):
    """A route that says nothing of itself: a mistake in the code."""


def documented(
    summary: str,
    *,
    text: str = "",
    body: type[Struct] | None = None,
    reply: type[Struct] | None = None,
    status: int = 200,
    also: tuple[int, ...] = (),
    arguments: tuple[Argument, ...] = (),
    errors: tuple[type[LlbError], ...] = (),
    messages: Any = None,
    plain_reply: bool = False,
) -> Callable[[H], H]:
    """Mark a handler with what it takes and gives; `also` are further statuses with the same reply."""
    return _marking(
        Documented(
            summary=summary,
            text=text,
            body=body,
            reply=reply,
            statuses=(status, *also),
            arguments=arguments,
            errors=errors,
            messages=messages,
            plain_reply=plain_reply,
        )
    )


def internal(why: str) -> Callable[[H], H]:
    """Mark a handler that the reference leaves out."""
    return _marking(Internal(why))


def _marking(mark: Documented | Internal) -> Callable[[H], H]:
    def decorate(handler: H) -> H:
        setattr(handler, _MARK, mark)
        return handler

    return decorate


def declared(route: Route) -> Documented | Internal:
    """What `route` says of itself; raises `Undocumented`. Routes of one handler each bring it as `ctx_documented`."""
    mark = getattr(route.ctx, "documented", None) or mark_of(route, _MARK)
    if isinstance(mark, Documented | Internal):
        return mark
    access = access_of(route)
    if access.node or access.ticketed:
        return Internal("between hosts")
    raise Undocumented(f"the route {sorted(route.methods)} /{route.path} is not documented")
