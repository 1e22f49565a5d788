"""Conversations and presets: whose they are, what is kept, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from llb.api.middleware.route_policy import route_policy_table
from llb.api.playground import conversation_service
from llb.store.database import Reader
from llb.store.tables.playground import conversations, messages
from llb.wire import Scope
from tests.api.http_server import PASSWORD
from tests.api.playground.conftest import Playground
from tests.harness import wait_until

SETTINGS = {"system": "Be brief.", "parameters": {"temperature": 0.5}, "stop": "END"}


def message(name: str, parent: str | None = None, text: str = "", **fields: Any) -> dict[str, Any]:
    return {"id": name, "parent_id": parent, "role": "user", "text": text or name, **fields}


async def put(playground: Playground, conversation: str, *messages: dict[str, Any]) -> None:
    for each in messages:
        path = f"/api/conversations/{conversation}/messages/{each['id']}"
        answer = await playground.call("PUT", path, each)
        assert answer.status == 204, answer.body


async def create(playground: Playground, name: str, **fields: Any) -> None:
    answer = await playground.call("PATCH", f"/api/conversations/{name}", fields)
    assert answer.status == 204, answer.body


async def listed(playground: Playground, query: str = "") -> list[dict[str, Any]]:
    return list((await playground.call("GET", f"/api/conversations{query}")).json["conversations"])


async def test_a_conversation_is_kept_as_it_was_written(playground: Playground) -> None:
    await create(playground, "c1", title="Cats", settings=SETTINGS)
    answer = {
        **message("a", "q", "Purr", role="assistant", model="chat", ended="stop", reasoning="Hm"),
        "stats": {"completion_tokens": 3, "tokens_per_second": 12.5},
    }
    question = message("q", text="Tell me", images=["data:image/png;base64,AAAA"], files=[])
    await put(playground, "c1", question, answer)
    await create(playground, "c1", pinned=True, leaf_id="a")
    found = await playground.get("c1")
    assert (found["title"], found["pinned"], found["leaf_id"]) == ("Cats", True, "a")
    assert found["settings"] == SETTINGS
    assert [each["id"] for each in found["messages"]] == ["q", "a"]
    assert found["messages"][0]["images"] == ["data:image/png;base64,AAAA"]
    assert found["messages"][1]["stats"]["tokens_per_second"] == 12.5
    assert found["messages"][1]["created_at"].endswith("Z")


async def test_the_list_has_previews_and_pinned_ones_first(playground: Playground) -> None:
    for name in ("c1", "c2"):
        await create(playground, name)
        await put(playground, name, message("q", text=f"About {name}"))
    await create(playground, "c1", pinned=True)
    first, second = await listed(playground)
    assert (first["id"], first["preview"], first["message_count"]) == ("c1", "About c1", 1)
    assert (second["id"], second["pinned"], second["running"]) == ("c2", False, False)


async def test_search_finds_titles_and_messages(playground: Playground) -> None:
    for name, text in (("c1", "The 100% answer_is here"), ("c2", "日本語の質問"), ("c3", "Nothing")):
        await create(playground, name, title="Holiday" if name == "c3" else "")
        await put(playground, name, message("q", text=text))
    for query, expected in {
        "ANSWER": ["c1"],
        "%25": ["c1"],
        "r_i": ["c1"],
        "_": ["c1"],
        "holi": ["c3"],
        "%E8%B3%AA%E5%95%8F": ["c2"],
        "absent": [],
    }.items():
        found = await listed(playground, f"?q={query}")
        assert [each["id"] for each in found] == expected, query
    [found_one] = await listed(playground, "?q=100")
    assert "100%" in found_one["excerpt"]
    assert (await playground.call("GET", f"/api/conversations?q={'x' * 201}")).code == "invalid_request"


async def test_a_deleted_message_leaves_its_replies(playground: Playground) -> None:
    await create(playground, "c1")
    await put(playground, "c1", message("a"), message("b", "a"), message("c", "b"), message("d", "b"))
    await create(playground, "c1", leaf_id="b")
    assert (await playground.call("DELETE", "/api/conversations/c1/messages/b")).status == 204
    found = await playground.get("c1")
    assert {each["id"]: each["parent_id"] for each in found["messages"]} == {"a": None, "c": "a", "d": "a"}
    assert found["leaf_id"] == "a"
    assert (await playground.call("DELETE", "/api/conversations/c1/messages/b")).status == 404


async def test_nobody_else_sees_or_changes_them(playground: Playground) -> None:
    await create(playground, "c1", title="Mine")
    await put(playground, "c1", message("q"))
    await playground.server.add_user("guest")
    guest = await playground.server.log_in("guest", PASSWORD)
    assert (await playground.call("GET", "/api/conversations", as_user=guest)).json["conversations"] == []
    for method, path, body in (
        ("GET", "/api/conversations/c1", None),
        ("DELETE", "/api/conversations/c1", None),
        ("DELETE", "/api/conversations/c1/messages/q", None),
        ("PUT", "/api/conversations/c1/messages/q", message("q")),
        ("GET", "/api/conversations/c1/answers/q", None),
    ):
        answer = await playground.call(method, path, body, as_user=guest)
        assert (answer.status, answer.code) == (404, "not_found"), path
    # An id is a name within one user's conversations.
    assert (await playground.call("PATCH", "/api/conversations/c1", {}, as_user=guest)).status == 204
    assert (await playground.get("c1"))["title"] == "Mine"

    key = await playground.server.create_key(Scope.ADMIN)
    for path in ("/api/conversations", "/api/conversations/c1", "/api/presets"):
        answer = await playground.call("GET", path, as_user=key)
        assert (answer.status, answer.code) == (403, "insufficient_permissions"), path
    body = playground.answer_request()
    assert (await playground.call("POST", "/api/conversations/c1/answers", body, as_user=key)).status == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "not an id"},
        {"role": "system"},
        {"images": ["https://elsewhere.invalid/a.png"]},
        {"images": ["data:image/svg+xml;base64,AAAA"]},
        {"text": 7},
    ],
)
async def test_what_is_no_message_is_refused(playground: Playground, wrong: dict[str, Any]) -> None:
    await create(playground, "c1")
    answer = await playground.call("PUT", "/api/conversations/c1/messages/q", {**message("q"), **wrong})
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_ids_of_path_and_body_agree(playground: Playground) -> None:
    await create(playground, "c1")
    answer = await playground.call("PUT", "/api/conversations/c1/messages/q", message("other"))
    assert (answer.status, answer.json["error"]["param"]) == (400, "id")
    assert (await playground.call("PATCH", "/api/conversations/a.b", {})).code == "invalid_request"


async def test_the_limits_of_a_user(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_service, "MAX_CONVERSATIONS", 2)
    monkeypatch.setattr(conversation_service, "MAX_MESSAGES", 2)
    monkeypatch.setattr(conversation_service, "MAX_TOTAL_BYTES", 2000)
    monkeypatch.setattr(conversation_service, "MAX_PRESETS", 1)
    await create(playground, "c1")
    await create(playground, "c2")
    await put(playground, "c1", message("a"), message("b"))
    refused = [
        await playground.call("PATCH", "/api/conversations/c3", {}),
        await playground.call("PUT", "/api/conversations/c1/messages/c", message("c")),
        await playground.call("PUT", "/api/conversations/c1/messages/b", message("b", text="x" * 3000)),
    ]
    assert [(each.status, each.code) for each in refused] == [(409, "conversation_limit_reached")] * 3
    # What exists can still be changed, and nothing of what was refused is left.
    await put(playground, "c1", message("b", text="new"))
    assert [each["id"] for each in await listed(playground)] == ["c1", "c2"]
    assert [each["text"] for each in (await playground.get("c1"))["messages"]] == ["a", "new"]
    # Settings count, too; a change that needs no more space is made.
    long = {"system": "x" * 3000}
    settings = await playground.call("PATCH", "/api/conversations/c1", {"settings": long})
    assert (settings.status, settings.code) == (409, "conversation_limit_reached")
    body = playground.answer_request(settings=long)
    assert (await playground.call("POST", "/api/conversations/c2/answers", body)).status == 409
    await create(playground, "c1", title="New", settings=SETTINGS)
    monkeypatch.setattr(conversation_service, "MAX_CONVERSATION_BYTES", 500)
    answer = await playground.call("PUT", "/api/conversations/c2/messages/q", message("q", text="x" * 500))
    assert (answer.status, answer.code) == (409, "conversation_limit_reached")
    preset = {"id": "p1", "name": "Brief"}
    monkeypatch.setattr(conversation_service, "MAX_PRESET_BYTES", 500)
    large = await playground.call("PUT", "/api/presets/p1", {**preset, "settings": {"system": "x" * 500}})
    assert (large.status, large.code) == (409, "conversation_limit_reached")
    assert (await playground.call("PUT", "/api/presets/p1", preset)).status == 204
    assert (await playground.call("PUT", "/api/presets/p2", {**preset, "id": "p2"})).status == 409


async def test_an_import_adds_what_is_missing(playground: Playground) -> None:
    await create(playground, "c1", title="Mine")
    await put(playground, "c1", message("q", text="as it is"))
    when = "2026-01-02T03:04:05.000Z"
    body = {
        "conversations": [
            {"id": "c1", "title": "Theirs", "messages": [message("q", text="older"), message("r", "q")]},
            {
                "id": "c2",
                "title": "New",
                "updated_at": when,
                "settings": SETTINGS,
                "messages": [message("q")],
            },
        ]
    }
    imported = (await playground.call("POST", "/api/conversations/import", body)).json
    assert imported == {"conversations": 1, "messages": 2}
    mine, new = await playground.get("c1"), await playground.get("c2")
    assert mine["title"] == "Mine"
    assert [each["text"] for each in mine["messages"]] == ["as it is", "r"]
    assert (new["updated_at"], new["settings"]) == (when, SETTINGS)
    again = (await playground.call("POST", "/api/conversations/import", body)).json
    assert again == {"conversations": 0, "messages": 0}


@pytest.mark.parametrize(
    "content",
    ['{"id":"q","role":"user","ended":"' + "x" * 99 + '","model":7,"reasoning":"Hm"}', "[]", "{"],
)
async def test_a_field_that_cannot_be_read_is_left_out(playground: Playground, content: str) -> None:
    await create(playground, "c1")
    await put(playground, "c1", message("q", text="Tell me"))
    async with playground.server.db.write() as tx:
        await tx.execute("UPDATE conversation_messages SET content = ?", (content,))
    [found] = (await playground.get("c1"))["messages"]
    assert (found["id"], found["role"], found["text"]) == ("q", "user", "Tell me")
    assert (found["ended"], found["model"]) == (None, None)
    assert found["reasoning"] == ("Hm" if "Hm" in content else "")


async def test_an_import_is_bounded(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_service, "MAX_IMPORTED_MESSAGES", 3)

    def import_of(*sizes: int) -> dict[str, Any]:
        return {
            "conversations": [
                {"id": f"i{at}", "messages": [message(f"m{number}") for number in range(size)]}
                for at, size in enumerate(sizes)
            ]
        }

    async def refuse(_self: object) -> None:
        raise AssertionError("it is refused before the write lock is taken")

    with monkeypatch.context() as patched:
        patched.setattr(conversation_service.ConversationService, "import_all", refuse)
        answer = await playground.call("POST", "/api/conversations/import", import_of(2, 2))
    assert (answer.status, answer.json["error"]["param"]) == (400, "conversations")
    assert (await playground.call("POST", "/api/conversations/import", import_of(1, 2))).status == 200
    # Its quota is that of any other change.
    for limit in ("MAX_MESSAGES", "MAX_CONVERSATION_BYTES", "MAX_TOTAL_BYTES", "MAX_CONVERSATIONS"):
        with monkeypatch.context() as patched:
            patched.setattr(conversation_service, limit, 1)
            refused = await playground.call("POST", "/api/conversations/import", import_of(0, 3))
        assert (refused.status, refused.code) == (409, "conversation_limit_reached"), limit
    assert [each["message_count"] for each in await listed(playground)] == [2, 1]


async def test_the_body_of_an_import_is_bounded(playground: Playground) -> None:
    await playground.begin()
    [request] = playground.inference.requests
    limits = {path: policy.max_body_bytes for _, path, policy in route_policy_table(request.app)}
    assert limits["/api/conversations/import"] == 16 * 1024 * 1024


@pytest.mark.parametrize("time", ["yesterday", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:00"])
async def test_an_import_is_all_or_nothing(playground: Playground, time: str) -> None:
    wrong = message("r", created_at=time)
    body = {"conversations": [{"id": "c1"}, {"id": "c2", "messages": [message("q"), wrong]}]}
    answer = await playground.call("POST", "/api/conversations/import", body)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert await listed(playground) == []


async def test_a_model_is_the_default_of_one_preset(playground: Playground) -> None:
    for name, models in (("p1", ["chat", "seer"]), ("p2", ["chat"])):
        preset = {"id": name, "name": f"Preset {name}", "settings": SETTINGS, "models": models}
        assert (await playground.call("PUT", f"/api/presets/{name}", preset)).status == 204
    presets = (await playground.call("GET", "/api/presets")).json["presets"]
    assert {each["id"]: each["models"] for each in presets} == {"p1": ["seer"], "p2": ["chat"]}
    assert presets[0]["settings"] == SETTINGS
    assert (await playground.call("DELETE", "/api/presets/p1")).status == 204
    assert (await playground.call("DELETE", "/api/presets/p1")).status == 404


async def test_they_end_with_their_user(playground: Playground) -> None:
    await playground.server.add_user("guest")
    guest = await playground.server.log_in("guest", PASSWORD)
    await playground.call("PATCH", "/api/conversations/c1", {}, as_user=guest)
    await playground.call("PUT", "/api/conversations/c1/messages/q", message("q"), as_user=guest)
    users = (await playground.call("GET", "/api/users")).json["users"]
    [user_id] = [each["id"] for each in users if each["username"] == "guest"]
    assert (await playground.call("DELETE", f"/api/users/{user_id}")).status == 204
    left = await playground.server.db.fetch_one("SELECT count(*) AS n FROM conversation_messages")
    assert left is not None
    assert left["n"] == 0


async def test_a_large_conversation_counts_until_it_is_sent(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(playground, "c1")
    await put(playground, "c1", message("q", text="x" * 200_000))
    budget = playground.budget.body_budget
    taken: list[int] = []
    take = budget.take

    def record(owner: str, size_bytes: int) -> None:
        taken.append(size_bytes)
        take(owner, size_bytes)

    monkeypatch.setattr(budget, "take", record)
    assert len((await playground.get("c1"))["messages"][0]["text"]) == 200_000
    assert sum(taken) > 200_000
    await wait_until(lambda: budget.used_bytes == 0)
    monkeypatch.setattr(budget, "owner_bytes", 100_000)
    refused = await playground.call("GET", "/api/conversations/c1")
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert budget.used_bytes == 0


async def test_a_search_reads_every_batch(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_service, "SEARCH_BATCH_BYTES", 300)
    for number in range(4):
        await create(playground, f"c{number}")
        await put(playground, f"c{number}", message("q", text=f"{'x' * 200} answer {number}"))
    assert [each["id"] for each in await listed(playground, "?q=answer")] == ["c3", "c2", "c1", "c0"]
    assert [each["id"] for each in await listed(playground, "?q=ANSWER%202")] == ["c2"]


async def test_sizes_and_the_list_are_read_without_texts(playground: Playground) -> None:
    db = playground.server.db
    read: list[str] = []

    class Recorder(Reader):
        _connection = db._connection

        async def fetch_all(self, sql: str, parameters: Any = ()) -> list[Any]:
            plan = await super().fetch_all(f"EXPLAIN QUERY PLAN {sql}", parameters)
            read.extend(row["detail"] for row in plan if "preview" not in sql or " c " in row["detail"])
            return await super().fetch_all(sql, parameters)

    recorder = Recorder()
    await conversations.used_bytes(recorder, "u")
    await conversations.list_summaries(recorder, "u")
    await messages.measure(recorder, "u", "c")
    await messages.measure_all(recorder, "u")
    used = [detail for detail in read if "SEARCH" in detail or "SCAN conv" in detail]
    assert len(used) >= 5
    assert all("COVERING INDEX" in detail for detail in used), used
