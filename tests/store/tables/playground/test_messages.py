"""Messages of conversations: the tree that they are, what is searched, what can no longer be read."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec import structs

from llb.store.database import Database
from llb.store.tables.playground import conversations, messages
from llb.wire import AnswerError, AttachedFile, ConversationMessage, ConversationPatch

ANN = "id-ann"


def message(name: str, text: str = "", **more: Any) -> ConversationMessage:
    return ConversationMessage(**{"id": name, "role": "user", "text": text, **more})


@pytest.fixture
async def talk(users_db: Database) -> Database:
    """Database with the empty conversation `c` of `id-ann`."""
    async with users_db.write() as tx:
        await conversations.add(tx, ANN, "c", created_at=1.0, updated_at=1.0)
    return users_db


async def put(db: Database, *made: ConversationMessage) -> None:
    async with db.write() as tx:
        for number, each in enumerate(made):
            await messages.put(tx, ANN, "c", each, 10.0 + number)


async def listed(db: Database) -> list[ConversationMessage]:
    return [messages.message_from_row(row) for row in await messages.list_rows(db, ANN, "c")]


async def test_a_message_is_read_back_with_its_time(talk: Database) -> None:
    full = message(
        "m",
        "Grüße\n日本語",
        parent_id="p",
        role="assistant",
        reasoning="because",
        files=(AttachedFile("a.txt", "x" * 50),),
        model="tiny",
        ended="stopped",
        error=AnswerError(code="queue_full", message="busy"),
    )
    await put(talk, full)
    stored = structs.replace(full, created_at="1970-01-01T00:00:10.000Z")
    assert await listed(talk) == [stored]
    assert await messages.get(talk, ANN, "c", "m") == stored
    assert await messages.get(talk, ANN, "c", "n") is None


async def test_a_message_that_is_put_again_keeps_its_place(talk: Database) -> None:
    await put(talk, message("a", "1"), message("b", "2"))
    async with talk.write() as tx:
        await messages.put(tx, ANN, "c", message("a", "3"), 99.0)
        # An import adds what is missing alone.
        rows = [messages.columns_of(message(name, "4"), 5.0) for name in ("a", "d")]
        assert await messages.add_missing(tx, ANN, "c", rows) == 1
    assert [(each.id, each.text) for each in await listed(talk)] == [("d", "4"), ("a", "3"), ("b", "2")]


async def test_replies_of_a_deleted_message_follow_its_parent(talk: Database) -> None:
    tree = (("a", None), ("b", "a"), ("c1", "b"), ("c2", "b"))
    await put(talk, *(message(name, parent_id=parent) for name, parent in tree))
    async with talk.write() as tx:
        await conversations.change(tx, ANN, "c", ConversationPatch(leaf_id="b"))
        assert await messages.remove(tx, ANN, "c", "b")
        assert not await messages.remove(tx, ANN, "c", "b")
    parents = {each.id: each.parent_id for each in await listed(talk)}
    assert parents == {"a": None, "c1": "a", "c2": "a"}
    conversation = await conversations.get(talk, ANN, "c")
    assert conversation is not None
    assert conversation.leaf_id == "a"


async def test_an_answer_goes_where_its_message_is_now(talk: Database) -> None:
    """Its question, or the whole conversation, may have been deleted while it was written."""
    await put(talk, message("q"), message("a", parent_id="q", role="assistant"))
    async with talk.write() as tx:
        await messages.remove(tx, ANN, "c", "q")
        answer = message("a", "done", parent_id="q", role="assistant")
        assert await messages.update_answer(tx, ANN, "c", answer)
        assert not await messages.update_answer(tx, ANN, "c", message("z", "done"))
    [stored] = await listed(talk)
    assert (stored.text, stored.parent_id, stored.created_at) == ("done", None, "1970-01-01T00:00:11.000Z")


async def test_sizes_are_bytes_not_characters(talk: Database) -> None:
    assert await messages.measure(talk, ANN, "c") == (0, 0)
    assert await messages.measure_all(talk, ANN) == {}
    await put(talk, message("a"))
    _, empty_bytes = await messages.measure(talk, ANN, "c")
    await put(talk, message("a", "é" * 100))
    assert await messages.measure(talk, ANN, "c") == (1, empty_bytes + 200)
    assert await messages.measure_all(talk, ANN) == {"c": empty_bytes + 200}


async def test_a_search_shows_the_text_around_the_first_match(talk: Database) -> None:
    async with talk.write() as tx:
        await conversations.add(tx, ANN, "d", created_at=1.0, updated_at=1.0)
    await put(talk, message("a", "nothing here"), message("b", "x" * 100 + " The Dragon " + "y" * 200))
    found = await messages.search(talk, ANN, ["c", "d", "unknown"], "dragon")
    assert list(found) == ["c"]
    assert len(found["c"]) == messages.EXCERPT_CHARS
    assert found["c"].index("Dragon") == messages.EXCERPT_BEFORE_CHARS
    assert (await messages.search(talk, ANN, ["c"], "NOTHING"))["c"] == "nothing here"
    # No pattern, and nobody else's.
    assert await messages.search(talk, ANN, ["c"], "%") == {}
    assert await messages.search(talk, "id-bob", ["c"], "dragon") == {}


@pytest.mark.parametrize(
    ("content", "ended"),
    [
        ('{"id": "m", "role": "user", "ended": "stop", "model": 5}', "stop"),
        ('{"id": "m", "role": "user", "ended": "stop", "images": ["javascript:1"], "more": 1}', "stop"),
        ('{"id": "m", "role": "nobody", "ended": "stop"}', "stop"),
        ("{", None),
        ("[]", None),
    ],
)
async def test_a_field_that_cannot_be_read_does_not_hide_its_conversation(
    talk: Database, caplog: pytest.LogCaptureFixture, content: str, ended: str | None
) -> None:
    await put(talk, message("m", "hello", ended="length"))
    async with talk.write() as tx:
        await tx.execute("UPDATE conversation_messages SET content = ?", (content,))
    with caplog.at_level(logging.WARNING):
        [read] = await listed(talk)
    assert (read.id, read.role, read.text, read.ended, read.model) == ("m", "user", "hello", ended, None)
    assert "fields of the message m cannot be read" in caplog.text
