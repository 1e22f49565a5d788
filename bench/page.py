"""The page in Chromium: `python -m bench.page`. Transfer size, load time, and the cost of updates.

The real server in this process, on loopback, with a catalogue of 500 models; each figure uses a new
browser profile.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from playwright.async_api import Browser, BrowserContext, CDPSession, Page, async_playwright

from e2e.conftest import CHROMIUM_ARGUMENTS, chromium_path
from e2e.shop import CATALOG
from llb.policy.status import DerivedStatus
from llb.wire import ModelStatus, ModelStatusChanged
from tests.harness import PASSWORD, RunningBalancer, write_catalog

MODEL_COUNT = 500
PAGE_LOADS = 10
EVENTS_PER_S, EVENTS_DURATION_S, EVENT_BATCH_INTERVAL_S = 1000, 10.0, 0.01
DOWNLOADING_MODEL_COUNT = 100  # models that are being pulled at the same time
BROWSER_SETTLE_S = (
    2.5  # in a new window Chromium loads an interface of its own, which takes a core for two seconds
)
ROUTE_CHANGES = 200
CONVERSATION_MESSAGES, TYPED_KEYS = 600, 60
SECTIONS = ("Playground", "Nodes", "Requests", "Access", "Settings", "Models")

# Notes when the first card is painted and the thread is free again.
READY_SCRIPT = """
window.ready = new Promise((done) => {
  const look = new MutationObserver(() => {
    if (!document.querySelector('article')) return;
    look.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now())));
  });
  look.observe(document, { subtree: true, childList: true });
});
"""
# Milliseconds from a key's event to the end of the frame that shows its effect, for each text.
FILTER_SCRIPT = """async (texts) => {
  const field = document.querySelector('input[type=search]');
  const took = [];
  for (const text of texts) {
    field.value = text;
    const began = performance.now();
    field.dispatchEvent(new InputEvent('input', { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    took.push(performance.now() - began);
  }
  return took;
}"""
# Milliseconds that the thread works for each key: its event, then the frame that shows the letter.
TYPING_SCRIPT = """async (keys) => {
  const field = document.querySelector('.composer textarea');
  field.focus();
  const took = [];
  for (let key = 0; key < keys; key += 1) {
    const began = performance.now();
    document.execCommand('insertText', false, 'x');
    const typed = performance.now();
    const frame = await new Promise((done) => requestAnimationFrame(() => done(performance.now())));
    await new Promise((done) => setTimeout(done));
    took.push(typed - began + performance.now() - frame);
  }
  return took;
}"""
FRAME_WATCH_SCRIPT = """() => {
  window.frames_ = [];
  window.longTasks = [];
  let last = performance.now();
  const frame = (now) => { window.frames_.push(now - last); last = now; window.going = requestAnimationFrame(frame); };
  window.going = requestAnimationFrame((now) => { last = now; requestAnimationFrame(frame); });
  new PerformanceObserver((list) => list.getEntries().forEach((each) => window.longTasks.push(each.duration)))
    .observe({ entryTypes: ['longtask'] });
}"""


def write_large_catalog(directory: Path, count: int) -> Path:
    return write_catalog(
        directory / f"{count}.json",
        *(
            {
                "id": f"model-{number}",
                "name": f"Model {number}",
                "description": f"Number {number} of a long list, good at {'code' if number % 3 else 'talk'}",
                "size_bytes": 1_000_000_000 + number,
                "tags": ["chat", "coding" if number % 3 else "small"],
                "quantization": "Q4_K_M",
                "parameter_count": f"{number % 70}B",
                "context_length": 32768,
            }
            for number in range(count)
        ),
    )


@asynccontextmanager
async def run_balancer(directory: Path, catalog: Path) -> AsyncIterator[RunningBalancer]:
    home = directory / f"home-{catalog.stem}"
    async with RunningBalancer(
        home, catalog=catalog, admin_password=PASSWORD, hub_endpoint="http://127.0.0.1:9"
    ) as llb:
        await llb.wait_until_online()
        yield llb


async def sign_in(browser: Browser, llb: RunningBalancer) -> BrowserContext:
    context = await browser.new_context(viewport={"width": 1280, "height": 860})
    answer = await context.request.post(
        f"{llb.url}/api/auth/login", data={"username": "admin", "password": PASSWORD}
    )
    assert answer.ok
    return context


async def measure_weight(browser: Browser, llb: RunningBalancer) -> list[str]:
    """Return the compressed bytes from the login to the first cards, including headers."""
    context = await browser.new_context()
    page = await context.new_page()
    session = await context.new_cdp_session(page)
    await session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    await page.goto(llb.url)
    await page.get_by_label("Username").fill("admin")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("article").first.wait_for()
    await context.close()
    return [f"first load, login and hub (47 models): {sum(sizes) / 1000:.0f} kB in {len(sizes)} answers"]


async def measure_readiness(browser: Browser, llb: RunningBalancer) -> list[str]:
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(PAGE_LOADS):
        context = await sign_in(browser, llb)
        page = await context.new_page()
        await page.add_init_script(READY_SCRIPT)
        await asyncio.sleep(BROWSER_SETTLE_S)
        for found in (cold, warm):
            await page.goto(f"{llb.url}/models")
            found.append(float(await page.evaluate("window.ready")))
        await context.close()
    return [
        f"interactive, {name} cache (47 models): {statistics.median(found):.0f} ms"
        f" ({min(found):.0f}-{max(found):.0f})"
        for name, found in (("cold", cold), ("warm", warm))
    ]


async def open_models_page(browser: Browser, llb: RunningBalancer) -> Page:
    page = await (await sign_in(browser, llb)).new_page()
    await page.goto(f"{llb.url}/models")
    await page.get_by_role("article").first.wait_for()
    return page


async def measure_filtering(browser: Browser, llb: RunningBalancer) -> list[str]:
    page = await open_models_page(browser, llb)
    texts = ["m", "model 4", "model 49", "model 499", "", "code", "c", "", "talk", "nothing at all", ""] * 3
    took = await page.evaluate(FILTER_SCRIPT, texts)
    await page.context.close()
    return [
        f"filter of {MODEL_COUNT} models: {statistics.median(took):.0f} ms (worst of {len(took)}:"
        f" {max(took):.0f})"
    ]


async def measure_typing(browser: Browser, llb: RunningBalancer) -> list[str]:
    """A long conversation in the Playground: how long it takes to open, and what a key costs."""
    context = await sign_in(browser, llb)
    messages = [
        {
            "id": f"m{at}",
            "parent_id": f"m{at - 1}" if at else None,
            "role": "assistant" if at % 2 else "user",
            "text": f"Message {at}: **bold** and `code`.\n\n- one\n- two\n\n```python\nprint({at})\n```",
        }
        for at in range(CONVERSATION_MESSAGES)
    ]
    body = {"conversations": [{"id": "long", "title": "Long", "messages": messages}]}
    answer = await context.request.post(f"{llb.url}/api/conversations/import", data=body)
    assert answer.ok, await answer.text()
    page = await context.new_page()
    await page.goto(f"{llb.url}/playground")
    entry = page.locator(".conversation-open")
    await entry.wait_for()
    began = asyncio.get_running_loop().time()
    await entry.click()
    await page.get_by_text(f"Message {CONVERSATION_MESSAGES - 1}:").wait_for()
    opened_s = asyncio.get_running_loop().time() - began
    took = await page.evaluate(TYPING_SCRIPT, TYPED_KEYS)
    await context.close()
    return [
        f"conversation of {CONVERSATION_MESSAGES} messages: opened in {opened_s * 1000:.0f} ms, a key takes"
        f" {statistics.median(took):.0f} ms (worst of {len(took)}: {max(took):.0f})"
    ]


@dataclass
class DownloadState:
    share: float = 0.0


@contextmanager
def downloading(llb: RunningBalancer, total_bytes: int) -> Iterator[DownloadState]:
    """The API says of the models that are being pulled what the events say, without a network to pull from."""
    view = llb.app.cluster.view
    state = DownloadState()
    ids = {f"model-{number}" for number in range(DOWNLOADING_MODEL_COUNT)}
    real_status_of = view.status_of

    def status_of(model_id: str) -> DerivedStatus:
        if model_id not in ids:
            return real_status_of(model_id)
        return DerivedStatus(
            status=ModelStatus.DOWNLOADING,
            progress=state.share,
            downloaded_bytes=int(total_bytes * state.share),
            total_bytes=total_bytes,
            bytes_per_second=total_bytes / EVENTS_DURATION_S,
        )

    with patch.object(view, "status_of", status_of):
        yield state


async def measure_progress_flood(browser: Browser, llb: RunningBalancer) -> list[str]:
    total = 1_000_000_000
    with downloading(llb, total) as state:
        return await _measure_progress_flood(browser, llb, total, state)


async def _measure_progress_flood(
    browser: Browser, llb: RunningBalancer, total: int, state: DownloadState
) -> list[str]:
    page = await open_models_page(browser, llb)
    await page.evaluate(FRAME_WATCH_SCRIPT)
    sent = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (passed := loop.time() - began) < EVENTS_DURATION_S:
        share = state.share = passed / EVENTS_DURATION_S
        while sent < passed * EVENTS_PER_S:
            llb.app.base.event_bus.publish(
                ModelStatusChanged(
                    model_id=f"model-{sent % DOWNLOADING_MODEL_COUNT}",
                    status=ModelStatus.DOWNLOADING,
                    progress=share,
                    downloaded_bytes=int(total * share),
                    total_bytes=total,
                    bytes_per_second=total / EVENTS_DURATION_S,
                )
            )
            sent += 1
        await asyncio.sleep(EVENT_BATCH_INTERVAL_S)
    shown = await page.locator("article [role=progressbar]").first.get_attribute("aria-valuenow")
    assert shown is not None
    assert int(shown) > 90, shown
    frames = await page.evaluate("window.frames_")
    tasks = await page.evaluate("window.longTasks")
    await page.context.close()
    return [
        f"{sent} progress events in {EVENTS_DURATION_S:.0f} s, {MODEL_COUNT} cards: longest frame"
        f" {max(frames):.0f} ms (median {statistics.median(frames):.0f}), tasks over 50 ms: {len(tasks)}"
    ]


async def measure_leaks(browser: Browser, llb: RunningBalancer) -> list[str]:
    page = await open_models_page(browser, llb)
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    await change_routes(page, 2 * len(SECTIONS))  # modules that are loaded once are loaded now
    before = await heap_metrics(session)
    await change_routes(page, ROUTE_CHANGES)
    after = await heap_metrics(session)
    await page.context.close()
    return [
        f"{ROUTE_CHANGES} route changes: "
        + ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f}" for name in before)
    ]


async def change_routes(page: Page, changes: int) -> None:
    navigation = page.get_by_role("navigation")
    for number in range(changes):
        section = SECTIONS[number % len(SECTIONS)]
        await navigation.get_by_role("link", name=section, exact=True).click()
        await page.get_by_role("heading", level=1, name=section).wait_for()
    # Ends where it began, so that the same page is shown.
    await navigation.get_by_role("link", name="Models", exact=True).click()
    await page.get_by_role("article").first.wait_for()


async def heap_metrics(session: CDPSession) -> dict[str, float]:
    for _ in range(3):
        await session.send("HeapProfiler.collectGarbage")
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    values = {each["name"]: float(each["value"]) for each in metrics}
    return {
        "listeners": values["JSEventListeners"],
        "DOM nodes": values["Nodes"],
        "heap kB": values["JSHeapUsedSize"] / 1000,
    }


Measurement = Callable[[Browser, RunningBalancer], Coroutine[Any, Any, list[str]]]


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        rounds: list[tuple[Path, list[Measurement]]] = [
            (CATALOG, [measure_weight, measure_readiness, measure_typing]),
            (
                write_large_catalog(directory, MODEL_COUNT),
                [measure_filtering, measure_progress_flood, measure_leaks],
            ),
        ]
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=chromium_path(), args=list(CHROMIUM_ARGUMENTS)
            )
            for catalog, measures in rounds:
                async with run_balancer(directory, catalog) as llb:
                    for measure in measures:
                        print(*(await measure(browser, llb)), sep="\n", flush=True)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
