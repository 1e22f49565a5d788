"""The page as a whole: that it comes, keeps its own rules, and leads where it says."""

from __future__ import annotations

from playwright.async_api import Page, expect

from e2e.conftest import Visitor, VisitorFactory
from tests.harness import RunningBalancer

SECTIONS = ("Models", "Playground", "Nodes", "Requests", "Access", "Settings")


async def test_every_section_opens_from_the_navigation(visitor: Visitor) -> None:
    page = await visitor.open()
    navigation = page.get_by_role("navigation")
    for section in SECTIONS:
        link = navigation.get_by_role("link", name=section, exact=True)
        await link.click()
        await expect(link).to_have_attribute("aria-current", "page")
        await expect(page.get_by_role("heading", level=1)).to_have_text(section)
        await expect(page).to_have_title(f"{'Model Hub' if section == 'Models' else section} · llb")


async def test_it_obeys_its_content_security_policy(visitor: Visitor) -> None:
    page = await visitor.open()
    answer = await page.request.get(f"{visitor.llb.url}/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy


OTHER_PAGE = "/pages/playground/page.js"


async def let_time_pass(page: Page) -> None:
    """Much more than the delay before the other pages are loaded; each step lets requests go out."""
    for _ in range(20):
        await page.clock.run_for(1_000)


async def open_on_a_stopped_clock(visitor: Visitor) -> tuple[Page, list[str]]:
    """The page, and the addresses it asks for as it does so."""
    asked: list[str] = []
    visitor.context.on("request", lambda request: asked.append(request.url))
    page = await visitor.context.new_page()
    await page.clock.install()
    await page.goto(visitor.llb.url)
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()
    return page, asked


async def test_the_other_pages_are_loaded_while_it_is_seen(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    visitor = await visitors(llb, saves_data=False)
    await visitor.context.add_init_script(
        "Object.defineProperty(document, 'hidden', { value: true, writable: true });"
    )
    page, asked = await open_on_a_stopped_clock(visitor)
    await let_time_pass(page)
    assert not [url for url in asked if url.endswith(OTHER_PAGE)]
    async with page.expect_request(lambda request: request.url.endswith(OTHER_PAGE)):
        await page.evaluate("document.hidden = false; document.dispatchEvent(new Event('visibilitychange'));")
        await let_time_pass(page)


async def test_the_other_pages_are_not_loaded_where_data_is_saved(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    page, asked = await open_on_a_stopped_clock(await visitors(llb, of_their_own=True))
    await let_time_pass(page)
    assert not [url for url in asked if url.endswith(OTHER_PAGE)]
