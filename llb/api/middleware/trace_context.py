"""W3C Trace Context: the client's `traceparent`, forwarded unchanged to the engine and written into the log.

llb reports no spans. A parent id of its own would name a span that no tracing system has, so it forwards the
client's, as a proxy may (Trace Context, section 3.4).
"""

from __future__ import annotations

import re

from llb.api.incoming_request import IncomingRequest

# The length that every participant must forward.
MAX_TRACESTATE_CHARS = 512
# A later version starts with the same fields, and more may follow.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?"
)

TraceHeaders = tuple[tuple[bytes, bytes], ...]
NO_TRACE: TraceHeaders = ()


def trace_headers_of(request: IncomingRequest) -> TraceHeaders:
    """Return the trace headers to forward; none where `traceparent` is not valid."""
    if trace_id_of(request) is None:
        return NO_TRACE
    headers: TraceHeaders = ((b"traceparent", request.headers["traceparent"].encode("latin-1")),)
    state = ",".join(request.headers.getall("tracestate", []))
    if 0 < len(state) <= MAX_TRACESTATE_CHARS and state.isascii():
        headers += ((b"tracestate", state.encode("latin-1")),)
    return headers


def trace_id_of(request: IncomingRequest) -> str | None:
    """Return the trace id, 32 hexadecimal digits; None without a valid `traceparent`."""
    given = request.headers.getall("traceparent", None)
    if given is None or len(given) > 1:
        return None
    match = _TRACEPARENT.fullmatch(given[0])
    if match is None or (match[1] == "00" and match[3] is not None):
        return None
    return match[2]
