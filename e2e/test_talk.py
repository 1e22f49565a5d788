"""Playground: failures, requests, typing and reading."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from typing import Any

import pytest
from playwright.async_api import Page, expect

from e2e.answers import (
    STOP_CHUNK,
    conversation_list,
    conversation_log,
    delta_chunk,
    fake_completions,
    keep_answering,
    message_box,
    send_message,
    sse_completion,
    talker,
    text_completion,
)
from e2e.conftest import ENGINE_DEADLINE_MS, Visitor, VisitorFactory, async_fixture
from llb.engine.model_engine import ModelEngine
from llb.engine.process import EngineProcess
from llb.engine.spec import EngineSpec
from llb.wire import EngineState
from tests.harness import RunningBalancer, wait_until
from tests.hub import HubStandIn

__all__ = ["talker"]

SPEED = re.compile(r"^[\d,]+\.\d tokens/s$")
COUNT = "Count from one to a thousand, one number a line."
SYSTEM = 'It\'s a "test" of $HOME, `ls` and \\n.\nTwo lines.'
QUESTION = "What's up?\n'quoted' ; exit 1 !x 日本語"


@async_fixture()
async def page(talker: RunningBalancer, visitors: VisitorFactory) -> Page:
    """The Playground, whose only model is Ready."""
    opened = await (await visitors(talker)).open("/playground")
    await expect(message_box(opened)).to_be_visible()
    return opened


def busy_slots(llb: RunningBalancer) -> int:
    return sum(node.busy for each in llb.app.gateway.admission.snapshot() for node in each.nodes)


def panel(page: Page) -> Any:
    return page.get_by_role("region", name="Parameters")


# --- what breaks -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("paced_engines")
async def test_an_answer_goes_on_until_it_is_stopped(page: Page, talker: RunningBalancer) -> None:
    answer = conversation_log(page).locator(".answer").last

    await keep_answering(page)

    async def text_after(words: int) -> str:
        """The text once it has that many words: of a single token no speed can be told."""
        await expect(answer.locator(".message-text")).to_contain_text(
            re.compile(rf"(\S+\s+){{{words}}}"), timeout=ENGINE_DEADLINE_MS
        )
        return await answer.locator(".message-text").inner_text()

    await message_box(page).fill(COUNT)
    await message_box(page).press("Enter")
    await text_after(3)
    await expect(conversation_log(page)).to_have_attribute("aria-busy", "true")
    await page.keyboard.press("Escape")
    await wait_until(lambda: busy_slots(talker) == 0)
    await expect(conversation_log(page)).to_have_attribute("aria-busy", "false")
    await expect(conversation_log(page)).to_contain_text("Stopped.")
    await expect(page.get_by_role("status").filter(has_text="Stopped.")).to_have_count(1)
    await expect(conversation_log(page).get_by_text(SPEED)).to_be_visible()  # measured: no server reports it

    # Reloading the page, or leaving it, does not end the answer.
    await answer.get_by_role("button", name="Regenerate").click()
    before = await text_after(3)
    await page.reload()
    await expect(conversation_log(page)).to_have_attribute("aria-busy", "true")
    later = await text_after(len(before.split()) + 3)
    assert later.startswith(before)
    await page.get_by_role("link", name="Nodes").click()
    assert busy_slots(talker) == 1
    await page.get_by_role("navigation").get_by_role("link", name="Playground").click()
    assert (await text_after(len(later.split()) + 3)).startswith(later)
    # In another conversation a dot shows that the answer is still being generated.
    await conversation_list(page).get_by_role("button", name="New conversation").click()
    running = conversation_list(page).get_by_role("listitem").filter(has_text="Generating the answer")
    await expect(running).to_have_count(1)
    await running.get_by_role("button", name=re.compile("^Count from")).click()
    await expect(conversation_log(page)).to_have_attribute("aria-busy", "true")
    await page.get_by_role("button", name="Stop").click()
    await expect(conversation_log(page)).to_contain_text("Stopped.")
    await wait_until(lambda: busy_slots(talker) == 0)

    # The server goes away in the middle of an answer, and comes back.
    await answer.get_by_role("button", name="Regenerate").click()
    await text_after(3)
    await talker.stop()
    broken = answer.get_by_role("alert")
    await expect(broken).to_contain_text("Interrupted.")
    await talker.start(talker.port)
    await talker.wait_until_online()
    await broken.get_by_role("button", name="Retry").click()
    await text_after(3)
    await expect(broken).to_have_count(0)


async def test_a_stream_that_does_not_say_its_end_is_no_answer(page: Page) -> None:
    asked = await fake_completions(
        page, sse_completion(delta_chunk(content="Half an"), done=False), text_completion("The whole answer")
    )
    await send_message(page, "Are you there?")
    broken = conversation_log(page).get_by_role("alert")
    await expect(broken).to_contain_text("Interrupted.")
    await expect(conversation_log(page)).to_contain_text("Half an")
    await page.reload()
    await broken.get_by_role("button", name="Retry").click()
    await expect(conversation_log(page)).to_contain_text("The whole answer")
    await expect(broken).to_have_count(0)
    assert [each["messages"] for each in asked.requests] == [
        [{"role": "user", "content": "Are you there?"}]
    ] * 2


async def test_a_model_that_is_being_loaded_says_how_far(page: Page, talker: RunningBalancer) -> None:
    def share(engine: ModelEngine) -> float | None:
        return 0.4 if engine.process.state is EngineState.STARTING else None

    stopped: list[int] = []
    send_spec = EngineProcess._send_spec

    async def send_to_stopped(
        process: EngineProcess, child: asyncio.subprocess.Process, spec: EngineSpec
    ) -> None:
        """Send the worker its order once it is stopped: a small model is loaded in no time."""
        os.kill(child.pid, signal.SIGSTOP)
        stopped.append(child.pid)
        await send_spec(process, child, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelEngine, "load_progress", share)
        patch.setattr(EngineProcess, "_send_spec", send_to_stopped)
        await send_message(page, "Hello")
        await wait_until(lambda: stopped)
        try:
            loading = conversation_log(page).get_by_role("progressbar", name="Loading the model")
            await expect(loading).to_have_attribute("aria-valuenow", "40")
            await expect(conversation_log(page)).to_contain_text("Loading the model: 40%")
        finally:
            os.kill(stopped[0], signal.SIGCONT)
        await expect(conversation_log(page).get_by_text(SPEED)).to_be_visible(timeout=ENGINE_DEADLINE_MS)
        await expect(loading).to_have_count(0)


async def test_a_model_that_is_being_downloaded_says_how_far(
    page: Page, talker: RunningBalancer, hub: HubStandIn
) -> None:
    size = (await talker.get_model("seer"))["model"]["size_bytes"]
    stalled = hub.faults.stall(after=size // 2)
    await talker.register_model("seer")
    await page.goto(f"{talker.url}/playground?model=seer")
    coming = page.get_by_role("progressbar", name="Downloading Seer")
    await expect(coming).to_have_attribute("aria-valuenow", re.compile("49|50"))
    await message_box(page).fill("I am early")
    await message_box(page).press("Enter")
    await expect(message_box(page)).to_have_value("I am early")
    stalled.clear()
    await expect(coming).to_have_count(0)
    asked = await fake_completions(page, text_completion("Welcome"))
    await message_box(page).press("Enter")
    await expect(conversation_log(page)).to_contain_text("Welcome")
    assert asked.requests[0]["model"] == "seer"


# --- what is sent ------------------------------------------------------------------------------------


async def test_parameters_are_sent_and_belong_to_the_conversation(page: Page) -> None:
    asked = await fake_completions(page, text_completion("One"), text_completion("Two"))
    await send_message(page, "Without")
    await expect(conversation_log(page)).to_contain_text("One")
    assert set(asked.requests[0]) == {"model", "messages", "stream", "stream_options"}

    await page.get_by_role("button", name="Parameters").click()
    field = panel(page).get_by_role("textbox", name="System prompt")
    await field.fill("Be brief.")
    await panel(page).get_by_role("textbox", name="Temperature").fill("0.5")
    await panel(page).get_by_role("textbox", name="Seed").fill("7")
    await panel(page).get_by_role("textbox", name="Stop sequences").fill("END\nSTOP")
    top_p = panel(page).get_by_role("textbox", name="Top P")
    await top_p.fill("7")
    await expect(top_p).to_have_attribute("aria-invalid", "true")
    await expect(panel(page)).to_contain_text("A number from 0 to 1")
    # It would be ignored: nothing is sent, and the field has the focus.
    await send_message(page, "With")
    await expect(top_p).to_be_focused()
    await expect(message_box(page)).to_have_value("With")
    assert len(asked.requests) == 1
    await top_p.fill("")
    await message_box(page).press("Enter")
    await expect(conversation_log(page)).to_contain_text("Two")
    sent = {name: asked.requests[1].get(name) for name in ("temperature", "seed", "stop", "top_p")}
    assert sent == {"temperature": 0.5, "seed": 7, "stop": ["END", "STOP"], "top_p": None}
    assert asked.requests[1]["messages"][0] == {"role": "system", "content": "Be brief."}

    await page.reload()
    await expect(panel(page).get_by_role("textbox", name="Temperature")).to_have_value("0.5")
    await panel(page).get_by_role("button", name="Reset to defaults").click()
    await expect(panel(page).get_by_role("textbox", name="Temperature")).to_have_value("")
    await expect(field).to_have_value("")


async def test_parameters_of_a_conversation_that_has_not_begun_survive_a_reload(page: Page) -> None:
    await page.get_by_role("button", name="Parameters").click()
    await panel(page).get_by_role("textbox", name="System prompt").fill("Be brief.")
    await page.reload()
    await expect(panel(page).get_by_role("textbox", name="System prompt")).to_have_value("Be brief.")
    await expect(conversation_list(page).get_by_role("listitem")).to_have_count(0)


async def test_thoughts_are_folded_away_and_not_told_again(page: Page) -> None:
    asked = await fake_completions(
        page,
        text_completion("<think>Hm, let me see.</think>\n\nForty-two."),
        sse_completion(delta_chunk(reasoning_content="Deep."), delta_chunk(content="Again."), STOP_CHUNK),
    )
    await send_message(page, "What is it?")
    await expect(conversation_log(page)).to_contain_text("Forty-two.")
    await expect(conversation_log(page).get_by_text("Hm, let me see.")).to_be_hidden()
    await conversation_log(page).get_by_text("Reasoning").click()
    await expect(conversation_log(page).get_by_text("Hm, let me see.")).to_be_visible()
    await send_message(page, "Sure?")
    await expect(conversation_log(page)).to_contain_text("Again.")
    await expect(conversation_log(page).get_by_text("Deep.")).to_be_hidden()
    assert asked.requests[1]["messages"][1] == {"role": "assistant", "content": "Forty-two."}


async def test_questions_without_an_answer_join_the_next(page: Page) -> None:
    """Chat templates want the two sides to take turns."""
    refused = 503, json.dumps({"error": {"message": "x", "type": "x", "code": "queue_full"}}).encode()
    asked = await fake_completions(page, refused, text_completion("Both."))
    await send_message(page, "One?")
    await expect(conversation_log(page).get_by_role("alert")).to_be_visible()
    await send_message(page, "Two?")
    await expect(conversation_log(page)).to_contain_text("Both.")
    assert asked.requests[1]["messages"] == [{"role": "user", "content": "One?\n\nTwo?"}]


async def test_figures_and_the_limit_of_tokens(page: Page) -> None:
    ends = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    usage = {"prompt_tokens": 31, "completion_tokens": 4}
    last = {"choices": [], "usage": usage, "timings": {"predicted_per_second": 12.34}}
    await fake_completions(page, sse_completion(delta_chunk(content="And then"), ends, last))
    await send_message(page, "Go on")
    await expect(conversation_log(page).get_by_text("12.3 tokens/s", exact=True)).to_be_visible()
    await expect(conversation_log(page)).to_contain_text("31 prompt tokens")
    await expect(conversation_log(page)).to_contain_text("4 completion tokens")
    await expect(conversation_log(page)).to_contain_text("Stopped at the token limit.")


async def test_the_command_and_the_script_say_what_the_page_would(
    talker: RunningBalancer, visitors: VisitorFactory
) -> None:
    key = await talker.create_key("inference")
    visitor = await visitors(talker)
    await visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await visitor.open("/playground")
    await page.get_by_role("button", name="Parameters").click()
    for name, value in {"System prompt": SYSTEM, "Max tokens": "5", "Top K": "7"}.items():
        await panel(page).get_by_role("textbox", name=name).fill(value)
    await message_box(page).fill(QUESTION)

    await page.get_by_role("button", name="Copy as curl").click()
    command = str(await page.evaluate("navigator.clipboard.readText()"))
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command.replace("sk-your-api-key", key), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(ENGINE_DEADLINE_MS / 1000):
        output, _ = await process.communicate()
    answer = json.loads(output)
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] <= 5

    await page.get_by_role("button", name="Copy as Python").click()
    sent = asked_by(str(await page.evaluate("navigator.clipboard.readText()")))
    assert sent["base_url"] == f"{talker.url}/v1"
    assert (sent["model"], sent["max_tokens"], sent["extra_body"]) == ("chat", 5, {"top_k": 7})
    assert sent["messages"] == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
    ]


def asked_by(script: str) -> dict[str, Any]:
    """What a copied script asks; a client that only notes it stands in the place of OpenAI's."""
    sent: dict[str, Any] = {}

    class Recorder:
        def __init__(self, **options: Any) -> None:
            sent.update(options)
            self.chat = self.completions = self

        def create(self, **request: Any) -> list[Any]:
            sent.update(request)
            return []

    exec(script.replace("from openai import OpenAI", ""), {"OpenAI": Recorder})  # noqa: S102  # our own text
    return sent


