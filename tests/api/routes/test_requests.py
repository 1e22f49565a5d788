"""/api/requests and /api/usage: what is told, and to whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from llb import errors
from llb.api.middleware.route_policy import requires_scope, route_policy_table
from llb.api.request_recorder import RequestRecorder
from llb.api.routes.requests import MAX_USAGE_ROWS, requests_blueprint
from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.view import ClusterView
from llb.gateway.observability.request_log import RequestLog
from llb.store.database import Database
from llb.store.tables import keys, nodes, request_history, usage, users
from llb.store.tables.request_history import US, RequestRow
from llb.wire import RequestText, Scope
from tests.api.http_server import PASSWORD, Door, DoorKeeper

[NAME] = {model.name for model in load_catalog(None).models if model.id == "llama-3.2-1b"}
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z
HOUR_S, DAY_S = 3600, 86_400
Credential = tuple[str, str]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """The blueprint's own connections, on the door's home."""
    database = await Database.open(tmp_path / "llb.db")
    async with database.write() as tx:
        await nodes.ensure_local(tx, "n", "attic")
    yield database
    await database.close()


@pytest.fixture
async def kept(db: Database) -> AsyncIterator[RequestLog]:
    started = RequestLog(db, retention_days=7, keeps_text=True)
    started.start()
    yield started
    await started.close()


@pytest.fixture
async def door(tmp_path: Path, db: Database, kept: RequestLog) -> AsyncIterator[Door]:
    view = ClusterView(load_catalog(None), EventBus(), lambda _: None)
    blueprint = requests_blueprint(db, kept, view)

    @blueprint.post("/v1/probe")
    @requires_scope(Scope.INFERENCE)
    async def probe(request: Request) -> HTTPResponse | None:
        with RequestRecorder(kept).record(request) as tally:
            raise _FAILURES[request.args["as"][0]](tally)

    async with DoorKeeper(tmp_path, blueprint, admin_password=PASSWORD) as opened:
        yield opened


def _begun(tally: Any) -> BaseException:
    tally.status = 200
    return asyncio.CancelledError()


_FAILURES: dict[str, Any] = {
    "refused": lambda _: errors.QueueFull("full"),
    "broken": lambda _: ZeroDivisionError(),
    "left": lambda _: asyncio.CancelledError(),
    "left in mid-stream": _begun,
}


async def keep(db: Database, *records: RequestRow) -> None:
    async with db.write() as tx:
        await request_history.add(tx, records)
        await usage.add(tx, records)


def at(seconds: float, **changes: Any) -> RequestRow:
    plain: dict[str, Any] = {
        "id": int(seconds * US), "request_id": "r", "key_id": None, "user_id": None, "model": "llama-3.2-1b", "node_id": "n",
        "endpoint": "/v1/chat/completions", "stream": True, "status": 200, "error_code": None,
        "prompt_tokens": 31, "cached_tokens": 30, "completion_tokens": 3, "queue_ms": 0, "ttft_ms": 20,
        "duration_ms": 100,
    }  # fmt: skip
    return RequestRow(**{**plain, **changes})


async def listed(door: Door, credential: Credential, **query: Any) -> list[int]:
    answer = await door.call("GET", f"/api/requests?{urlencode(query)}", credential)
    assert answer.status == 200, answer.body
    return [request["id"] // US - NOON for request in answer.json["requests"]]


async def used(door: Door, credential: Credential, **query: Any) -> list[dict[str, Any]]:
    span = {"from": "2027-01-01", "to": "2027-02-01"}
    answer = await door.call("GET", f"/api/usage?{urlencode({**span, **query})}", credential)
    assert answer.status == 200, answer.body
    return list(answer.json["usage"])


# --- requests ----------------------------------------------------------------------------------------


async def test_a_request_as_it_is_told(door: Door, db: Database) -> None:
    admin = await users.by_name(db, "admin")
    assert admin is not None
    await door.key(Scope.INFERENCE, owner_id=admin.id)
    [key] = await keys.all_keys(db)
    await keep(db, at(NOON, key_id=key.id, user_id=admin.id))
    answer = await door.call("GET", "/api/requests", await door.log_in())
    assert answer.json == {
        "requests": [
            {
                "id": NOON * US,
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
                "queue_ms": 0,
                "ttft_ms": 20,
                "duration_ms": 100,
                "has_text": False,
            }
        ],
        "next_cursor": None,
        "history_days": 7,
        "history_text": True,
    }


async def test_pages(door: Door, db: Database) -> None:
    await keep(db, *(at(NOON + number) for number in range(5)))
    admin = await door.log_in()
    found: list[int] = []
    cursor: int | None = None
    for _ in range(3):
        before = "" if cursor is None else f"&before={cursor}"
        page = (await door.call("GET", f"/api/requests?limit=2{before}", admin)).json
        found += [request["id"] // US - NOON for request in page["requests"]]
        cursor = page["next_cursor"]
    assert found == [4, 3, 2, 1, 0]
    assert cursor is None


async def test_filters(door: Door, db: Database) -> None:
    await keep(
        db,
        at(NOON, key_id="k"),
        at(NOON + 1, model="other"),
        at(NOON + 2, node_id=None, status=503, error_code="queue_full"),
    )
    admin = await door.log_in()
    assert await listed(door, admin, key="k") == [0]
    assert await listed(door, admin, model="other") == [1]
    assert await listed(door, admin, node="n") == [1, 0]
    assert await listed(door, admin, status="error") == [2]
    assert await listed(door, admin, status="ok", model="llama-3.2-1b") == [0]
    assert await listed(door, admin, **{"from": "2027-01-15T12:00:01Z", "to": "2027-01-15T12:00:02Z"}) == [1]
    assert await listed(door, admin, **{"from": "0001-01-01", "to": "9999-12-31"}) == [2, 1, 0]


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
async def test_what_cannot_be_asked(door: Door, path: str, param: str) -> None:
    answer = await door.call("GET", path, await door.log_in())
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_one_request_with_its_text(door: Door, db: Database) -> None:
    text = RequestText(prompt="user: hi", answer="Hello", answer_truncated=True)
    await keep(db, at(NOON, has_text=True), at(NOON + 1))
    async with db.write() as tx:
        await request_history.add_texts(tx, [(NOON * US, text)])
    admin = await door.log_in()
    told = (await door.call("GET", f"/api/requests/{NOON * US}", admin)).json
    assert told["text"] == {
        "prompt": "user: hi",
        "prompt_truncated": False,
        "answer": "Hello",
        "answer_truncated": True,
    }
    assert told["status"] == 200
    listed = (await door.call("GET", "/api/requests", admin)).json["requests"]
    assert [request["has_text"] for request in listed] == [False, True]
    assert "text" not in listed[1]
    assert (await door.call("GET", f"/api/requests/{(NOON + 1) * US}", admin)).json["text"] is None


@pytest.mark.parametrize("record_id", ["1", "-1", "x", str(2**63 - 1), str(2**70)])
async def test_a_request_that_is_not_there(door: Door, record_id: str) -> None:
    answer = await door.call("GET", f"/api/requests/{record_id}", await door.log_in())
    assert (answer.status, answer.code) == (404, "not_found")


async def test_an_admin_may_clear_the_history(door: Door, db: Database, kept: RequestLog) -> None:
    await door.add_user("bob")
    await keep(db, at(NOON))
    refused = await door.call("DELETE", "/api/requests", await door.log_in("bob"))
    assert (refused.status, refused.code) == (403, "insufficient_permissions")
    admin = await door.log_in()
    await door.call("POST", "/v1/probe?as=refused", admin)  # not written yet
    assert (await door.call("DELETE", "/api/requests", admin)).status == 204
    await kept.flush()
    assert await listed(door, admin) == []
    assert len(await used(door, admin)) == 1
    assert ("admin", "requests.clear", None, "ok") in await door.audited()


# --- whose -------------------------------------------------------------------------------------------


async def test_everybody_sees_their_own(door: Door, db: Database) -> None:
    await door.add_user("bob")
    bob = await users.by_name(db, "bob")
    assert bob is not None
    whole = await door.key(Scope.INFERENCE, Scope.MODELS_READ, owner_id=bob.id)
    lesser = await door.key(Scope.INFERENCE, owner_id=bob.id)
    of_host = await door.key(Scope.INFERENCE, Scope.MODELS_READ)
    admins = await door.key(Scope.ADMIN)
    ids = {key.prefix: key.id for key in await keys.all_keys(db)}

    def id_of(credential: Credential) -> str:
        return next(ids[prefix] for prefix in ids if credential[1].startswith(f"Bearer {prefix}"))

    await keep(
        db,
        at(NOON),  # a command on the host
        at(NOON + 1, user_id=bob.id),  # bob's session
        at(NOON + 2, user_id=bob.id, key_id=id_of(whole)),
        at(NOON + 3, user_id=bob.id, key_id=id_of(lesser)),
        at(NOON + 4, key_id=id_of(of_host)),
        at(NOON + 5, user_id="ann", key_id="anns"),
    )
    everything, bobs = [5, 4, 3, 2, 1, 0], [3, 2, 1]
    for credential, seen in (
        (await door.log_in(), everything),
        (admins, everything),
        (("Authorization", f"Bearer {door.local_token}"), everything),
        (await door.log_in("bob"), bobs),
        (whole, bobs),
        (lesser, [3]),
        (of_host, [4]),
    ):
        assert await listed(door, credential) == seen
        for by in ("model", "key", "node"):
            assert sum(total["requests"] for total in await used(door, credential, by=by)) == len(seen)
        for number in everything:
            answer = await door.call("GET", f"/api/requests/{(NOON + number) * US}", credential)
            assert answer.status == (200 if number in seen else 404)
    assert await listed(door, lesser, key=id_of(whole)) == []


async def test_the_rules_stand_at_the_routes(door: Door) -> None:
    app = next(iter(Sanic._app_registry.values()))
    table = {(method, path): access for method, path, access in route_policy_table(app)}
    assert table["DELETE", "/api/requests"].scope is Scope.ADMIN
    for method, path in (
        ("GET", "/api/requests"),
        ("GET", "/api/requests/1"),
        ("GET", "/api/usage"),
        ("DELETE", "/api/requests"),
    ):
        assert (await door.call(method, path)).status == 401


# --- usage -------------------------------------------------------------------------------------------


async def test_totals_as_they_are_told(door: Door, db: Database) -> None:
    await keep(
        db, at(NOON), at(NOON + HOUR_S), at(NOON + HOUR_S, id=(NOON + HOUR_S) * US + 1, error_code="x")
    )
    span = "from=2027-01-15T12:30:00Z&to=2027-01-15T13:00:01Z"
    answer = await door.call("GET", f"/api/usage?by=model&bucket=hour&{span}", await door.log_in())
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
        "duration_ms": 100,
    }
    assert answer.json == {
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


async def test_totals_by_key_and_node_have_names(door: Door, db: Database) -> None:
    admin = await users.by_name(db, "admin")
    assert admin is not None
    await door.key(Scope.INFERENCE)
    [key] = await keys.all_keys(db)
    await keep(
        db,
        *(at(NOON + number, key_id=key.id) for number in range(3)),
        *(at(NOON + number, user_id=admin.id) for number in (3, 4)),
        at(NOON + 5, node_id=None),
    )
    session = await door.log_in()
    told = [
        (total["bucket"], total["key"], total["name"], total["user"], total["requests"])
        for total in await used(door, session, by="key", bucket="day")
    ]
    day = "2027-01-15T00:00:00.000Z"
    assert told == [
        (day, key.id, "test", None, 3),
        (day, None, None, "admin", 2),
        (day, None, None, None, 1),
    ]
    nodes = await used(door, session, by="node")
    assert [(total["key"], total["name"], total["requests"]) for total in nodes] == [
        ("n", "attic", 5),
        (None, None, 1),
    ]


@pytest.mark.parametrize(("bucket", "width_s", "buckets"), [("hour", HOUR_S, 24), ("day", DAY_S, 7)])
async def test_by_default_the_last_hours_or_days(
    door: Door, db: Database, bucket: str, width_s: int, buckets: int
) -> None:
    this = time.time() // width_s * width_s
    await keep(db, *(at(this - number * width_s) for number in range(buckets + 3)))
    answer = await door.call("GET", f"/api/usage?bucket={bucket}", await door.log_in())
    # One more, should the next one have begun meanwhile.
    assert len(answer.json["usage"]) in (buckets, buckets - 1)
    assert answer.json["by"] == "model"


async def test_of_too_many_totals_the_newest_are_told(door: Door, db: Database) -> None:
    await keep(db, *(at(NOON, id=NOON * US + number, model=f"m{number}") for number in range(MAX_USAGE_ROWS)))
    await keep(db, at(NOON + HOUR_S))
    span = "from=2027-01-15T12:00:00Z&to=2027-01-16"
    answer = await door.call("GET", f"/api/usage?{span}", await door.log_in())
    assert answer.json["truncated"]
    assert len(answer.json["usage"]) == MAX_USAGE_ROWS
    assert answer.json["usage"][-1]["key"] == "llama-3.2-1b"


# --- noting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("refused", 503, "queue_full"),
        ("broken", 500, "internal_error"),
        ("left", 499, "client_closed"),
        ("left in mid-stream", 200, "client_closed"),
    ],
)
async def test_how_a_request_failed(
    door: Door, db: Database, kept: RequestLog, failure: str, status: int, code: str
) -> None:
    key = await door.key(Scope.INFERENCE)
    path = f"/v1/probe?{urlencode({'as': failure})}"
    try:
        await door.call("POST", path, key, ("X-Request-ID", "mine"))
    except asyncio.IncompleteReadError:
        assert code == "client_closed"
    await kept.flush()
    [record] = await request_history.page(db, request_history.Whose())
    assert (record.status, record.error_code) == (status, code)
    assert (record.endpoint, record.request_id) == ("/v1/probe", "mine")
    assert record.key_id == (await keys.all_keys(db))[0].id
