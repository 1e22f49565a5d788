"""Fake answers, for output that a real engine cannot be made to generate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Locator, Page, Route

from e2e.conftest import async_fixture, llb_of
from llb.errors import error_from_code
from llb.gateway.inference_call import ClientSink, InferenceCall
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

STOP_CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

FakeCompletion = tuple[int, bytes]


def delta_chunk(**fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def sse_completion(*chunks: dict[str, Any], done: bool = True) -> FakeCompletion:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return 200, "".join([*lines, *(["data: [DONE]\n\n"] if done else [])]).encode()


def text_completion(text: str) -> FakeCompletion:
    return sse_completion(delta_chunk(content=text), STOP_CHUNK)


class FakeCompletions:
    """Replaces the dispatcher: returns its answers in turn, and records the requests."""

    def __init__(self, answers: Sequence[FakeCompletion]) -> None:
        self.remaining = list(answers)
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, call: InferenceCall, sink: ClientSink) -> None:
        self.requests.append(json.loads(call.body))
        status, body = self.remaining.pop(0)
        if status != 200:
            error = json.loads(body)["error"]
            details = {name: error[name] for name in error.keys() - {"message", "code", "type"}}
            raise error_from_code(error["code"], error["message"], details, None)
        sink.start_response(200, b"text/event-stream", node_name="attic", queued_ms=0)
        await sink.write(body)


async def fake_completions(page: Page, *answers: FakeCompletion) -> FakeCompletions:
    """Answer what the llb of `page` is asked from now on."""
    made = FakeCompletions(answers)
    setattr(llb_of(page).app.gateway.dispatcher, "dispatch", made)  # noqa: B010  # not for the product
    return made


# More tokens than a paced engine writes before the time limit of a test.
ENDLESS_TOKENS = 100_000


async def keep_answering(page: Page) -> None:
    """A paced engine generates until it is stopped; otherwise it ends after a few words."""

    async def ask_for_more(route: Route) -> None:
        body = route.request.post_data_json or {}
        request = {**body["request"], "max_tokens": ENDLESS_TOKENS}
        await route.continue_(post_data={**body, "request": request})

    await page.route("**/answers", ask_for_more)


# --- the Playground as a person sees it --------------------------------------------------------------


def message_box(page: Page) -> Locator:
    """Where a message is typed."""
    return page.get_by_role("textbox", name="Message")


def conversation_log(page: Page) -> Locator:
    return page.get_by_role("log")


async def send_message(page: Page, text: str) -> None:
    await message_box(page).fill(text)
    await page.get_by_role("button", name="Send", exact=True).click()


@async_fixture()
async def talker(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """`chat` is Ready and answers with random text; `seer`, which is not pulled, claims to read images."""
    size = chat_gguf.stat().st_size
    for name in ("chat", "seer"):
        hub.add_repo(f"test/{name}", {f"{name}.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "talker.json",
        {"id": "chat", "name": "Chatterbox", "size_bytes": size},
        {
            "id": "seer",
            "name": "Seer",
            "size_bytes": size,
            "capabilities": ["TextGeneration", "ImageUnderstanding"],
        },
    )
    llb = await make_llb(catalog=catalog, context=2048).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


def conversation_list(page: Page) -> Locator:
    return page.get_by_role("region", name="Conversations")


async def choose_action(page: Page, title: str, action: str) -> None:
    await conversation_list(page).get_by_role("button", name=f"Actions for {title}").click()
    await conversation_list(page).get_by_role("button", name=action).click()
