"""Request recorder: how requests that fail are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.middleware.route_policy import requires_scope
from llb.api.request_recorder import RequestRecorder
from llb.gateway.observability.request_log import RequestLog
from llb.store.database import Database
from llb.store.tables import keys, request_history
from llb.wire import Scope
from tests.api.http_server import PASSWORD, ApiServer, run_api_server


def _begun(record: Any) -> BaseException:
    record.status = 200
    return asyncio.CancelledError()


def _answered(record: Any) -> BaseException:
    record.is_answered = True
    return _begun(record)


_FAILURES: dict[str, Any] = {
    "refused": lambda _: errors.QueueFull("full"),
    "broken": lambda _: ZeroDivisionError(),
    "left": lambda _: asyncio.CancelledError(),
    "left in mid-stream": _begun,
    "left after the end": _answered,
}


@pytest.fixture
async def server(tmp_path: Path, request_log: RequestLog) -> AsyncIterator[ApiServer]:
    """A server with a recorded route that fails as its query says."""
    blueprint = Blueprint("probe")

    @blueprint.post("/v1/probe")
    @requires_scope(Scope.INFERENCE)
    async def probe(request: Request) -> HTTPResponse | None:
        with RequestRecorder(request_log).record(request) as record:
            raise _FAILURES[request.args["as"][0]](record)

    async with run_api_server(tmp_path, blueprint, admin_password=PASSWORD) as running:
        yield running


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("refused", 503, "queue_full"),
        ("broken", 500, "internal_error"),
        ("left", 499, "client_closed"),
        ("left in mid-stream", 200, "client_closed"),
        ("left after the end", 200, None),
    ],
)
async def test_how_a_request_failed(
    server: ApiServer, db: Database, request_log: RequestLog, failure: str, status: int, code: str | None
) -> None:
    key = await server.create_key(Scope.INFERENCE)
    path = f"/v1/probe?{urlencode({'as': failure})}"
    try:
        await server.call("POST", path, key, ("X-Request-ID", "mine"))
    except asyncio.IncompleteReadError:
        assert "left" in failure
    await request_log.flush()
    [record] = await request_history.list_page(db, request_history.OwnerFilter())
    assert (record.status, record.error_code) == (status, code)
    assert (record.endpoint, record.request_id) == ("/v1/probe", "mine")
    assert record.key_id == (await keys.list_keys(db))[0].id
