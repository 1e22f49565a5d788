"""The page in other languages, lights and sizes."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page, expect

from e2e.conftest import SETTLED_WIDTH, VisitorFactory, async_fixture, go_to
from e2e.shop import CATALOG, SMOLLM2_NAME, add_catalog_repositories, model_card, save_screenshot
from llb.api.routes.page import PAGE_PATHS
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer
from tests.hub import HubStandIn

WIDTHS = (360, 768, 2560)
PAGES = [address for address in PAGE_PATHS if address not in ("/", "/login")]


@async_fixture()
async def shop(make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path) -> RunningBalancer:
    """The shipped catalogue, nothing pulled yet."""
    add_catalog_repositories(hub, smollm2)
    llb = await make_llb(catalog=CATALOG, memory_limit_bytes=16_000_000_000).start()
    await llb.wait_until_online()
    return llb


async def settled(page: Page) -> None:
    """Wait until a page no longer says that it loads."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator(".skeletons")).to_have_count(0)


async def test_japanese(shop: RunningBalancer, visitors: VisitorFactory) -> None:
    visitor = await visitors(shop, locale="ja-JP")
    page = await visitor.open()
    await expect(page.locator("html")).to_have_attribute("lang", "ja")
    await expect(page.get_by_role("heading", level=1)).to_have_text("モデル")
    await expect(model_card(page, SMOLLM2_NAME).get_by_role("button", name="プル")).to_be_visible()
    await expect(model_card(page, SMOLLM2_NAME)).to_contain_text("利用可能")
    await save_screenshot(page, "japanese")


async def test_dark_by_the_system_and_by_choice(shop: RunningBalancer, visitors: VisitorFactory) -> None:
    visitor = await visitors(shop, color_scheme="dark")
    page = await visitor.open()
    await settled(page)
    assert await lightness(page) < 0.2
    await save_screenshot(page, "dark")
    await page.get_by_role("link", name="Settings").click()
    await page.get_by_role("radio", name="Light").check()
    assert await lightness(page) > 0.8
    await page.reload()
    await settled(page)
    assert await lightness(page) > 0.8


async def lightness(page: Page) -> float:
    """Of the page's ground: 0 is black, 1 is white."""
    colour: str = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    parts = [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(parts) / (3 * 255)


async def test_nothing_is_wider_than_the_window(shop: RunningBalancer, visitors: VisitorFactory) -> None:
    """Each page at each width, drawn once: the window is made wider while one looks."""
    visitor = await visitors(shop, viewport={"width": WIDTHS[0], "height": 740})
    page = await visitor.open()
    too_wide: list[tuple[str, int, float]] = []
    for address in [*PAGES, "/models"]:
        await go_to(page, address)
        await settled(page)
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 740})
            inner = await page.evaluate(SETTLED_WIDTH)
            if inner > width:
                too_wide.append((address, width, inner))
            for link in await page.get_by_role("navigation", name="Main").get_by_role("link").all():
                await expect(link).to_be_in_viewport()
        await page.set_viewport_size({"width": WIDTHS[0], "height": 740})
    assert too_wide == []
    await save_screenshot(page, "phone")
