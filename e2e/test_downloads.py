"""Downloads that a person controls, and the options with which a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.async_api import expect

from e2e.conftest import ENGINE_DEADLINE_MS, Visitor, VisitorFactory, async_fixture
from e2e.shop import model_card, save_screenshot
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.ggufs import write_chat_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn, tiny_gguf


async def test_a_cancelled_download_is_paused_and_can_be_discarded(
    llb: RunningBalancer, hub: HubStandIn, visitor: Visitor
) -> None:
    stalled = hub.faults.stall(after=TINY_BYTES * 4 // 10)
    page, nodes = await visitor.open(), await visitor.open("/nodes")
    model = model_card(page, "tiny")
    await model.get_by_role("button", name="Pull").click()
    await expect(model.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("39|40"))
    await page.get_by_role("tab", name="Local").click()
    await model.get_by_role("button", name="Cancel").click()
    await expect(model).to_contain_text("Paused at 40%")
    await expect(model).to_contain_text("120 kB kept on disk")
    await expect(page.locator("#live-region")).to_have_text("The download of tiny was cancelled.")
    await expect(nodes.get_by_role("main")).to_contain_text(re.compile(r"Unfinished\s+120 kB"))
    await save_screenshot(page, "paused")
    await model.get_by_role("button", name="Discard").click()
    await expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    await expect(nodes.get_by_role("main")).not_to_contain_text("Unfinished")
    assert not list((llb.home / "models").rglob("*.partial"))

    await page.get_by_role("tab", name="Model Hub").click()
    await model.get_by_role("button", name="Pull").click()
    # One that is cancelled before anything is on the disk is not paused.
    await expect(model.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("39|40"))
    await model.get_by_role("button", name="Cancel").click()
    await expect(model).to_contain_text("Paused at 40%")
    stalled.clear()
    await model.get_by_role("button", name="Resume").click()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()


async def test_queue_order_rate_limit_and_pause_all(
    make_llb: BalancerFactory, hub: HubStandIn, visitors: VisitorFactory, tmp_path: Path
) -> None:
    names = ("first", "second", "third")
    for name in names:
        hub.add_repo(f"test/{name}", {f"{name}.gguf": tiny_gguf(TINY_BYTES, seed=name)})
    catalog = write_catalog(
        tmp_path / "three.json", *({"id": name, "size_bytes": TINY_BYTES} for name in names)
    )
    llb = await make_llb(catalog=catalog, max_downloads=1).start()
    await llb.wait_until_online()
    hub.faults.stall(after=1000)
    # The first whose files are known takes the only place.
    await llb.register_model("first")
    await llb.wait_for_status("first", "Downloading")
    for name in ("second", "third"):
        await llb.register_model(name)
    page = await (await visitors(llb)).open()
    downloads = page.get_by_role("region", name="Downloads")
    await expect(downloads.get_by_role("heading", level=3)).to_have_text(["first", "second", "third"])
    await expect(model_card(page, "second").get_by_role("button", name="next")).to_have_count(0)
    await model_card(page, "third").get_by_role("button", name="Download third next").click()
    await expect(downloads.get_by_role("heading", level=3)).to_have_text(["first", "third", "second"])
    await downloads.get_by_role("combobox", name="Limit per node").select_option("5 MB/s")
    await wait_until(lambda: llb.app.cluster.download_settings.rate_limit == 5_000_000)
    assert llb.app.cluster.download_settings.order == ("third", "second")
    await page.reload()
    await expect(downloads.get_by_role("combobox", name="Limit per node")).to_have_value("5000000")
    await save_screenshot(page, "downloads")
    await downloads.get_by_role("button", name="Pause all").click()
    await expect(model_card(page, "first")).to_contain_text("Paused at 0%")
    await expect(downloads.get_by_role("button", name="Pause all")).to_have_count(0)


@async_fixture()
async def chat(make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path) -> RunningBalancer:
    """A small model that was trained for 8K tokens."""
    file = write_chat_model(tmp_path / "chat.gguf", context=8192)
    hub.add_repo("test/chat", {"chat.gguf": file})
    entry = {"id": "chat", "name": "Chatterbox", "size_bytes": file.stat().st_size, "context_length": 8192}
    llb = await make_llb(catalog=write_catalog(tmp_path / "chat.json", entry)).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    return llb


async def test_a_model_is_loaded_with_the_memory_that_was_announced(
    chat: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(chat)).open("/models/local")
    row = model_card(page, "Chatterbox")
    await expect(row).to_contain_text("Minimum memory")
    await expect(row).not_to_contain_text("Memory reserved")
    await row.get_by_role("button", name="Load…").click()
    dialog = page.get_by_role("dialog", name="Load Chatterbox")
    estimate = dialog.get_by_role("status")
    await expect(estimate).to_contain_text("4 × 8K tokens.")
    await dialog.get_by_label("Context per slot").select_option("2K tokens")
    await dialog.get_by_label("Slots").fill("2")
    await dialog.get_by_label("Unload after").select_option("Never")
    await expect(estimate).to_contain_text("2 × 2K tokens.")
    announced = re.search(r"Reserves (\S+ MB) of memory", await estimate.inner_text())
    assert announced is not None
    await save_screenshot(page, "load")
    await dialog.get_by_role("button", name="Load", exact=True).click()
    await expect(dialog).to_have_count(0)
    await expect(row.get_by_role("button", name="Unload")).to_be_visible(timeout=ENGINE_DEADLINE_MS)
    await expect(row).to_contain_text(re.compile(rf"Memory reserved\s*{announced[1]}\s*2 × 2K tokens"))
    await expect(row).to_contain_text("Memory in use")
    # The choice is still there.
    await row.get_by_role("button", name="Load…").click()
    await expect(dialog.get_by_label("Slots")).to_have_value("2")
    await expect(dialog.get_by_label("Unload after")).to_have_value("-1")
    await page.keyboard.press("Escape")
    pin = row.get_by_role("button", name="Keep loaded")
    await pin.click()
    await expect(pin).to_have_attribute("aria-pressed", "true")
    # It would be loaded again.
    await row.get_by_role("button", name="Unload").click()
    await expect(row).to_contain_text("Not loaded")
    await expect(pin).to_have_attribute("aria-pressed", "false")
    await expect(row.get_by_role("button", name="Load…")).to_be_visible()
    await pin.click()
    await expect(row.get_by_role("button", name="Unload")).to_be_visible(timeout=ENGINE_DEADLINE_MS)
