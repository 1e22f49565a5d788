"""The page as a whole: that it comes, keeps its own rules, and leads where it says."""

from __future__ import annotations

from playwright.async_api import expect

from e2e.conftest import Visitor

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
