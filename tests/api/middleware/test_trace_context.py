"""Trace context and request ids: which are valid, and where they appear in the log."""

from __future__ import annotations

import json
import logging

import pytest

from llb.api.middleware.trace_context import MAX_TRACESTATE_CHARS, NO_TRACE, trace_headers_of
from llb.base.logs import log_setup
from tests.api.http_server import ApiServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("parent", [PARENT, f"cc-{TRACE}-00f067aa0ba902b7-01-what-will-be"])
async def test_a_trace_goes_on_as_it_came(server: ApiServer, parent: str) -> None:
    await server.call(
        "GET", "/any", await server.create_key(), ("Traceparent", parent), ("TraceState", "a=1")
    )
    assert trace_headers_of(server.handled_requests[0]) == (
        (b"traceparent", parent.encode()),
        (b"tracestate", b"a=1"),
    )


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "no trace",
        PARENT.upper(),
        PARENT + "-more",
        PARENT[:-1],
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"cc-{TRACE}-00f067aa0ba902b7-01-ü",
    ],
)
async def test_what_is_no_trace_goes_nowhere(server: ApiServer, parent: str) -> None:
    await server.call(
        "GET", "/any", await server.create_key(), ("traceparent", parent), ("tracestate", "a=1")
    )
    assert trace_headers_of(server.handled_requests[0]) == NO_TRACE


async def test_a_state_that_is_none_is_left_out(server: ApiServer) -> None:
    key = await server.create_key()
    for state in ("a=" + "1" * MAX_TRACESTATE_CHARS, "a=ü"):
        await server.call("GET", "/any", key, ("traceparent", PARENT), ("tracestate", state))
    await server.call("GET", "/any", key, ("tracestate", "a=1"))
    await server.call("GET", "/any", key, ("traceparent", PARENT), ("traceparent", PARENT))
    only = ((b"traceparent", PARENT.encode()),)
    assert [trace_headers_of(request) for request in server.handled_requests] == [
        only,
        only,
        NO_TRACE,
        NO_TRACE,
    ]


async def test_every_line_of_a_request_carries_its_ids(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(log_setup.JsonFormatter())
    with caplog.at_level(logging.ERROR):
        await server.call("GET", "/crash", ("X-Request-ID", "mine.1"), ("traceparent", PARENT))
        await server.call("GET", "/crash", ("X-Request-ID", "mine.2"))
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert [(line["request_id"], line.get("trace_id")) for line in lines] == [
        ("mine.1", TRACE),
        ("mine.2", None),
    ]


def test_lines_as_text() -> None:
    record = logging.LogRecord("llb", logging.INFO, "", 0, "hello", (), None)
    log_setup.bind_request("r1", "t1")
    try:
        assert log_setup.TextFormatter().format(record).endswith("llb: hello [r1 t1]")
    finally:
        log_setup.bind_request(None)
    assert log_setup.TextFormatter().format(record).endswith("llb: hello")
