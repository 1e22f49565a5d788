"""Searching, filtering and sorting the Model Hub: they follow the address of the page."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from e2e.conftest import Visitor, async_fixture


@async_fixture()
async def page(visitor: Visitor) -> Page:
    return await visitor.open()


async def names(page: Page) -> list[str]:
    return await page.get_by_role("article").get_by_role("heading").all_text_contents()


async def test_a_search_narrows_and_stays_in_the_address(page: Page) -> None:
    await expect(page.get_by_role("article")).to_have_count(3)
    await page.keyboard.press("/")
    search = page.get_by_role("searchbox", name="Search models")
    await expect(search).to_be_focused()
    await search.fill("TIN")
    await expect(page.get_by_role("article")).to_have_count(1)
    await expect(page.get_by_text("1 of 3 models")).to_be_visible()
    await expect(page).to_have_url(re.compile(r"/models\?q=TIN$"))
    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(1)
    assert await names(page) == ["tiny"]
    await search.fill("gaint")
    await expect(page.get_by_role("article", name="giant")).to_be_visible()
    await search.fill("no such model")
    await expect(page.get_by_role("heading", name="No models match")).to_be_visible()
    await page.get_by_role("button", name="Clear filters").click()
    await expect(page.get_by_role("article")).to_have_count(3)
    await expect(search).to_have_value("")
    await expect(page).to_have_url(re.compile(r"/models$"))


async def test_filters_show_what_the_address_says_however_often_they_were_changed(page: Page) -> None:
    fits = page.get_by_role("button", name="Fits 2")
    for _ in range(2):
        await expect(fits).to_have_attribute("aria-pressed", "false")
        await fits.click()
        await expect(page.get_by_role("article")).to_have_count(2)
        await expect(page).to_have_url(re.compile("fit=fits"))
        await expect(fits).to_have_attribute("aria-pressed", "true")
        await fits.click()
        await expect(page.get_by_role("article")).to_have_count(3)
    await fits.click()
    await page.get_by_role("button", name="Clear filters").click()
    await expect(fits).to_have_attribute("aria-pressed", "false")
    await expect(page.get_by_role("article")).to_have_count(3)


async def test_an_address_with_filters_can_be_sent_to_somebody(visitor: Visitor) -> None:
    page = await visitor.open("/models?status=Available&fit=too_large&sort=name&tag=gone")
    await expect(page.get_by_role("heading", name="No models match")).to_be_visible()
    for chip in ("Not downloaded 3", "Doesn't fit 1", "gone 0"):
        await expect(page.get_by_role("button", name=chip)).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="gone 0").click()
    await expect(page.get_by_role("article", name="giant")).to_be_visible()


async def test_models_are_put_in_order(page: Page) -> None:
    await page.get_by_role("combobox", name="Sort by").select_option("Name")
    await expect(page).to_have_url(re.compile("sort=name"))
    headings = page.get_by_role("article").get_by_role("heading")
    await expect(headings).to_have_text(["giant", "other", "tiny"])
    memory = page.get_by_role("button", name="Memory", exact=True)
    await memory.click()
    await expect(memory).to_have_attribute("aria-pressed", "true")
    await expect(headings.last).to_have_text("giant")
    await memory.click()
    await expect(page).to_have_url(re.compile("sort=-memory"))
    await expect(headings.first).to_have_text("giant")
    await memory.click()
    await expect(page).to_have_url(re.compile(r"/models$"))
