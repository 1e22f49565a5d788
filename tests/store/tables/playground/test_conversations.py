"""Conversations: their list, their sizes, and whose they are."""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from llb.store.database import Database, Transaction
from llb.store.tables import users
from llb.store.tables.playground import conversations, messages
from llb.wire import ChatSettings, ConversationMessage, ConversationPatch

ANN, BOB = "id-ann", "id-bob"


async def add(tx: Transaction, name: str, user_id: str = ANN, *, at: float = 1.0) -> None:
    assert await conversations.add(tx, user_id, name, created_at=at, updated_at=at)


async def say(
    tx: Transaction, name: str, text: str, *, at: float = 2.0, role: Literal["user", "assistant"] = "user"
) -> None:
    message = ConversationMessage(id=name, role=role, text=text)
    await messages.put(tx, ANN, "c", message, at)


async def test_the_list_has_pinned_ones_first_then_the_last_changed(users_db: Database) -> None:
    async with users_db.write() as tx:
        for name, at in (("old", 1.0), ("pinned", 0.5), ("new", 3.0), ("same", 3.0)):
            await add(tx, name, at=at)
        await add(tx, "other", BOB, at=9.0)
        await conversations.change(tx, ANN, "pinned", ConversationPatch(pinned=True))
        await conversations.touch(tx, ANN, "old", 2.0)
    listed = await conversations.list_summaries(users_db, ANN)
    # Of two that changed at the same time the one that was begun last.
    assert [each.id for each in listed] == ["pinned", "same", "new", "old"]
    assert [each.updated_at for each in listed] == [0.5, 3.0, 3.0, 2.0]
    assert await conversations.count(users_db, ANN) == 4


async def test_the_preview_is_the_first_question_with_a_text(users_db: Database) -> None:
    async with users_db.write() as tx:
        await add(tx, "c")
        await say(tx, "m1", "", at=2.0)
        await say(tx, "m2", "an answer", at=3.0, role="assistant")
        await say(tx, "m3", "x" * 300, at=5.0)
        await say(tx, "m4", "earlier", at=4.0)
        await add(tx, "empty")
    listed = {each.id: each for each in await conversations.list_summaries(users_db, ANN)}
    assert (listed["c"].preview, listed["c"].message_count) == ("earlier", 4)
    assert (listed["empty"].preview, listed["empty"].message_count) == ("", 0)
    async with users_db.write() as tx:
        await messages.remove(tx, ANN, "c", "m4")
    [preview] = [each.preview for each in await conversations.list_summaries(users_db, ANN) if each.preview]
    assert preview == "x" * conversations.PREVIEW_CHARS


async def test_two_users_may_have_one_id(users_db: Database) -> None:
    async with users_db.write() as tx:
        await add(tx, "c")
        await add(tx, "c", BOB)
        assert not await conversations.add(tx, ANN, "c", created_at=9, updated_at=9)
        await conversations.change(tx, ANN, "c", ConversationPatch(title="mine"))
        assert await conversations.remove(tx, BOB, "c")
        assert not await conversations.remove(tx, BOB, "c")
    mine = await conversations.get(users_db, ANN, "c")
    assert mine is not None
    assert (mine.title, mine.created_at) == ("mine", 1.0)
    assert await conversations.get(users_db, BOB, "c") is None
    assert await conversations.exists(users_db, ANN, "c")
    assert not await conversations.exists(users_db, BOB, "c")


async def test_a_patch_changes_what_it_names(users_db: Database) -> None:
    settings = ChatSettings(system="Be brief.")
    async with users_db.write() as tx:
        await add(tx, "c")
        await conversations.change(tx, ANN, "c", ConversationPatch(title="t", settings=settings, leaf_id="m"))
        await conversations.change(tx, ANN, "c", ConversationPatch())
    changed = await conversations.get(users_db, ANN, "c")
    assert changed is not None
    assert (changed.title, changed.pinned, changed.settings, changed.leaf_id) == ("t", False, settings, "m")
    async with users_db.write() as tx:
        await conversations.change(tx, ANN, "c", ConversationPatch(leaf_id=None))
    # The time of the last change stays.
    assert await conversations.get(users_db, ANN, "c") == structs.replace(changed, leaf_id=None)


async def test_the_bytes_of_a_user_are_those_of_messages_and_settings(users_db: Database) -> None:
    assert await conversations.used_bytes(users_db, ANN) == 0
    async with users_db.write() as tx:
        await add(tx, "c")
        await conversations.change(tx, ANN, "c", ConversationPatch(settings=ChatSettings(system="é" * 50)))
        settings_bytes = await conversations.used_bytes(tx, ANN)
        assert 100 < settings_bytes < 200
        await say(tx, "m", "é" * 1000)
    used = await conversations.used_bytes(users_db, ANN)
    assert used - settings_bytes == (await messages.measure(users_db, ANN, "c"))[1] > 2000
    assert await conversations.used_bytes(users_db, BOB) == 0


async def test_conversations_end_with_their_user(users_db: Database) -> None:
    async with users_db.write() as tx:
        await add(tx, "c", BOB)
        await messages.put(tx, BOB, "c", ConversationMessage(id="m", role="user"), 1.0)
        await users.remove(tx, BOB)
    assert await users_db.fetch_all("SELECT * FROM conversation_messages") == []
    assert await conversations.count(users_db, BOB) == 0
