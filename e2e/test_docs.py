"""The reference of the API: read, searched and linked to, signed in and signed out."""

from __future__ import annotations

import re

from playwright.async_api import expect

from e2e.conftest import Visitor, VisitorFactory
from tests.harness import RunningBalancer

CHAT = "openai.chat_completions"


async def test_signed_out_visitors_can_read_it_and_sign_in_from_there(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(llb, signed_in=False)).open("/docs")
    await expect(page.get_by_role("heading", level=1)).to_have_text("API reference")
    await expect(page.get_by_role("heading", name="Inference")).to_be_visible()
    await expect(page.get_by_role("navigation", name="Main")).to_have_count(0)
    await page.get_by_role("link", name="Log in").click()
    await expect(page.get_by_label("Username")).to_be_visible()
    await expect(page).to_have_url(re.compile(r"/login\?next=%2Fdocs$"))


async def test_every_operation_is_there(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("link", name="API reference").click()
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    document = (await visitor.llb.http.get("/api/openapi.json")).json()
    told = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    await expect(page.locator("details.docs-operation")).to_have_count(len(told))
    for name in told:
        await expect(page.locator(f"[id='{name}']")).to_have_count(1)
    codes = document["components"]["schemas"]["Error"]["x-llb-codes"]
    table = page.get_by_role("table", name="Error codes")
    await expect(table.get_by_role("rowheader")).to_have_text(sorted(codes))


async def test_an_operation_opens_by_keyboard_with_all_that_is_to_be_known(visitor: Visitor) -> None:
    page = await visitor.open("/docs")
    chat = page.locator(f"[id='{CHAT}']")
    await chat.locator("summary").first.focus()
    await page.keyboard.press("Enter")
    await expect(chat).to_have_attribute("open", "")
    body = chat.locator("section", has=page.get_by_role("heading", name="Body"))
    await expect(body).to_contain_text("messages")
    await expect(body.get_by_text("role", exact=True)).to_have_count(0)
    await body.get_by_text("ChatMessage", exact=True).click()
    await expect(body.get_by_text("role", exact=True)).to_be_visible()
    await expect(chat).to_contain_text("Additional fields are allowed.")
    await expect(chat).to_contain_text("queue_full")
    await expect(chat.get_by_role("group", name="curl")).to_contain_text(
        f"curl -X POST '{visitor.llb.url}/v1/chat/completions'"
    )
    await expect(chat.get_by_role("group", name="curl")).to_contain_text("Bearer sk-your-api-key")
    await chat.locator("summary").first.focus()
    await page.keyboard.press("Enter")
    await expect(chat).not_to_have_attribute("open", "")
    await expect(body).to_have_count(0)


async def test_a_link_leads_to_an_operation(visitor: Visitor) -> None:
    page = await visitor.open(f"/docs#{CHAT}")
    chat = page.locator(f"[id='{CHAT}']")
    await expect(chat).to_have_attribute("open", "")
    await expect(chat.locator("summary").first).to_be_focused()
    await expect(chat.locator("summary").first).to_be_in_viewport()
    other = page.locator("[id='keys.make_key']")
    await other.locator("summary").first.click()
    await other.get_by_role("link", name="Link to this operation").click()
    await expect(page).to_have_url(re.compile(r"/docs#keys\.make_key$"))
    await page.go_back()
    await expect(page).to_have_url(re.compile(rf"/docs#{CHAT}$"))
    await expect(chat.locator("summary").first).to_be_in_viewport()


async def test_a_search_narrows_and_stays_in_the_address(visitor: Visitor) -> None:
    page = await visitor.open("/docs")
    search = page.get_by_role("searchbox", name="Search operations")
    await search.press_sequentially("revoke key")
    await expect(page.locator("details.docs-operation")).to_have_count(1)
    await expect(search).to_be_focused()
    await expect(page.get_by_role("status").filter(has_text="1 operation")).to_be_attached()
    await expect(page).to_have_url(re.compile(r"/docs\?q=revoke\+key$"))
    await page.reload()
    await expect(page.locator("details.docs-operation")).to_have_count(1)
    await search.fill("nothing like it")
    await expect(page.get_by_role("heading", name="No operations match")).to_be_visible()
    await search.fill("")
    await expect(page.get_by_role("heading", name="Inference")).to_be_visible()


async def test_nothing_is_wider_than_the_window_when_all_is_open(visitor: Visitor) -> None:
    page = await visitor.open("/docs")
    closed = page.locator("details.docs-operation:not([open]) > summary")
    await expect(closed.first).to_be_visible()
    await closed.evaluate_all("(summaries) => summaries.forEach((each) => each.click())")
    await expect(closed).to_have_count(0)
    # Each has its content.
    operations = await page.locator("details.docs-operation").count()
    await expect(page.locator("details.docs-operation:has(> summary + *)")).to_have_count(operations)
    for width in (1280, 360):
        await page.set_viewport_size({"width": width, "height": 740})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_it_says_what_is_wrong_when_the_reference_cannot_be_had(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.route("**/api/openapi.json", lambda route: route.abort(), times=1)
    await page.get_by_role("link", name="API reference").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("heading", name="Inference")).to_be_visible()
