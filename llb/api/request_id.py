"""Request id: the `X-Request-ID` of a request."""

from __future__ import annotations

import itertools
import secrets

from llb.api.head_facts import facts_of
from llb.api.incoming_request import IncomingRequest

# An id must be unique but need not be secret: random bytes from the system cost a tenth of a request.
_PREFIX = secrets.token_hex(4)
_numbers = itertools.count(1)


def request_id_of(request: IncomingRequest) -> str:
    """Return the id of this request: the client's if it is well-formed, else a new one.

    Every call for the same request returns the same id.
    """
    known: str | None = getattr(request.ctx, "request_id", None)
    if known is None:
        known = request.ctx.request_id = facts_of(request).request_id or f"{_PREFIX}{next(_numbers):08x}"
    return known
