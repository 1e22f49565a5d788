"""What a person does with llb, from the first login to the last deletion: the quick start's walk, and its
accidents.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.async_api import Page, WebSocketRoute, expect

from e2e.conftest import ENGINE_DEADLINE_MS, Visitor, VisitorFactory, async_fixture
from e2e.shop import CATALOG, SMOLLM2, SMOLLM2_NAME, add_catalog_repositories, model_card, save_screenshot
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import PASSWORD, RunningBalancer
from tests.hub import HubStandIn

# Notes every value that a progress bar of the page ever shows, in order.
WATCH_PROGRESS = """() => {
  window.shown = [];
  const look = () => {
    const bar = document.querySelector('article [role=progressbar]');
    const value = bar?.getAttribute('aria-valuenow');
    if (value != null && value !== window.shown.at(-1)) window.shown.push(value);
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


@async_fixture()
async def shop(make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path) -> RunningBalancer:
    """The shipped catalogue; SmolLM2 can really be pulled."""
    add_catalog_repositories(hub, smollm2)
    llb = await make_llb(catalog=CATALOG, context=2048, memory_limit_bytes=16_000_000_000).start()
    await llb.wait_until_online()
    return llb


def at_percent(percent: int, size_bytes: int = TINY_BYTES) -> int:
    return size_bytes * percent // 100


async def watched(page: Page) -> list[int]:
    return [int(value) for value in await page.evaluate("window.shown")]


async def test_the_quick_start(
    shop: RunningBalancer, hub: HubStandIn, smollm2: Path, visitors: VisitorFactory
) -> None:
    size = smollm2.stat().st_size
    visitor = await visitors(shop, signed_in=False)
    page = await visitor.open()
    await expect(page.get_by_label("Username")).to_be_focused()
    await save_screenshot(page, "login")
    await page.get_by_label("Username").fill("admin")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()

    await page.get_by_role("navigation").get_by_role("link", name="Models").click()
    await expect(page.get_by_role("tab", name="Model Hub")).to_have_attribute("aria-selected", "true")
    model = model_card(page, SMOLLM2_NAME)
    await expect(model).to_contain_text("98.4 MB")
    await expect(model).to_contain_text("Fits")
    await expect(page.get_by_role("article")).to_have_count(47)
    await save_screenshot(page, "hub")

    stalled = hub.faults.stall(after=at_percent(45, size))
    await model.get_by_role("button", name="Pull").click()
    progress = model.get_by_role("progressbar")
    await expect(progress).to_have_attribute("aria-valuenow", re.compile("4[0-5]"))
    await expect(model).to_contain_text(re.compile(r"4[0-5]%"))
    await save_screenshot(page, "pull")
    stalled.clear()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()
    await expect(model).to_contain_text("Ready")

    await page.get_by_role("tab", name="Local").click()
    await expect(page.get_by_role("article")).to_have_count(1)
    await expect(model_card(page, SMOLLM2_NAME)).to_contain_text("98.4 MB")

    await model_card(page, SMOLLM2_NAME).get_by_role("button", name="Chat").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
    # Without a limit, a small model may go on to the end of its context, for minutes on a busy machine.
    await page.get_by_role("button", name="Parameters").click()
    await page.get_by_role("textbox", name="Max tokens").fill("48")
    await page.get_by_role("button", name="Parameters").click()
    await page.get_by_role("textbox", name="Message").fill("Write three short sentences about the sea.")
    await page.get_by_role("button", name="Send").click()
    # The speed alone would not say that the answer has ended: it is shown while the answer is generated, too.
    figures = page.get_by_role("list", name=f"Performance of {SMOLLM2}")
    await expect(figures).to_contain_text(re.compile(r"\d+\.\d tokens/s"), timeout=ENGINE_DEADLINE_MS)
    await save_screenshot(page, "playground")

    assert (await shop.http.post("/api/keys", json={"name": "laptop", "scopes": ["inference"]})).is_success
    for section in ("Nodes", "Requests", "Access", "Settings"):
        await page.get_by_role("navigation").get_by_role("link", name=section).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(section)
        if section != "Nodes":  # of several machines, in test_peers
            await save_screenshot(page, section.lower())

    await page.get_by_role("navigation").get_by_role("link", name="Models").click()
    await page.get_by_role("tab", name="Local").click()
    row = model_card(page, SMOLLM2_NAME)
    await expect(row).to_contain_text("Loaded")
    await save_screenshot(page, "local")
    await row.get_by_role("button", name="Unload").click()
    await expect(row).to_contain_text("Not loaded")

    await row.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(f"Delete {SMOLLM2_NAME}?")
    await expect(dialog).to_contain_text("98.4 MB")
    await save_screenshot(page, "delete")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("article")).to_have_count(0)
    await expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    assert not list((shop.home / "models").rglob("*.gguf"))

    await page.get_by_role("tab", name="Model Hub").click()
    await expect(model_card(page, SMOLLM2_NAME).get_by_role("button", name="Pull")).to_be_visible()


async def test_an_error_says_why_and_retry_mends_it(hub: HubStandIn, visitor: Visitor) -> None:
    corrupt = hub.faults.corrupt()
    page = await visitor.open()
    model = model_card(page, "tiny")
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("alert")).to_contain_text("sha256")
    await expect(model).to_contain_text("Error")
    await save_screenshot(page, "error")
    corrupt.clear()
    await model.get_by_role("button", name="Retry").click()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()
    await expect(model.get_by_role("alert")).to_have_count(0)


