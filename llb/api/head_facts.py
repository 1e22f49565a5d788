"""Head facts: what handlers read from the headers of a request, found out once for equal heads."""

from __future__ import annotations

import re

from msgspec import Struct

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.trace_context import TraceHeaders, trace_headers_of, trace_id_of
from llb.api.reference.schemas.common import SESSION_HEADER

MAX_VIA_CHARS = 2000
# Of Anthropic's dialect, passed on to endpoints that speak it.
DIALECT_HEADERS = ("anthropic-version", "anthropic-beta")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class HeadFacts(Struct, frozen=True):
    """Facts that depend on the headers only."""

    # The client's, if it is well-formed.
    request_id: str | None
    trace_id: str | None
    # To forward to the engine.
    trace_headers: TraceHeaders
    dialect_headers: tuple[tuple[bytes, bytes], ...]
    # The header `Via`, by which two llb that are endpoints of one another see a loop.
    via: str
    # Name of the conversation.
    session: str | None


def facts_of(request: IncomingRequest) -> HeadFacts:
    """Return the facts, which stay in `request.ctx`."""
    facts: HeadFacts | None = getattr(request.ctx, "facts", None)
    if facts is None:
        facts = request.ctx.facts = _read_facts(request)
    return facts


def _read_facts(request: IncomingRequest) -> HeadFacts:
    headers = request.headers
    given_id = headers.get("x-request-id", "")
    via = ", ".join(headers.getall("via", ()))
    return HeadFacts(
        request_id=given_id if _REQUEST_ID.fullmatch(given_id) else None,
        trace_id=trace_id_of(request),
        trace_headers=trace_headers_of(request),
        dialect_headers=tuple(
            (name.encode(), value.encode())
            for name in DIALECT_HEADERS
            if (value := headers.get(name)) is not None and value.isascii() and value.isprintable()
        ),
        via=via[-MAX_VIA_CHARS:] if via.isascii() and via.isprintable() else "",
        session=headers.get(SESSION_HEADER),
    )
