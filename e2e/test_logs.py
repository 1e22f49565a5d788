"""Log of a node on the page: filters, new lines as they come, and the way there."""

from __future__ import annotations

import logging

from playwright.async_api import expect

from e2e.conftest import VisitorFactory
from e2e.shop import save_screenshot
from tests.conftest import BalancerFactory

log = logging.getLogger("llb.e2e")


async def test_the_log_of_a_node(make_llb: BalancerFactory, visitors: VisitorFactory) -> None:
    llb = await make_llb(name="attic").start()
    await llb.wait_until_online()
    page = await (await visitors(llb)).open("/nodes")
    await page.get_by_role("link", name="Log", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Log of attic")
    await expect(page).to_have_title("Log of attic · llb")
    await expect(page.get_by_role("link", name="Nodes", exact=True).first).to_have_attribute(
        "aria-current", "page"
    )
    lines = page.get_by_role("region", name="Log lines")
    log.warning("an odd thing")
    await expect(lines.get_by_text("an odd thing")).to_be_visible()
    log.error("a bad thing")
    await expect(lines.get_by_text("a bad thing")).to_be_visible()
    await save_screenshot(page, "log")
    # The filters are part of the URL.
    await page.get_by_label("Severity").select_option("Errors")
    await expect(lines.get_by_text("an odd thing")).to_have_count(0)
    await expect(lines.get_by_text("a bad thing")).to_be_visible()
    # A new line does not take away what is being typed.
    search = page.get_by_label("Text or request ID")
    await search.fill("nothing has this")
    log.error("another bad thing")
    await expect(lines.get_by_text("another bad thing")).to_be_visible()
    await expect(search).to_have_value("nothing has this")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No lines match.")).to_be_visible()
    assert "level=error" in page.url
    await page.reload()
    await expect(search).to_have_value("nothing has this")


async def test_the_end_stays_in_view_unless_one_scrolls_back(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(name="attic").start()
    await llb.wait_until_online()
    [node] = (await llb.http.get("/api/nodes")).json()["nodes"]
    for number in range(200):
        log.warning("line %d", number)
    page = await (await visitors(llb)).open(f"/nodes/{node['id']}/logs")
    lines = page.get_by_role("region", name="Log lines")
    await expect(lines.get_by_text("line 199")).to_be_in_viewport()
    log.warning("line 200")
    await expect(lines.get_by_text("line 200")).to_be_in_viewport()
    await lines.hover()
    await page.mouse.wheel(0, -3000)
    await expect(page.get_by_text("Scrolled back")).to_be_visible()
    log.warning("line 201")
    await expect(lines.get_by_text("line 201")).to_have_count(1)
    await expect(lines.get_by_text("line 201")).not_to_be_in_viewport()
    for width in (1280, 390):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight")
