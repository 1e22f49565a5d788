"""Playground: real answers, a Stop that stops, and answers that would do harm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from e2e.answers import (
    STOP_CHUNK,
    delta_chunk,
    fake_completions,
    keep_answering,
    sse_completion,
    text_completion,
)
from e2e.conftest import ENGINE_DEADLINE_MS, Visitor, VisitorFactory, async_fixture
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

HOSTILE = """# Heading

<script>document.title = 'owned'</script><img src=x onerror="document.title='owned'">
<style>body { display: none }</style><form action="https://evil.invalid"><input name="location"></form>

[click](javascript:document.title='owned') [fine](https://example.invalid/page) ![seen](https://evil.invalid/pixel.png)

<svg onload="document.title='owned'"></svg>

```python
print("<b>code</b>")
```

| a | b |
| - | - |
| 1 | 2 |
"""


@async_fixture()
async def talking(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """`chat` talks nonsense and is said to see, `reader` does not see; both are Ready."""
    size = chat_gguf.stat().st_size
    for name in ("chat", "reader"):
        hub.add_repo(f"test/{name}", {f"{name}.gguf": chat_gguf})
    sees = ["TextGeneration", "ImageUnderstanding"]
    catalog = write_catalog(
        tmp_path / "talk.json",
        {"id": "chat", "name": "Chatterbox", "size_bytes": size, "capabilities": sees},
        {"id": "reader", "name": "Reader", "size_bytes": size, "required_memory_bytes": 300_000_000},
    )
    llb = await make_llb(catalog=catalog, context=2048).start()
    await llb.wait_until_online()
    await llb.pull_model("reader")
    await llb.pull_model("chat")
    return llb


async def ask(page: Page, text: str) -> None:
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def answers_with(page: Page, text: str) -> None:
    """The next answer is `text`, in three pieces, as an engine sends it."""
    third = len(text) // 3 + 1
    pieces = [delta_chunk(content=text[at : at + third]) for at in range(0, len(text), third)]
    await fake_completions(page, sse_completion(*pieces, STOP_CHUNK))


def busy_slots(llb: RunningBalancer) -> int:
    return sum(
        engine.busy for node in llb.app.cluster.view.nodes.values() for engine in node.engines.values()
    )


@pytest.mark.usefixtures("paced_engines")
async def test_stop_stops_the_engine_and_the_conversation_stays(
    talking: RunningBalancer, visitors: VisitorFactory
) -> None:
    visitor = await visitors(talking)
    page = await visitor.open("/playground?model=reader")
    await keep_answering(page)
    await ask(page, "Count from one to a thousand.")
    log = page.get_by_role("log")
    await expect(log.locator(".answer")).to_contain_text("3 4 5", timeout=ENGINE_DEADLINE_MS)
    await page.get_by_role("button", name="Stop").click()
    await expect(log).to_contain_text("Stopped.")
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await wait_until(lambda: busy_slots(talking) == 0)

    await page.reload()
    await expect(page.get_by_role("log")).to_contain_text("Count from one to a thousand")
    await expect(page.get_by_role("log")).to_contain_text("Stopped.")

    # The one that was used last is chosen, though another one comes first.
    other = await visitor.open("/playground")
    await expect(other.get_by_role("combobox", name="Model")).to_have_value("reader")
    # A whole answer.
    await other.get_by_role("combobox", name="Model").select_option("chat")
    await ask(other, "Say hello.")
    speed = other.get_by_role("log").get_by_text(re.compile(r"\d+\.\d tokens/s")).last
    await expect(speed).to_be_visible(timeout=ENGINE_DEADLINE_MS)
    await expect(other.get_by_role("log")).to_contain_text("to the first token")


async def test_a_hostile_answer_can_do_nothing(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(talking)).open("/playground")
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if "invalid" in request.url else None)
    await answers_with(page, HOSTILE)
    await ask(page, "Show me")
    log = page.get_by_role("log")
    await expect(log.get_by_role("heading", name="Heading")).to_be_visible()
    await expect(log.get_by_role("link", name="fine")).to_have_attribute("rel", "noreferrer noopener")
    await expect(log.get_by_role("link", name="click")).to_have_count(0)
    await expect(log.get_by_role("table")).to_be_visible()
    await expect(log.locator("img, form, input, style, script")).to_have_count(0)
    await expect(log.get_by_text("<b>code</b>")).to_be_visible()
    await expect(log.locator(".hljs-string, .hljs-built_in").first).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
    assert await page.title() == "Playground · llb"
    assert elsewhere == []


async def test_an_error_is_told_and_can_be_retried(
    talking: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(talking)).open("/playground?model=chat")
    refused = {"error": {"message": "x", "type": "overloaded_error", "code": "queue_full"}}
    await fake_completions(page, (503, json.dumps(refused).encode()))
    await ask(page, "Hello")
    await expect(page.get_by_role("alert")).to_contain_text("The queue is full")
    delattr(talking.app.gateway.dispatcher, "dispatch")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("alert")).to_have_count(0)
    # llama.cpp is loaded for this answer.
    speed = page.get_by_role("log").get_by_text(re.compile(r"\d+\.\d tokens/s"))
    await expect(speed).to_be_visible(timeout=ENGINE_DEADLINE_MS)
    await expect(page.get_by_role("log")).to_contain_text("to the first token")


async def test_enter_that_chooses_a_word_does_not_send(
    talking: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(talking)).open("/playground?model=chat")
    box = page.get_by_role("textbox", name="Message")
    await box.fill("こんにちは")
    await box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    await expect(box).to_have_value("こんにちは")
    await box.press("Shift+Enter")
    await expect(box).to_have_value("こんにちは\n")
    await page.reload()
    await expect(box).to_have_value("こんにちは\n")  # what was typed is not lost
    await answers_with(page, "はい")
    await box.press("Enter")
    await expect(box).to_have_value("")
    await expect(page.get_by_role("log")).to_contain_text("はい")


async def test_pictures_go_to_models_that_see(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(talking)).open("/playground?model=reader")
    await expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    await expect(page.get_by_label("Attach images")).to_have_count(0)
    await page.get_by_role("combobox", name="Model").select_option("chat")
    picture = await page.screenshot(clip={"x": 0, "y": 0, "width": 60, "height": 40})
    await page.get_by_label("Attach images").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": picture}
    )
    await expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    asked = await fake_completions(page, text_completion("A picture."))
    await ask(page, "What is it?")
    await expect(page.get_by_role("log")).to_contain_text("A picture.")
    parts = asked.requests[0]["messages"][-1]["content"]
    assert parts[-1]["image_url"]["url"].startswith("data:image/png;base64,")


async def test_a_conversation_is_renamed_and_deleted(
    talking: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(talking)).open("/playground?model=chat")
    await answers_with(page, "Certainly.")
    await ask(page, "Remember the milk")
    await expect(page.get_by_role("log")).to_contain_text("Certainly.")
    await page.get_by_role("button", name="Actions for Remember the milk").click()
    await page.get_by_role("button", name="Rename").click()
    await page.get_by_role("dialog").get_by_label("Title").fill("Shopping")
    await page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    await expect(page.get_by_role("button", name=re.compile("^Shopping"))).to_be_visible()
    await page.get_by_role("button", name="Actions for Shopping").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("button", name=re.compile("^Shopping"))).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("log")).not_to_contain_text("milk")


async def test_without_a_model_it_says_where_to_get_one(visitor: Visitor) -> None:
    page = await visitor.open("/playground")
    await expect(page.get_by_role("heading", name="No chat model yet")).to_be_visible()
    await expect(page.get_by_role("link", name="Open the Model Hub")).to_be_visible()