async def test_a_pull_is_cancelled_at_40_per_cent_and_goes_on_from_there(
    llb: RunningBalancer, hub: HubStandIn, visitor: Visitor
) -> None:
    stalled = hub.faults.stall(after=at_percent(40))
    page = await visitor.open()
    model = model_card(page, "tiny")
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("39|40"))
    await save_screenshot(page, "cancel")
    await model.get_by_role("button", name="Cancel").click()
    await expect(model.get_by_role("button", name="Pull")).to_be_visible()
    await expect(model.get_by_role("progressbar")).to_have_count(0)
    stalled.clear()
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()
    assert (hub.byte_requests()[-1].range_start or 0) > 0


async def test_a_model_that_fits_nowhere_is_refused_with_the_numbers(visitor: Visitor) -> None:
    page = await visitor.open()
    model = model_card(page, "giant")
    await expect(model).to_contain_text("Doesn't fit")
    await expect(model).to_contain_text("needs 16 TB of memory")
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("alert")).to_contain_text("Needs 16 TB of memory; the largest node offers")


async def test_the_server_restarts_in_mid_pull_under_an_open_page(
    llb: RunningBalancer, hub: HubStandIn, visitor: Visitor
) -> None:
    stalled = hub.faults.stall(after=at_percent(50))
    page = await visitor.open()
    model = model_card(page, "tiny")
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("49|50"))
    await page.evaluate(WATCH_PROGRESS)
    await llb.stop()
    await expect(page.get_by_text("Connection lost")).to_be_visible()
    await expect(model.get_by_role("progressbar")).to_be_visible()
    await save_screenshot(page, "restart")
    await llb.start(llb.port)
    await expect(page.get_by_text("Connection lost")).to_have_count(0)
    stalled.clear()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()
    shown = await watched(page)
    assert shown == sorted(shown), shown


async def test_a_cut_websocket_is_told_and_mended(
    llb: RunningBalancer, hub: HubStandIn, visitor: Visitor
) -> None:
    page = await visitor.context.new_page()
    sockets: list[WebSocketRoute] = []
    cut = False

    async def route(socket: WebSocketRoute) -> None:
        if cut:
            await socket.close()
        else:
            sockets.append(socket)
            socket.connect_to_server()

    await page.route_web_socket("**/ws/models", route)
    await page.goto(llb.url)
    await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    cut = True
    await sockets[-1].close()
    await expect(page.get_by_text("Connection lost")).to_be_visible()
    # Changes in the meantime are shown, although their events were missed.
    await llb.pull_model("tiny")
    await expect(model_card(page, "tiny").get_by_role("button", name="Pull")).to_be_visible()
    await save_screenshot(page, "cut")
    cut = False
    # It may also have come back by itself at this moment, and then there is nothing to press.
    back = page.get_by_text("Connected", exact=True)
    await page.get_by_role("button", name="Reconnect now").or_(back).first.click()
    await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    await expect(model_card(page, "tiny").get_by_role("button", name="Chat")).to_be_visible()


async def test_two_browsers_see_the_same(
    llb: RunningBalancer, hub: HubStandIn, visitors: VisitorFactory
) -> None:
    one, other = await visitors(llb), await visitors(llb)
    left, right = await one.open(), await other.open()
    stalled = hub.faults.stall(after=at_percent(60))
    await model_card(left, "tiny").get_by_role("button", name="Pull").click()
    for page in (left, right):
        progress = model_card(page, "tiny").get_by_role("progressbar")
        await expect(progress).to_have_attribute("aria-valuenow", re.compile("59|60"))
    await save_screenshot(right, "two-browsers")
    stalled.clear()
    await expect(model_card(right, "tiny").get_by_role("button", name="Chat")).to_be_visible()
    await right.get_by_role("tab", name="Local").click()
    await expect(model_card(right, "tiny")).to_be_visible()
    await left.get_by_role("tab", name="Local").click()
    await model_card(left, "tiny").get_by_role("button", name="Delete").click()
    await left.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(model_card(right, "tiny")).to_have_count(0)


async def test_the_keyboard_alone_is_enough(
    llb: RunningBalancer, hub: HubStandIn, visitors: VisitorFactory
) -> None:
    visitor = await visitors(llb, signed_in=False)
    page = await visitor.open()
    press = page.keyboard.press
    # The browser moves the focus with the next frame.
    await expect(page.get_by_label("Username")).to_be_focused()
    await page.keyboard.type("admin")
    await press("Tab")
    await page.keyboard.type(PASSWORD)
    await press("Enter")
    await expect(model_card(page, "tiny")).to_be_visible()

    await expect(page.get_by_role("heading", level=1)).to_be_focused()

    await page.reload()
    await expect(model_card(page, "tiny")).to_be_visible()
    await press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await press("Enter")
    await tab_to(page, "button", "Pull")
    stalled = hub.faults.stall(after=at_percent(30))
    await press("Enter")
    model = model_card(page, "tiny")
    await expect(model.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("29|30"))
    # The button is gone; the focus is still where the person was.
    await expect(model).to_be_focused()
    await save_screenshot(page, "keyboard")
    stalled.clear()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()

    await page.get_by_role("tab", name="Model Hub").focus()
    await press("ArrowRight")
    await expect(page.get_by_role("tab", name="Local")).to_be_focused()
    await expect(page.get_by_role("tab", name="Local")).to_have_attribute("aria-selected", "true")
    await tab_to(page, "button", "Delete")
    await press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(model_card(page, "tiny").get_by_role("button", name="Delete")).to_be_focused()
    await press("Enter")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await press("Tab")
    await press("Enter")
    await expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


async def tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until the element called `name` has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        found = await page.evaluate("(name) => document.activeElement?.textContent.trim() === name", name)
        if found:
            return
    raise AssertionError(f"Tab never reaches the {role} {name!r}")
