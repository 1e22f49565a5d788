"""Conversations and presets: their owners, contents and limits."""

from __future__ import annotations

from typing import Any

import pytest

from llb.api.middleware.route_policy import route_policy_table
from llb.wire import Scope
from tests.api.http_server import PASSWORD
from tests.api.playground.conftest import Playground
from tests.api.playground.conversation_fixture import SETTINGS, create, listed, message, put
from tests.harness import wait_until


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


async def test_the_body_of_an_import_is_bounded(playground: Playground) -> None:
    await playground.begin()
    [request] = playground.inference.requests
    limits = {path: policy.max_body_bytes for _, path, policy in route_policy_table(request.app)}
    assert limits["/api/conversations/import"] == 16 * 1024 * 1024


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
