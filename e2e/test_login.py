"""Signing in and out: what is remembered, what is not, and where one comes out."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from e2e.conftest import Visitor, VisitorMaker
from tests.conftest import LlbMaker
from tests.harness import PASSWORD, Llb


async def log_in(page: Page, password: str = PASSWORD) -> None:
    await page.get_by_label("Username").fill("admin")
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()


async def test_a_wrong_password_is_told_and_can_be_typed_again(llb: Llb, visitors: VisitorMaker) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    await expect(page.get_by_label("Username")).to_have_attribute("autocomplete", "username")
    await expect(page.get_by_label("Password")).to_have_attribute("autocomplete", "current-password")
    await log_in(page, "wrong")
    await expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    await expect(page.get_by_label("Username")).to_have_value("admin")
    await expect(page.get_by_label("Password")).to_be_focused()
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")


async def test_too_many_attempts_are_told_in_words(llb: Llb, visitors: VisitorMaker) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    alert = page.get_by_role("alert")
    for _ in range(20):
        async with page.expect_response("**/api/auth/login") as answer:
            await log_in(page, "wrong")
        if (await answer.value).status == 429:
            break
    await expect(alert).to_contain_text("Too many")


async def test_a_session_survives_the_browser_and_the_server(llb: Llb, visitors: VisitorMaker) -> None:
    first = await visitors(llb, signed_in=False)
    page = await first.open("/nodes")
    await log_in(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    kept = await first.context.storage_state()
    # A browser keeps a cookie with an end over its own end; one without is lost.
    assert all(cookie["expires"] > 0 for cookie in kept["cookies"])
    await first.context.close()
    await llb.stop()
    await llb.start(llb.port)
    again = await visitors(llb, signed_in=False, storage_state=kept)
    page = await again.open("/nodes")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")


async def test_an_ended_session_returns_to_where_the_person_was(visitor: Visitor) -> None:
    page = await visitor.open("/models?q=tiny&status=Available")
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()
    await visitor.context.clear_cookies()
    await page.get_by_role("article", name="tiny").get_by_role("button", name="Pull").click()
    await expect(page.get_by_text("Your session has ended.")).to_be_visible()
    await log_in(page)
    await expect(page).to_have_url(re.compile(r"/models\?q=tiny&status=Available$"))
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()


async def test_logging_out_ends_the_session(visitor: Visitor) -> None:
    page = await visitor.open("/nodes")
    cookies = await visitor.context.cookies()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()
    await expect(page.get_by_text("Your session has ended.")).to_have_count(0)
    await visitor.context.add_cookies(cookies)  # type: ignore[arg-type]  # what was given is taken
    await page.goto(f"{visitor.llb.url}/nodes")
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()


@pytest.mark.parametrize(
    "target",
    ["//evil.invalid/x", r"/\evil.invalid", "https://evil.invalid/", "javascript:alert(1)", "/login"],
)
async def test_the_way_back_never_leads_elsewhere(llb: Llb, visitors: VisitorMaker, target: str) -> None:
    visitor = await visitors(llb, signed_in=False)
    page = await visitor.context.new_page()
    await page.goto(f"{llb.url}/login?next={target}")
    await log_in(page)
    await expect(page).to_have_url(f"{llb.url}/models")


async def test_no_credential_lies_where_scripts_can_read_it(visitor: Visitor) -> None:
    page = await visitor.open("/models")
    assert await page.evaluate("document.cookie") == ""
    stored = str(await page.evaluate("Object.entries({...localStorage, ...sessionStorage})"))
    for cookie in await visitor.context.cookies():
        assert cookie["value"] not in stored
        assert cookie["value"] not in page.url


async def test_who_may_only_look_sees_no_way_to_change(llb: Llb, visitors: VisitorMaker) -> None:
    await llb.pull("tiny")
    answer = await llb.http.post("/api/users", json={"username": "ann", "password": PASSWORD})
    assert answer.status_code == 201
    visitor = await visitors(llb, signed_in=False)
    await visitor.sign_in("ann")
    page = await visitor.open("/models")
    await expect(page.get_by_text("An administrator can pull it.").first).to_be_visible()
    await expect(page.get_by_role("button", name="Pull")).to_have_count(0)
    await page.get_by_role("tab", name="Local").click()
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)


async def test_the_default_password_is_for_this_machine(make_llb: LlbMaker, visitors: VisitorMaker) -> None:
    llb = await make_llb(admin_password=None).start()
    page = await (await visitors(llb, signed_in=False)).open()
    await log_in(page, "test")
    await expect(page.get_by_text("still the default one")).to_be_visible()
