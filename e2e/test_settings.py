"""Settings: how the page looks, the password, and what the server is."""

from __future__ import annotations

from playwright.async_api import expect

from e2e.conftest import Visitor, VisitorMaker
from tests.conftest import LlbMaker
from tests.harness import PASSWORD

NEW_PASSWORD = "another horse battery"


async def test_language_and_theme_hold_at_once_and_after_a_reload(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    await page.get_by_role("radio", name="Dark").check()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.get_by_role("radio", name="日本語").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("設定")
    await page.reload()
    await expect(page.get_by_role("heading", level=1)).to_have_text("設定")
    await expect(page.get_by_role("radio", name="ダーク")).to_be_checked()


async def test_a_new_password_ends_the_sessions_elsewhere(visitor: Visitor, visitors: VisitorMaker) -> None:
    elsewhere = await visitors(visitor.llb)
    other = await elsewhere.open("/nodes")
    page = await visitor.open("/settings")
    await page.get_by_label("Current password").fill(PASSWORD)
    await page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    await page.get_by_label("New password again").fill("something else")
    await page.get_by_role("button", name="Change the password").click()
    await expect(page.get_by_role("alert")).to_contain_text("differ")
    await page.get_by_label("New password again").fill(NEW_PASSWORD)
    await page.get_by_role("button", name="Change the password").click()
    await expect(page.get_by_text("The password is changed.")).to_be_visible()
    await expect(page.get_by_label("Current password")).to_have_value("")

    await other.reload()
    await expect(other.get_by_role("button", name="Log in")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Settings")


async def test_a_wrong_current_password_is_told_and_nobody_is_signed_out(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    await page.get_by_label("Current password").fill("not this one")
    await page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    await page.get_by_label("New password again").fill(NEW_PASSWORD)
    await page.get_by_role("button", name="Change the password").click()
    await expect(page.get_by_role("alert")).to_contain_text("current password is wrong")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Settings")


async def test_the_default_password_is_told_until_it_is_changed(
    make_llb: LlbMaker, visitors: VisitorMaker
) -> None:
    llb = await make_llb(admin_password=None).start()
    await llb.online()
    visitor = await visitors(llb, signed_in=False)
    await visitor.sign_in("admin", "test")
    page = await visitor.open("/access")
    await expect(page.get_by_role("button", name="New person")).to_have_count(0)
    await page.get_by_role("link", name="Change it").first.click()
    await expect(page.get_by_label("Current password")).to_be_focused()
    await page.keyboard.type("test")
    await page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    await page.get_by_label("New password again").fill(NEW_PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("still the default one")).to_have_count(0)
    await page.get_by_role("link", name="Access").click()
    await expect(page.get_by_role("button", name="New person")).to_be_visible()


async def test_what_the_server_was_told_is_for_administrators(
    visitor: Visitor, visitors: VisitorMaker
) -> None:
    page = await visitor.open("/settings")
    table = page.get_by_role("region", name="Settings in effect as a table")
    await expect(table.get_by_role("row").filter(has_text="LLB_NODE_NAME")).to_contain_text("attic")
    await expect(table).not_to_contain_text(PASSWORD)
    answer = await visitor.llb.http.post("/api/users", json={"username": "ann", "password": NEW_PASSWORD})
    assert answer.status_code == 201
    other = await visitors(visitor.llb, signed_in=False)
    await other.sign_in("ann", NEW_PASSWORD)
    hers = await other.open("/settings")
    await expect(hers.get_by_role("heading", name="This server")).to_be_visible()
    await expect(hers.get_by_role("heading", name="Settings in effect")).to_have_count(0)
