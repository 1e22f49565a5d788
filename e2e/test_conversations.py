"""Playground: what is kept on the server, and what a person does with it. One server for all tests."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import FilePayload, Locator, Page, expect

from e2e.answers import (
    STOP_CHUNK,
    choose_action,
    conversation_list,
    conversation_log,
    delta_chunk,
    fake_completions,
    message_box,
    send_message,
    sse_completion,
    text_completion,
)
from e2e.conftest import ENGINE_DEADLINE_MS, VisitorFactory, async_fixture
from e2e.words import load_languages, translate
from tests.conftest import BalancerFactory, balancer_factory
from tests.ggufs import write_embedding_model, write_reranking_model
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

KINDS = {
    "chat": ("Chatterbox", ["TextGeneration"]),
    "seer": ("Seer", ["TextGeneration", "ImageUnderstanding"]),
    "embed": ("Embedder", ["Embedding"]),
    "rank": ("Ranker", ["Reranking"]),
}


@async_fixture(scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, chat_gguf: Path, page_port: int
) -> AsyncIterator[RunningBalancer]:
    """Two chat models, one for embeddings and one for reranking, all Ready."""
    directory = tmp_path_factory.mktemp("conversations")
    files = {
        "chat": chat_gguf,
        "seer": chat_gguf,
        "embed": write_embedding_model(directory / "embed.gguf"),
        "rank": write_reranking_model(directory / "rank.gguf"),
    }
    catalog = write_catalog(
        directory / "catalog.json",
        *(
            {
                "id": name,
                "name": KINDS[name][0],
                "size_bytes": path.stat().st_size,
                "capabilities": KINDS[name][1],
            }
            for name, path in files.items()
        ),
    )  # fmt: skip
    with HubStandIn() as hub:
        for name, path in files.items():
            hub.add_repo(f"test/{name}", {f"{name}.gguf": path})
        async with balancer_factory(directory / "home", hub, catalog) as make:
            llb = make(context=2048)
            llb.preferred_port = page_port
            await llb.start()
            await llb.wait_until_online()
            for name in files:
                await llb.pull_model(name)
            yield llb


@async_fixture()
async def page(server: RunningBalancer, visitors: VisitorFactory) -> AsyncIterator[Page]:
    """A new conversation of a user whose earlier ones are deleted."""
    visitor = await visitors(server)
    for each in (await visitor.request("GET", "/api/conversations")).json()["conversations"]:
        await visitor.request("DELETE", f"/api/conversations/{each['id']}")
    opened = await visitor.open("/playground?model=chat")
    await expect(message_box(opened)).to_be_focused()
    yield opened
    # The stand-ins of the engines.
    vars(server.app.gateway.dispatcher).pop("dispatch", None)


def entry(page: Page, title: str) -> Locator:
    return conversation_list(page).get_by_role("button", name=re.compile(f"^{re.escape(title)}"))


async def ask(page: Page, *questions: str) -> None:
    for question in questions:
        await send_message(page, question)
        await expect(conversation_log(page)).to_have_attribute("aria-busy", "false")
        await expect(conversation_log(page)).to_contain_text(question)


async def import_conversation(page: Page, server: RunningBalancer, count: int) -> None:
    """One with so many messages, which is opened."""
    messages = [
        {
            "id": f"m{at}",
            "parent_id": f"m{at - 1}" if at else None,
            "role": "assistant" if at % 2 else "user",
            "text": f"Message {at}: **bold** and `code`.\n\n- one\n- two" if at % 2 else f"Question {at}",
            "ended": "stop" if at % 2 else None,
        }
        for at in range(count)
    ]
    body = {"conversations": [{"id": f"long-{count}", "title": f"Long {count}", "messages": messages}]}
    answer = await page.context.request.post(f"{server.url}/api/conversations/import", data=body)
    assert answer.ok, await answer.text()
    await page.reload()
    await entry(page, f"Long {count}").click()
    await expect(conversation_log(page)).to_contain_text(f"Message {count - 1}")


# --- the list ----------------------------------------------------------------------------------------


async def test_they_are_found_pinned_and_renamed(page: Page) -> None:
    await fake_completions(page, text_completion("About whiskers"), text_completion("About barking"))
    await ask(page, "Tell me of cats")
    await conversation_list(page).get_by_role("button", name="New conversation").click()
    await ask(page, "Tell me of dogs")
    await conversation_list(page).get_by_role("searchbox").fill("WHISKERS")
    await expect(conversation_list(page).get_by_role("listitem")).to_have_count(1)
    await expect(entry(page, "Tell me of cats")).to_contain_text("About whiskers")
    await conversation_list(page).get_by_role("searchbox").fill("zebra")
    await expect(conversation_list(page)).to_contain_text("No conversation contains this text.")
    await conversation_list(page).get_by_role("searchbox").fill("")
    await expect(conversation_list(page).get_by_role("listitem").first).to_contain_text("dogs")
    await choose_action(page, "Tell me of cats", "Pin")
    await expect(conversation_list(page).get_by_role("listitem").first).to_contain_text("cats")


async def test_they_are_exported_and_imported(page: Page, tmp_path: Path) -> None:
    await fake_completions(page, text_completion("They **purr**."))
    await ask(page, "Tell me of cats")
    saved: dict[str, Path] = {}
    for action in ("Export as Markdown", "Export as JSON"):
        async with page.expect_download() as download:
            await choose_action(page, "Tell me of cats", action)
        found = await download.value
        saved[action] = tmp_path / found.suggested_filename
        await found.save_as(saved[action])
    assert [path.name for path in saved.values()] == ["Tell-me-of-cats.md", "Tell-me-of-cats.json"]
    markdown = saved["Export as Markdown"].read_text("utf-8")
    assert (
        markdown == "# Tell me of cats\n\n## You\n\nTell me of cats\n\n## Answer (chat)\n\nThey **purr**.\n"
    )
    await choose_action(page, "Tell me of cats", "Delete")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(conversation_list(page).get_by_role("listitem")).to_have_count(0)
    chooser = conversation_list(page).get_by_label("Import")
    await chooser.set_input_files(saved["Export as Markdown"])
    await expect(page.get_by_text("isn't an export of conversations")).to_be_visible()
    await chooser.set_input_files(saved["Export as JSON"])
    await expect(page.get_by_text("Imported 1 conversation, 2 new messages.")).to_be_visible()
    await entry(page, "Tell me of cats").click()
    await expect(conversation_log(page).locator("strong")).to_have_text("purr")
    async with page.expect_download() as download:
        await conversation_list(page).get_by_role("button", name="Export all").click()
    everything = json.loads(Path(await (await download.value).path()).read_text("utf-8"))
    assert [len(each["messages"]) for each in everything["conversations"]] == [2]


# --- messages ----------------------------------------------------------------------------------------


async def test_versions_are_kept_and_chosen(page: Page) -> None:
    await fake_completions(page, *(text_completion(text) for text in ("First", "Second", "After")))
    await ask(page, "Hello?")
    log = conversation_log(page)
    await log.get_by_role("button", name="Regenerate").click()
    await expect(log).to_contain_text("Second")
    await expect(log.get_by_role("group", name="Versions")).to_contain_text("2/2")
    await log.get_by_role("button", name="Previous version").click()
    await expect(log).to_contain_text("First")
    await ask(page, "And then?")
    await expect(log).to_contain_text("After")
    # A reload shows the last conversation again.
    await page.reload()
    await expect(log).to_contain_text("First")
    await expect(log).to_contain_text("After")
    await log.get_by_role("button", name="Next version").click()
    await expect(log).to_contain_text("Second")
    await expect(log).not_to_contain_text("After")
    await page.reload()
    await expect(log).to_contain_text("Second")


async def test_a_message_is_deleted_and_its_replies_stay(page: Page) -> None:
    asked = await fake_completions(page, *(text_completion(text) for text in ("One", "Two", "Three")))
    await ask(page, "First", "Second")
    log = conversation_log(page)
    await log.locator(".question").nth(1).get_by_role("button", name="Delete message").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(log).not_to_contain_text("Second")
    await expect(log).to_contain_text("Two")
    await page.reload()
    await expect(log).to_contain_text("Two")
    await ask(page, "Third")
    await expect(log).to_contain_text("Three")
    assert [each["role"] for each in asked.requests[-1]["messages"]] == ["user", "assistant", "user"]


async def test_an_answer_that_was_cut_off_is_continued(page: Page) -> None:
    ends = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    cut = sse_completion(delta_chunk(content="One, two, "), ends)
    asked = await fake_completions(page, cut, text_completion("three."))
    await ask(page, "Count")
    await expect(conversation_log(page)).to_contain_text("Stopped at the token limit.")
    await conversation_log(page).get_by_role("button", name="Continue").click()
    await expect(conversation_log(page)).to_contain_text("One, two, three.")
    assert asked.requests[1]["messages"][-1] == {"role": "assistant", "content": "One, two,"}
    await page.reload()
    await expect(conversation_log(page)).to_contain_text("One, two, three.")
    await expect(conversation_log(page).locator(".answer")).to_have_count(1)


async def test_a_real_answer_is_continued(page: Page) -> None:
    await page.get_by_role("button", name="Parameters").click()
    await page.get_by_role("textbox", name="Max tokens").fill("3")
    # The most likely tokens have letters; others may be blank, and their message without text.
    await page.get_by_role("textbox", name="Temperature").fill("0")
    await send_message(page, "Say hello.")
    log = conversation_log(page)
    await expect(log).to_contain_text("Stopped at the token limit.", timeout=ENGINE_DEADLINE_MS)
    before = await log.locator(".message-text").last.inner_text()
    await log.get_by_role("button", name="Continue").click()
    # The earlier part is also marked as stopped.
    await expect(log.locator(".message-text").last).not_to_have_text(before, timeout=ENGINE_DEADLINE_MS)
    await expect(log).to_contain_text("Stopped at the token limit.", timeout=ENGINE_DEADLINE_MS)
    after = await log.locator(".message-text").last.inner_text()
    assert after.startswith(before.rstrip())
    assert len(after) > len(before)
    await expect(page.get_by_role("meter", name="Context used")).to_have_attribute("aria-valuemax", "512")


async def test_too_long_a_conversation_is_sent_without_its_oldest_messages(page: Page) -> None:
    error = {
        "message": "The request has 9000 prompt tokens, the context length is 2048 tokens",
        "type": "x", "code": "context_length_exceeded", "prompt_tokens": 9000, "context_length": 2048,
    }  # fmt: skip
    refused = 400, json.dumps({"error": error}).encode()
    asked = await fake_completions(page, text_completion("Long"), refused, text_completion("Fits"))
    await ask(page, "word " * 1200, "And now?")
    meter = page.get_by_role("meter", name="Context used")
    await expect(meter).to_have_class(re.compile("full"))
    await expect(meter).to_contain_text(re.compile(r"\d\.\dK of \d+K?"))
    alert = conversation_log(page).get_by_role("alert")
    await expect(alert).to_contain_text("9000 prompt tokens")
    await alert.get_by_role("button", name="Drop the oldest messages and send").click()
    await expect(conversation_log(page)).to_contain_text("Fits")
    assert [each["content"] for each in asked.requests[-1]["messages"]] == ["And now?"]
    await expect(page.get_by_text("The oldest messages are not sent")).to_be_visible()


async def test_text_files_are_sent_with_the_question(page: Page) -> None:
    asked = await fake_completions(page, text_completion("It is short."))
    files: list[FilePayload] = [
        {"name": "notes.md", "mimeType": "text/markdown", "buffer": b"# Notes"},
        {"name": "a.zip", "mimeType": "application/zip", "buffer": b"PK\x03\x04"},
    ]
    await page.get_by_label("Attach text files").set_input_files(files)
    await expect(page.get_by_role("alert")).to_contain_text("Can't attach a.zip.")
    await ask(page, "Summarise it")
    assert asked.requests[0]["messages"][-1]["content"] == "notes.md:\n```\n# Notes\n```\n\nSummarise it"
    await page.reload()
    file = conversation_log(page).locator(".attached-file")
    await expect(file).to_contain_text("notes.md")
    await file.locator("summary").click()
    await expect(file.get_by_text("# Notes")).to_be_visible()


async def test_maths_and_code(page: Page) -> None:
    answer = (
        "It costs $5 to $10. $a^2$ and\n\n$$\\frac{1}{2}$$\n\n\\(x\\) $\\bogus{$\n\n```python\nprint(1)\n```"
    )
    await fake_completions(page, text_completion(answer))
    await ask(page, "Show me")
    log = conversation_log(page)
    await expect(log.locator("math")).to_have_count(3)
    await expect(log.locator("math mfrac")).to_have_count(1)
    await expect(log).to_contain_text("It costs $5 to $10.")
    await expect(log.locator(".hljs-built_in")).to_have_text("print")
    wrap = log.get_by_role("button", name="Wrap")
    await wrap.click()
    await expect(wrap).to_have_attribute("aria-pressed", "true")
    await expect(log.locator("pre.wrapped")).to_have_count(1)


# --- models ------------------------------------------------------------------------------------------


async def test_two_models_answer_side_by_side(page: Page) -> None:
    timings = {"choices": [], "timings": {"predicted_per_second": 12.34}}
    texts = ("One", "Other", "More", "Another")
    asked = await fake_completions(
        page, *(sse_completion(delta_chunk(content=text), STOP_CHUNK, timings) for text in texts)
    )
    await page.get_by_role("button", name="Compare").click()
    await expect(page.get_by_role("combobox", name="Second model")).to_have_value("seer")
    await send_message(page, "Who are you?")
    logs = [page.get_by_role("log", name=f"Conversation with {name}") for name in ("Chatterbox", "Seer")]
    for log in logs:
        await expect(log.locator(".answer")).to_contain_text(re.compile("One|Other"))
    await expect(page.locator(".column-rate")).to_have_text(["12.3 tokens/s"] * 2)
    await send_message(page, "And now?")
    for log in logs:
        await expect(log.locator(".answer").last).to_contain_text(re.compile("More|Another"))
    assert sorted(each["model"] for each in asked.requests) == ["chat", "chat", "seer", "seer"]
    # Each model gets its own answers as history.
    said = [[turn["content"] for turn in each["messages"]] for each in asked.requests[2:]]
    assert sorted(turns[1] for turns in said) == ["One", "Other"]
    await page.reload()
    await expect(conversation_log(page).get_by_role("group", name="Versions")).to_have_text(re.compile("1/2"))


async def test_presets_and_the_default_of_a_model(page: Page) -> None:
    panel = page.get_by_role("region", name="Parameters")
    system = panel.get_by_role("textbox", name="System prompt")
    await page.get_by_role("button", name="Parameters").click()
    await expect(panel).to_contain_text("Lower is more predictable.")
    await system.fill("Be brief.")
    await panel.get_by_role("textbox", name="Temperature").fill("0.3")
    await panel.get_by_role("button", name="Save as preset").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Brief")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    preset = panel.get_by_role("combobox", name="Preset")
    await expect(preset.locator("option:checked")).to_have_text("Brief")
    await panel.get_by_role("checkbox", name="Use for new conversations with Chatterbox").check()
    await panel.get_by_role("button", name="Reset to defaults").click()
    await expect(system).to_have_value("")
    await preset.select_option("Brief")
    await expect(system).to_have_value("Be brief.")
    await panel.get_by_role("button", name="Reset to defaults").click()
    await conversation_list(page).get_by_role("button", name="New conversation").click()
    await expect(system).to_have_value("Be brief.")
    await expect(panel.get_by_role("textbox", name="Temperature")).to_have_value("0.3")
    await panel.get_by_role("button", name="Delete preset").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(preset.locator("option")).to_have_count(1)


async def test_an_embedding_model_compares_texts(page: Page) -> None:
    await page.get_by_role("combobox", name="Model").select_option("embed")
    await page.get_by_role("textbox", name="Texts").fill("one text")
    await page.get_by_role("button", name="Compare").click()
    await expect(page.get_by_role("alert")).to_contain_text("at least two texts")
    await page.get_by_role("textbox", name="Texts").fill("one text\nanother\none text")
    await page.get_by_role("button", name="Compare").click()
    result = page.get_by_role("region", name="Result")
    await expect(result.get_by_role("listitem")).to_have_count(3, timeout=ENGINE_DEADLINE_MS)
    await expect(result.get_by_role("listitem").nth(2)).to_contain_text("1.000")
    await expect(page.get_by_role("alert")).to_have_count(0)


async def test_a_reranking_model_orders_documents(page: Page) -> None:
    await page.get_by_role("combobox", name="Model").select_option("rank")
    await page.get_by_role("button", name="Rank").click()
    await expect(page.get_by_role("alert")).to_contain_text("Enter a query")
    await page.get_by_role("textbox", name="Query").fill("number")
    await page.get_by_role("textbox", name="Documents").fill(
        "\n".join(f"text {number}" for number in range(70))
    )
    await page.get_by_role("button", name="Rank").click()
    scores = page.get_by_role("region", name="Result").locator(".score-value")
    await expect(scores).to_have_count(70, timeout=ENGINE_DEADLINE_MS)
    values = [float(text) for text in await scores.all_inner_texts()]
    assert values == sorted(values, reverse=True)


# --- keyboard ----------------------------------------------------------------------------------------


async def test_shortcuts(page: Page) -> None:
    await fake_completions(page, text_completion("Hi"))
    await ask(page, "Hello?")
    await message_box(page).press("ArrowUp")
    await expect(message_box(page)).to_have_value("Hello?")
    await page.keyboard.press("Escape")
    await expect(message_box(page)).to_have_value("")
    await page.keyboard.press("Control+k")
    await expect(conversation_list(page).get_by_role("searchbox")).to_be_focused()
    await page.keyboard.type("/?")
    await expect(conversation_list(page).get_by_role("searchbox")).to_have_value("/?")
    await conversation_list(page).get_by_role("searchbox").fill("")
    await page.keyboard.press("Control+Shift+O")
    await expect(page.get_by_role("heading", name="Chat with Chatterbox")).to_be_visible()
    await expect(message_box(page)).to_be_focused()
    await message_box(page).blur()
    await page.keyboard.press("/")
    await expect(conversation_list(page).get_by_role("searchbox")).to_be_focused()
    await conversation_list(page).get_by_role("searchbox").blur()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()


# --- long conversations ------------------------------------------------------------------------------


WATCH_LOG = """() => {
  window.changes = 0;
  new MutationObserver((all) => { window.changes += all.length; })
    .observe(document.querySelector('.log'), { subtree: true, childList: true });
}"""


async def layouts_of_typing(page: Page) -> list[int]:
    """Layouts of each of ten keys, while the page is idle in between."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    await page.evaluate(WATCH_LOG)

    async def layout_count() -> int:
        await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        metrics: list[dict[str, Any]] = (await session.send("Performance.getMetrics"))["metrics"]
        return int(next(each["value"] for each in metrics if each["name"] == "LayoutCount"))

    await message_box(page).focus()
    counts = [await layout_count()]
    for key in "abcdefghij":
        await page.keyboard.press(key)
        counts.append(await layout_count())
    return [after - before for before, after in itertools.pairwise(counts)]


