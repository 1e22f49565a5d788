"""Conversation service: limits of users, imports, presets, searches."""

from __future__ import annotations

from typing import Any

import pytest

from llb.api.playground import conversation_service
from llb.store.database import Reader
from llb.store.tables.playground import conversations, messages
from tests.api.playground.conftest import Playground
from tests.api.playground.conversation_fixture import SETTINGS, create, listed, message, put


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
