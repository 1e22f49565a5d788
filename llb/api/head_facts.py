"""Head facts: what handlers read from the headers of a request, computed once for equal heads.

Also the id of a request, which is the client's if its headers have one.
"""

from __future__ import annotations

import itertools
import re
import secrets

from msgspec import Struct

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.trace_context import TraceHeaders, trace_headers_of, trace_id_of
from llb.api.reference.schemas.common import SESSION_HEADER

MAX_VIA_CHARS = 2000
# Headers of Anthropic's dialect, passed on to endpoints that speak it.
DIALECT_HEADERS = ("anthropic-version", "anthropic-beta")
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# An id must be unique but need not be secret: random bytes from the system cost a tenth of a request.
_id_prefix = secrets.token_hex(4)
_id_numbers = itertools.count(1)


class HeadFacts(Struct, frozen=True):
    """Facts that depend on the headers only."""

    # The client's, if it is well-formed.
    request_id: str | None
    trace_id: str | None
    # Forwarded to the engine.
    trace_headers: TraceHeaders
    dialect_headers: tuple[tuple[bytes, bytes], ...]
    # The header `Via`, by which two llb that are endpoints of each other detect a loop.
    via: str
    # Name of the conversation.
    session: str | None


def facts_of(request: IncomingRequest) -> HeadFacts:
    """Return the facts, which stay in `request.ctx`."""
    ctx = request.ctx
    facts: HeadFacts | None = getattr(ctx, "facts", None)
    if facts is None:
        facts = ctx.facts = _read_facts(request)
    return facts


def _read_facts(request: IncomingRequest) -> HeadFacts:
    headers = request.headers
    given_id = headers.get(REQUEST_ID_HEADER, "")
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


def request_id_of(request: IncomingRequest) -> str:
    """Return the id of this request: the client's if it is well-formed, else a new one.

    Every call for the same request returns the same id.
    """
    ctx = request.ctx
    known: str | None = getattr(ctx, "request_id", None)
    if known is None:
        known = facts_of(request).request_id or f"{_id_prefix}{next(_id_numbers):08x}"
        ctx.request_id = known
    return known
