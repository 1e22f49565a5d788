"""Playground: conversations in two windows, of two people, and of an earlier version."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.async_api import Page, expect

from e2e.answers import (
    choose_action,
    conversation_list,
    conversation_log,
    fake_completions,
    message_box,
    send_message,
    talker,
    text_completion,
)
from e2e.conftest import VisitorFactory, async_fixture
from tests.harness import RunningBalancer

__all__ = ["talker"]


@async_fixture()
async def page(talker: RunningBalancer, visitors: VisitorFactory) -> Page:
    """The Playground, whose only model is Ready."""
    opened = await (await visitors(talker)).open("/playground")
    await expect(message_box(opened)).to_be_visible()
    return opened


def conversation(page: Page, title: str) -> Any:
    """The entry of the list that opens it."""
    return conversation_list(page).get_by_role("button", name=re.compile(f"^{re.escape(title)}"))


async def test_two_windows_do_not_take_each_others_conversations_away(
    page: Page, talker: RunningBalancer
) -> None:
    await fake_completions(page, text_completion("About cats"), text_completion("About dogs"))
    await send_message(page, "Tell me of cats")
    await expect(conversation_log(page)).to_contain_text("About cats")
    await conversation_list(page).get_by_role("button", name="New conversation").click()
    await expect(conversation_log(page)).not_to_contain_text("About cats")
    await expect(message_box(page)).to_be_focused()
    await send_message(page, "Tell me of dogs")
    await expect(conversation_log(page)).to_contain_text("About dogs")

    other = await page.context.new_page()
    await other.goto(f"{talker.url}/playground")
    await conversation(other, "Tell me of cats").click()
    await expect(conversation_log(other)).to_contain_text("About cats")
    await choose_action(other, "Tell me of cats", "Rename")
    await other.get_by_role("dialog").get_by_role("textbox", name="Title").fill("Felines")
    await other.get_by_role("dialog").get_by_role("button", name="Rename").click()
    await expect(conversation(page, "Felines")).to_be_visible()
    await expect(conversation_log(page)).to_contain_text("About dogs")
    await choose_action(page, "Tell me of dogs", "Delete")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(conversation(other, "Tell me of dogs")).to_have_count(0)
    await expect(conversation(other, "Felines")).to_be_visible()


async def test_two_tabs_that_write_at_once_keep_both(page: Page, talker: RunningBalancer) -> None:
    await fake_completions(page, *(text_completion(text) for text in ("First", "From here", "From there")))
    await send_message(page, "Begin")
    await expect(conversation_log(page)).to_contain_text("First")
    other = await page.context.new_page()
    # Messages between tabs do not arrive.
    await other.add_init_script("BroadcastChannel.prototype.postMessage = () => {}")
    await other.goto(f"{talker.url}/playground")
    await expect(conversation_log(other)).to_contain_text("First")
    await send_message(other, "Ask there")
    await expect(conversation_log(other)).to_contain_text("From here")
    await send_message(page, "Ask here")
    await expect(conversation_log(page)).to_contain_text("From there")
    # Both questions stand after the first answer, as versions of each other.
    await page.reload()
    log = conversation_log(page)
    await expect(log).to_contain_text("Ask here")
    await log.get_by_role("button", name="Previous version").click()
    await expect(log).to_contain_text("Ask there")
    await expect(log).to_contain_text("From here")
    await expect(log).not_to_contain_text("Ask here")


async def test_conversations_of_an_earlier_version_move_to_the_server(
    page: Page, talker: RunningBalancer
) -> None:
    user = (await page.evaluate("fetch('/api/auth/me').then((answer) => answer.json())"))["user"]["id"]
    good = {
        "id": "old-1", "title": "", "updated": 1_700_000_000_000, "system": "Be brief.", "stop": "",
        "parameters": {"temperature": 0.5},
        "messages": [
            {"role": "user", "text": "Kept question"},
            {"role": "assistant", "text": "Kept answer", "model": "chat", "ended": "stop"},
        ],
    }  # fmt: skip
    broken = [
        "{", "null", "[]", '{"id":"3"}',
        json.dumps({**good, "id": "a", "messages": [{"role": "user", "text": 7}]}),
        json.dumps({**good, "id": "b", "messages": [{"role": "user", "text": "", "images": ["http://x.invalid/"]}]}),
    ]  # fmt: skip
    entries = {f"llb.conversation.{user}.old-1": json.dumps(good)} | {
        f"llb.conversation.{user}.{at}": text for at, text in enumerate(broken)
    }
    await page.evaluate("(entries) => Object.assign(localStorage, entries)", entries)
    await page.reload()
    await conversation(page, "Kept question").click()
    await expect(conversation_log(page)).to_contain_text("Kept answer")
    await expect(conversation_list(page).get_by_role("listitem")).to_have_count(1)
    left = await page.evaluate(
        "Object.keys(localStorage).filter((key) => key.startsWith('llb.conversation.'))"
    )
    assert sorted(key.rpartition(".")[2] for key in left) == ["0", "1", "2", "3", "4", "5"]
    # On the server it is there for every browser.
    await page.evaluate("localStorage.clear()")
    await page.goto(f"{talker.url}/playground")
    await conversation(page, "Kept question").click()
    await page.get_by_role("button", name="Parameters").click()
    await expect(
        page.get_by_role("region", name="Parameters").get_by_role("textbox", name="System prompt")
    ).to_have_value("Be brief.")


async def test_another_person_at_the_same_browser_does_not_read_them(
    talker: RunningBalancer, visitors: VisitorFactory
) -> None:
    guest = {"username": "guest", "password": "another long password", "role": "user"}
    assert (await talker.http.post("/api/users", json=guest)).status_code == 201
    visitor = await visitors(talker)
    page = await visitor.open("/playground")
    await fake_completions(page, text_completion("Noted"))
    await send_message(page, "My secret")
    await expect(conversation_log(page)).to_contain_text("Noted")
    await message_box(page).fill("another secret")
    await visitor.sign_in(guest["username"], guest["password"])
    other = await visitor.open("/playground")
    await expect(message_box(other)).to_have_value("")
    await expect(other.get_by_role("main")).not_to_contain_text("secret")
