"""W3C Trace Context: a caller's `traceparent` goes on to the engine, unchanged.

llb reports no spans of its own. A parent id that it made up would be a span that nobody can show, so it passes the caller's on as
proxies do (Trace Context, section 3.4), and writes the trace into its log.
"""

from __future__ import annotations

import re

from sanic import Request

MAX_TRACESTATE_CHARS = 512  # what everybody has to pass on
# Of a later version the beginning is the same, and more may follow.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?"
)

TraceHeaders = tuple[tuple[bytes, bytes], ...]
NO_TRACE: TraceHeaders = ()


def trace_headers_of(request: Request) -> TraceHeaders:
    """What of the caller's trace is passed on; nothing of one that is not as the standard has it."""
    if trace_id_of(request) is None:
        return NO_TRACE
    headers: TraceHeaders = ((b"traceparent", request.headers["traceparent"].encode("latin-1")),)
    state = ",".join(request.headers.getall("tracestate", []))
    if 0 < len(state) <= MAX_TRACESTATE_CHARS and state.isascii():
        headers += ((b"tracestate", state.encode("latin-1")),)
    return headers


def trace_id_of(request: Request) -> str | None:
    """The id of the caller's trace, 32 hexadecimal digits; None without a `traceparent` that is one."""
    given = request.headers.getall("traceparent", None)
    if given is None or len(given) > 1:
        return None
    match = _TRACEPARENT.fullmatch(given[0])
    if match is None or (match[1] == "00" and match[3] is not None):
        return None
    return match[2]