async def test_a_key_costs_the_same_at_600_messages(page: Page, server: RunningBalancer) -> None:
    sizes = {}
    for count in (40, 600):
        await import_conversation(page, server, count)
        first_key, *other_keys = await layouts_of_typing(page)
        # A key takes one, and the first two more, because Send can be pressed then. What the server tells
        # meanwhile takes some as well.
        assert first_key <= 6
        assert max(other_keys) <= 4
        # Nothing of the log is rendered for a key, and the log has as many elements as a short one.
        assert await page.evaluate("window.changes") == 0
        sizes[count] = await page.locator(".log *").count()
        await message_box(page).fill("")
    assert sizes[600] <= sizes[40] + 10
    log = conversation_log(page)
    # Earlier messages appear above, and what is read stays where it is.
    first = log.get_by_text("Question 560", exact=True)
    await expect(log.locator(".message")).to_have_count(40)
    await log.evaluate("(element) => { element.scrollTop = 0; }")
    await expect(log.locator(".message")).to_have_count(80)
    await expect(first).to_be_in_viewport()


# --- languages and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize("locale", sorted(load_languages()))
async def test_on_a_phone_everything_is_within_reach(
    page: Page, server: RunningBalancer, visitors: VisitorFactory, locale: str
) -> None:
    tag = {"en": "en-GB", "ja": "ja-JP"}[locale]
    visitor = await visitors(server, viewport={"width": 360, "height": 740}, locale=tag, has_touch=True)

    def say(key: str, **values: object) -> str:
        return translate(locale, key, **values)

    phone = await visitor.open("/playground?model=chat")
    await fake_completions(phone, text_completion("# Title\n\n" + "long_word" * 40))
    await phone.get_by_role("textbox", name=say("playground.message")).fill("Hello")
    await phone.get_by_role("button", name=say("playground.send")).click()
    await expect(phone.get_by_role("log").get_by_role("heading", name="Title")).to_be_visible()
    await phone.get_by_role("button", name=say("playground.conversations")).click()
    listed = phone.get_by_role("region", name=say("playground.conversations"))
    await listed.get_by_role("button", name=say("playground.more", title="Hello")).click()
    await expect(listed.get_by_role("button", name=say("action.delete"))).to_be_in_viewport()
    await phone.keyboard.press("Escape")
    await phone.keyboard.press("Escape")
    await expect(listed).to_be_hidden()
    await phone.get_by_role("button", name=say("playground.settings")).click()
    await expect(phone.get_by_role("textbox", name=say("playground.system"))).to_be_in_viewport()
    assert await phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await phone.evaluate("document.documentElement.scrollHeight <= innerHeight")


async def test_without_a_chat_model_one_is_pulled_in_place(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path, visitors: VisitorFactory
) -> None:
    size = chat_gguf.stat().st_size
    for name in ("small", "large"):
        hub.add_repo(f"test/{name}", {f"{name}.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "picks.json",
        {"id": "large", "name": "Large", "size_bytes": size, "required_memory_bytes": 2 * size},
        {"id": "small", "name": "Small", "size_bytes": size - 1, "required_memory_bytes": size},
    )
    llb = await make_llb(catalog=catalog, context=2048).start()
    await llb.wait_until_online()
    page = await (await visitors(llb)).open("/playground")
    await expect(page.get_by_text("Smallest: ready soonest")).to_be_visible()
    pick = page.locator(".first-model").filter(has_text="Largest that fits")
    await expect(pick).to_contain_text("Large")
    await pick.get_by_role("button", name="Pull").click()
    await expect(page.get_by_role("heading", name="Chat with Large")).to_be_visible(
        timeout=ENGINE_DEADLINE_MS
    )