# --- typing ------------------------------------------------------------------------------------------


async def test_an_answer_can_be_had_by_keyboard_alone(page: Page) -> None:
    await fake_completions(page, text_completion("First."), text_completion("Second."))
    await message_box(page).focus()
    await page.keyboard.type("One")
    await page.keyboard.press("Enter")
    await expect(conversation_log(page)).to_contain_text("First.")
    # An answer has buttons once its end has been received.
    await expect(conversation_log(page).get_by_role("button", name="Regenerate")).to_be_visible()
    await expect(message_box(page)).to_be_focused()
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Shift+Tab")
    await expect(conversation_log(page).get_by_role("button", name="Regenerate")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(conversation_log(page)).to_contain_text("Second.")
    await expect(conversation_log(page)).not_to_contain_text("First.")
    await expect(page.get_by_role("status").filter(has_text="Answer complete.")).to_have_count(1)


async def test_a_question_is_rewritten_and_the_draft_waits(page: Page) -> None:
    asked = await fake_completions(
        page, text_completion("Old"), text_completion("Later"), text_completion("New")
    )
    await send_message(page, "Question one")
    await expect(conversation_log(page)).to_contain_text("Old")
    await send_message(page, "Question two")
    await expect(conversation_log(page)).to_contain_text("Later")
    await message_box(page).fill("not sent yet")
    edit = conversation_log(page).get_by_role("button", name="Edit").first
    await edit.click()
    await expect(message_box(page)).to_have_value("Question one")
    await page.keyboard.press("Escape")
    await expect(message_box(page)).to_have_value("not sent yet")
    await edit.click()
    await expect(message_box(page)).to_have_value("Question one")
    await send_message(page, "Question anew")
    await expect(conversation_log(page)).to_contain_text("New")
    await expect(conversation_log(page)).not_to_contain_text("Question two")
    await expect(message_box(page)).to_have_value("not sent yet")
    assert asked.requests[-1]["messages"] == [{"role": "user", "content": "Question anew"}]
    await conversation_log(page).get_by_role("button", name="Previous version").click()
    await expect(conversation_log(page)).to_contain_text("Later")


async def test_the_document_is_as_high_as_the_window(page: Page) -> None:
    await fake_completions(page, *(text_completion("Line\n\n" * 30) for _ in range(4)))
    for number in range(4):
        await send_message(page, f"Question {number}")
        await expect(conversation_log(page).locator(".message-footer")).to_have_count(2 * number + 2)
    assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight")


async def test_try_on_a_model_begins_a_conversation(page: Page, talker: RunningBalancer) -> None:
    await fake_completions(page, text_completion("About cats"))
    await send_message(page, "Tell me of cats")
    await expect(conversation_log(page)).to_contain_text("About cats")
    await page.goto(f"{talker.url}/playground?model=chat")
    await expect(page.get_by_role("heading", name="Chat with Chatterbox")).to_be_visible()
    await expect(page).to_have_url(f"{talker.url}/playground")
    await conversation_list(page).get_by_role("button", name="Tell me of cats").first.click()
    await page.reload()
    await expect(conversation_log(page)).to_contain_text("About cats")


async def test_an_idea_becomes_the_draft(page: Page) -> None:
    idea = "Explain in simple words how a language model works."
    await conversation_log(page).get_by_role("button", name=idea).click()
    await expect(message_box(page)).to_have_value(idea)
    await expect(message_box(page)).to_be_focused()


async def test_files_that_are_dropped_do_not_take_the_page_away(
    talker: RunningBalancer, visitors: VisitorFactory
) -> None:
    await talker.pull_model("seer")
    page = await (await visitors(talker)).open("/playground?model=seer")
    await drop_picture(page)
    picture = page.get_by_role("img", name="Image 1")
    await expect(picture).to_be_visible()
    assert await picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 1536
    await page.get_by_role("button", name="Remove image 1").click()
    await expect(picture).to_have_count(0)
    await page.get_by_label("Attach images").set_input_files(
        {"name": "notes.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"}
    )
    await expect(page.get_by_role("alert")).to_contain_text("Can't attach notes.pdf.")
    await page.get_by_role("combobox", name="Model").select_option("chat")
    await drop_picture(page)
    await expect(page.get_by_role("alert")).to_contain_text("This model doesn't support images.")


async def drop_picture(page: Page) -> None:
    """3,000 pixels wide, from the desktop."""
    taken = await conversation_log(page).evaluate("""async (element) => {
          const canvas = new OffscreenCanvas(3000, 10);
          canvas.getContext('2d').fillRect(0, 0, 3000, 10);
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([await canvas.convertToBlob()], 'dropped.png', { type: 'image/png' }));
          const init = { dataTransfer, bubbles: true, cancelable: true };
          return ['dragover', 'drop'].map((type) => !element.dispatchEvent(new DragEvent(type, init)));
        }""")
    assert taken == [True, True]


# --- reading -----------------------------------------------------------------------------------------


async def test_only_who_is_at_the_end_is_kept_there(page: Page) -> None:
    long = "\n\n".join(f"Paragraph {number}" for number in range(80))
    await fake_completions(page, text_completion(long), text_completion(f"{long}\n\nReally the end"))
    end = page.get_by_role("button", name="Scroll to bottom")
    await send_message(page, "Write a lot")
    await expect(conversation_log(page).get_by_text("Paragraph 79")).to_be_in_viewport()
    await conversation_log(page).hover()
    await page.mouse.wheel(0, -40)
    await expect(end).to_be_visible()
    await end.click()
    await expect(end).to_have_count(0)
    await page.mouse.wheel(0, -1000)
    await expect(end).to_be_visible()
    await send_message(page, "And more")
    await expect(conversation_log(page).get_by_text("Really the end")).to_be_in_viewport()


async def test_a_phone(talker: RunningBalancer, visitors: VisitorFactory) -> None:
    visitor: Visitor = await visitors(talker, viewport={"width": 360, "height": 740})
    page = await visitor.open("/playground")
    code = "very_long_name = " * 20
    await fake_completions(
        page, text_completion(f"```python\n{code}\n```\n\n| a | b |\n|---|---|\n| {'wide' * 40} | 2 |")
    )
    await send_message(page, "Hello" * 30)
    await expect(page.get_by_role("button", name="Copy code")).to_be_visible()
    for name in ("Conversations", "Parameters"):
        drawer = page.get_by_role("region", name=name, exact=True)
        await expect(drawer).to_have_count(0)
        await page.get_by_role("button", name=name, exact=True).click()
        await expect(drawer).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        await page.keyboard.press("Escape")
        await expect(drawer).to_have_count(0)
    await expect(message_box(page)).to_be_in_viewport(ratio=1)
    for link in await page.get_by_role("navigation").get_by_role("link").all():
        await expect(link).to_be_in_viewport()
