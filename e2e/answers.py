"""Answers in the place of an engine's, for what a real one cannot be made to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Locator, Page, Route

from e2e.conftest import async_fixture
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

COMPLETIONS = "**/v1/chat/completions"
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
    """Gives its answers in turn, and keeps what was asked."""

    def __init__(self, answers: Sequence[FakeCompletion]) -> None:
        self.remaining = list(answers)
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, route: Route) -> None:
        self.requests.append(json.loads(route.request.post_data or "{}"))
        status, body = self.remaining.pop(0)
        kind = "text/event-stream" if status == 200 else "application/json"
        await route.fulfill(status=status, body=body, content_type=kind)


async def fake_completions(page: Page, *answers: FakeCompletion) -> FakeCompletions:
    made = FakeCompletions(answers)
    await page.route(COMPLETIONS, made)
    return made


# --- the Playground as a person sees it --------------------------------------------------------------


def message_box(page: Page) -> Locator:
    """Where a message is typed."""
    return page.get_by_role("textbox", name="Message")


def conversation_log(page: Page) -> Locator:
    return page.get_by_role("log")


async def send_message(page: Page, text: str) -> None:
    await message_box(page).fill(text)
    await page.get_by_role("button", name="Send").click()


@async_fixture()
async def talker(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """`chat` talks nonsense at once and is Ready; `seer`, which is not pulled, is said to see."""
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
