"""Conversations and presets: whose they are, what is kept, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from llb.api.playground import conversation_service
from llb.wire import Scope
from tests.api.http_server import PASSWORD
from tests.api.playground.conftest import Playground

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
    preset = {"id": "p1", "name": "Brief"}
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
