"""The page at `/`."""

from __future__ import annotations

from playwright.async_api import Page

from tests.harness import Llb


async def test_it_says_that_llb_runs_and_breaks_none_of_its_own_rules(llb: Llb, page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    answer = await page.goto(f"{llb.url}/")
    assert answer is not None
    assert answer.status == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert await page.get_by_role("heading", level=1).inner_text() == "llb is running"
    assert complaints == []
