"""Request log routes: history, usage totals, and who may see them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sanic import Sanic

from llb.api.middleware.route_policy import route_policy_table
from llb.api.routes.requests import MAX_USAGE_ROWS, requests_blueprint
from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.view import ClusterView
from llb.gateway.observability.chart_history import ChartHistory
from llb.gateway.observability.request_log import RequestLog
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import keys, request_history, usage, users
from llb.store.tables.request_history import MICROSECONDS_PER_S, RequestRow
from llb.wire import RequestText, Role, Scope
from tests.api.http_server import PASSWORD, ApiServer, run_api_server

[NAME] = {model.name for model in load_catalog(None).models if model.id == "llama-3.2-1b"}
# 2027-01-15T12:00:00Z
NOON = 1_800_014_400
HOUR_S, DAY_S = 3600, 86_400
Credential = tuple[str, str]


@pytest.fixture
async def server(tmp_path: Path, db: Database, request_log: RequestLog) -> AsyncIterator[ApiServer]:
    view = ClusterView(load_catalog(None), EventBus(), lambda _: None)
    chart_history = ChartHistory(db, view, view.traffic, dict)
    blueprint = requests_blueprint(db, request_log, view, chart_history)
    async with run_api_server(tmp_path, blueprint, admin_password=PASSWORD) as running:
        yield running


async def add_records(db: Database, *records: RequestRow) -> None:
    async with db.write() as tx:
        await request_history.add(tx, records)
        await usage.add(tx, records)


def at(seconds: float, **changes: Any) -> RequestRow:
    plain: dict[str, Any] = {
        "id": int(seconds * MICROSECONDS_PER_S), "request_id": "r", "key_id": None, "user_id": None,
        "model": "llama-3.2-1b", "node_id": "n",
        "endpoint": "/v1/chat/completions", "stream": True, "status": 200, "error_code": None,
        "prompt_tokens": 31, "cached_tokens": 30, "completion_tokens": 3, "queue_ms": 0, "ttft_ms": 20,
        "duration_ms": 100,
    }  # fmt: skip
    return RequestRow(**{**plain, **changes})


async def listed(server: ApiServer, credential: Credential, **query: Any) -> list[int]:
    response = await server.call("GET", f"/api/requests?{urlencode(query)}", credential)
    assert response.status == 200, response.body
    return [request["id"] // MICROSECONDS_PER_S - NOON for request in response.json["requests"]]


async def used(server: ApiServer, credential: Credential, **query: Any) -> list[dict[str, Any]]:
    span = {"from": "2027-01-01", "to": "2027-02-01"}
    response = await server.call("GET", f"/api/usage?{urlencode({**span, **query})}", credential)
    assert response.status == 200, response.body
    return list(response.json["usage"])


# --- requests ----------------------------------------------------------------------------------------


async def test_a_request_as_it_is_told(server: ApiServer, db: Database) -> None:
    admin = await users.get_by_name(db, "admin")
    assert admin is not None
    await server.create_key(Scope.INFERENCE, owner_id=admin.id)
    [key] = await keys.list_keys(db)
    await add_records(db, at(NOON, key_id=key.id, user_id=admin.id))
    response = await server.call("GET", "/api/requests", await server.log_in())
    assert response.json == {
        "requests": [
            {
                "id": NOON * MICROSECONDS_PER_S,
                "time": "2027-01-15T12:00:00.000Z",
                "request_id": "r",
                "key_id": key.id,
                "key_name": "test",
                "user_id": admin.id,
                "user": "admin",
                "model": "llama-3.2-1b",
                "node_id": "n",
                "node_name": "attic",
                "endpoint": "/v1/chat/completions",
                "stream": True,
                "status": 200,
                "error_code": None,
                "prompt_tokens": 31,
                "cached_tokens": 30,
                "completion_tokens": 3,
                "cost_usd": None,
                "queue_ms": 0,
                "ttft_ms": 20,
                "duration_ms": 100,
                "has_text": False,
                "endpoint_id": None,
            }
        ],
        "next_cursor": None,
        "history_days": 7,
        "history_text": True,
    }


async def test_pages(server: ApiServer, db: Database) -> None:
    await add_records(db, *(at(NOON + number) for number in range(5)))
    admin = await server.log_in()
    found: list[int] = []
    cursor: int | None = None
    for _ in range(3):
        before = "" if cursor is None else f"&before={cursor}"
        page = (await server.call("GET", f"/api/requests?limit=2{before}", admin)).json
        found += [request["id"] // MICROSECONDS_PER_S - NOON for request in page["requests"]]
        cursor = page["next_cursor"]
    assert found == [4, 3, 2, 1, 0]
    assert cursor is None


async def test_filters(server: ApiServer, db: Database) -> None:
    await add_records(
        db,
        at(NOON, key_id="k"),
        at(NOON + 1, model="other"),
        at(NOON + 2, node_id=None, status=503, error_code="queue_full"),
    )
    admin = await server.log_in()
    assert await listed(server, admin, key="k") == [0]
    assert await listed(server, admin, model="other") == [1]
    assert await listed(server, admin, node="n") == [1, 0]
    assert await listed(server, admin, status="error") == [2]
    assert await listed(server, admin, status="ok", model="llama-3.2-1b") == [0]
    assert await listed(server, admin, **{"from": "2027-01-15T12:00:01Z", "to": "2027-01-15T12:00:02Z"}) == [
        1
    ]
    assert await listed(server, admin, **{"from": "0001-01-01", "to": "9999-12-31"}) == [2, 1, 0]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/api/requests?limit=0", "limit"),
        ("/api/requests?limit=1001", "limit"),
        ("/api/requests?before=x", "before"),
        ("/api/requests?status=maybe", "status"),
        ("/api/requests?from=yesterday", "from"),
        ("/api/requests?to=12:00", "to"),
        ("/api/usage?by=colour", "by"),
        ("/api/usage?bucket=week", "bucket"),
        ("/api/usage?from=x", "from"),
    ],
)
async def test_what_cannot_be_asked(server: ApiServer, path: str, param: str) -> None:
    response = await server.call("GET", path, await server.log_in())
    assert (response.status, response.json["error"]["param"]) == (400, param)


async def test_one_request_with_its_text(server: ApiServer, db: Database) -> None:
    text = RequestText(prompt="user: hi", answer="Hello", answer_truncated=True)
    await add_records(db, at(NOON, has_text=True), at(NOON + 1))
    async with db.write() as tx:
        await request_history.add_texts(tx, [(NOON * MICROSECONDS_PER_S, text)])
    admin = await server.log_in()
    shown = (await server.call("GET", f"/api/requests/{NOON * MICROSECONDS_PER_S}", admin)).json
    assert shown["text"] == {
        "prompt": "user: hi",
        "prompt_truncated": False,
        "answer": "Hello",
        "answer_truncated": True,
    }
    assert shown["status"] == 200
    listed = (await server.call("GET", "/api/requests", admin)).json["requests"]
    assert [request["has_text"] for request in listed] == [False, True]
    assert "text" not in listed[1]
    assert (await server.call("GET", f"/api/requests/{(NOON + 1) * MICROSECONDS_PER_S}", admin)).json[
        "text"
    ] is None


@pytest.mark.parametrize("record_id", ["1", "-1", "x", str(2**63 - 1), str(2**70)])
async def test_a_request_that_is_not_there(server: ApiServer, record_id: str) -> None:
    response = await server.call("GET", f"/api/requests/{record_id}", await server.log_in())
    assert (response.status, response.code) == (404, "not_found")


async def test_an_admin_may_clear_the_history(
    server: ApiServer, db: Database, request_log: RequestLog
) -> None:
    await server.add_user("bob")
    await add_records(db, at(NOON))
    refused = await server.call("DELETE", "/api/requests", await server.log_in("bob"))
    assert (refused.status, refused.code) == (403, "insufficient_permissions")
    admin = await server.log_in()
    # A record that the log has not written yet.
    record = request_log.open_record(
        Principal(kind=PrincipalKind.KEY, id="k", role=Role.USER), "/v1/probe", "r"
    )
    record.status = 503
    request_log.close_record(record)
    assert (await server.call("DELETE", "/api/requests", admin)).status == 204
    await request_log.flush()
    assert await listed(server, admin) == []
    assert len(await used(server, admin)) == 1
    assert ("admin", "requests.clear", None, "ok") in await server.audit_records()


# --- whose -------------------------------------------------------------------------------------------


async def test_everybody_sees_their_own(server: ApiServer, db: Database) -> None:
    await server.add_user("bob")
    bob = await users.get_by_name(db, "bob")
    assert bob is not None
    whole = await server.create_key(Scope.INFERENCE, Scope.MODELS_READ, owner_id=bob.id)
    lesser = await server.create_key(Scope.INFERENCE, owner_id=bob.id)
    of_host = await server.create_key(Scope.INFERENCE, Scope.MODELS_READ)
    admins = await server.create_key(Scope.ADMIN)
    ids = {key.prefix: key.id for key in await keys.list_keys(db)}

    def id_of(credential: Credential) -> str:
        return next(ids[prefix] for prefix in ids if credential[1].startswith(f"Bearer {prefix}"))

    await add_records(
        db,
        # A command on the host.
        at(NOON),
        # Bob's session.
        at(NOON + 1, user_id=bob.id),
        at(NOON + 2, user_id=bob.id, key_id=id_of(whole)),
        at(NOON + 3, user_id=bob.id, key_id=id_of(lesser)),
        at(NOON + 4, key_id=id_of(of_host)),
        at(NOON + 5, user_id="ann", key_id="anns"),
    )
    everything, bobs = [5, 4, 3, 2, 1, 0], [3, 2, 1]
    for credential, seen in (
        (await server.log_in(), everything),
        (admins, everything),
        (("Authorization", f"Bearer {server.local_token}"), everything),
        (await server.log_in("bob"), bobs),
        (whole, bobs),
        (lesser, [3]),
        (of_host, [4]),
    ):
        assert await listed(server, credential) == seen
        for by in ("model", "key", "node"):
            assert sum(total["requests"] for total in await used(server, credential, by=by)) == len(seen)
        for number in everything:
            response = await server.call(
                "GET", f"/api/requests/{(NOON + number) * MICROSECONDS_PER_S}", credential
            )
            assert response.status == (200 if number in seen else 404)
    assert await listed(server, lesser, key=id_of(whole)) == []


async def test_the_rules_stand_at_the_routes(server: ApiServer) -> None:
    app = next(iter(Sanic._app_registry.values()))
    table = {(method, path): policy for method, path, policy in route_policy_table(app)}
    assert table["DELETE", "/api/requests"].scope is Scope.ADMIN
    for method, path in (
        ("GET", "/api/requests"),
        ("GET", "/api/requests/1"),
        ("GET", "/api/usage"),
        ("DELETE", "/api/requests"),
    ):
        assert (await server.call(method, path)).status == 401


# --- usage -------------------------------------------------------------------------------------------


async def test_totals_as_they_are_told(server: ApiServer, db: Database) -> None:
    await add_records(
        db,
        at(NOON),
        at(NOON + HOUR_S),
        at(NOON + HOUR_S, id=(NOON + HOUR_S) * MICROSECONDS_PER_S + 1, error_code="x"),
    )
    span = "from=2027-01-15T12:30:00Z&to=2027-01-15T13:00:01Z"
    response = await server.call("GET", f"/api/usage?by=model&bucket=hour&{span}", await server.log_in())
    total = {
        "bucket": "2027-01-15T12:00:00.000Z",
        "key": "llama-3.2-1b",
        "name": NAME,
        "user_id": None,
        "user": None,
        "requests": 1,
        "errors": 0,
        "prompt_tokens": 31,
        "cached_tokens": 30,
        "completion_tokens": 3,
        "cost_usd": None,
        "duration_ms": 100,
        "endpoint_id": None,
    }
    assert response.json == {
        "by": "model",
        "bucket": "hour",
        "from": "2027-01-15T12:00:00.000Z",
        "to": "2027-01-15T13:00:01.000Z",
        "usage": [
            total,
            {
                **total,
                "bucket": "2027-01-15T13:00:00.000Z",
                "requests": 2,
                "errors": 1,
                "prompt_tokens": 62,
                "cached_tokens": 60,
                "completion_tokens": 6,
                "duration_ms": 200,
            },
        ],
        "truncated": False,
    }


async def test_totals_by_key_and_node_have_names(server: ApiServer, db: Database) -> None:
    admin = await users.get_by_name(db, "admin")
    assert admin is not None
    await server.create_key(Scope.INFERENCE)
    [key] = await keys.list_keys(db)
    await add_records(
        db,
        *(at(NOON + number, key_id=key.id) for number in range(3)),
        *(at(NOON + number, user_id=admin.id) for number in (3, 4)),
        at(NOON + 5, node_id=None),
    )
    session = await server.log_in()
    shown = [
        (total["bucket"], total["key"], total["name"], total["user"], total["requests"])
        for total in await used(server, session, by="key", bucket="day")
    ]
    day = "2027-01-15T00:00:00.000Z"
    assert shown == [
        (day, key.id, "test", None, 3),
        (day, None, None, "admin", 2),
        (day, None, None, None, 1),
    ]
    nodes = await used(server, session, by="node")
    assert [(total["key"], total["name"], total["requests"]) for total in nodes] == [
        ("n", "attic", 5),
        (None, None, 1),
    ]


@pytest.mark.parametrize(("bucket", "width_s", "buckets"), [("hour", HOUR_S, 24), ("day", DAY_S, 7)])
async def test_by_default_the_last_hours_or_days(
    server: ApiServer, db: Database, bucket: str, width_s: int, buckets: int
) -> None:
    this = time.time() // width_s * width_s
    await add_records(db, *(at(this - number * width_s) for number in range(buckets + 3)))
    response = await server.call("GET", f"/api/usage?bucket={bucket}", await server.log_in())
    # The next period may have begun meanwhile.
    assert len(response.json["usage"]) in (buckets, buckets - 1)
    assert response.json["by"] == "model"


async def test_of_too_many_totals_the_newest_are_told(server: ApiServer, db: Database) -> None:
    await add_records(
        db,
        *(
            at(NOON, id=NOON * MICROSECONDS_PER_S + number, model=f"m{number}")
            for number in range(MAX_USAGE_ROWS)
        ),
    )
    await add_records(db, at(NOON + HOUR_S))
    span = "from=2027-01-15T12:00:00Z&to=2027-01-16"
    response = await server.call("GET", f"/api/usage?{span}", await server.log_in())
    assert response.json["truncated"]
    assert len(response.json["usage"]) == MAX_USAGE_ROWS
    assert response.json["usage"][-1]["key"] == "llama-3.2-1b"


async def test_costs_that_are_known_are_summed(server: ApiServer, db: Database) -> None:
    admin = await server.log_in()
    await add_records(db, at(NOON), at(NOON + 1, cost_usd=0.25))
    await add_records(db, at(NOON + 2, cost_usd=None), at(NOON + 3, cost_usd=0.5), at(NOON + HOUR_S))
    assert [total["cost_usd"] for total in await used(server, admin)] == [0.75, None]
    assert [total["cost_usd"] for total in await used(server, admin, bucket="day")] == [0.75]
    page = (await server.call("GET", "/api/requests", admin)).json["requests"]
    assert [request["cost_usd"] for request in page] == [None, 0.5, None, 0.25, None]
