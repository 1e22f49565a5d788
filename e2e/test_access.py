"""Access: keys that are shown once, people, and the record of what was done."""

from __future__ import annotations

import httpx
from playwright.async_api import Locator, Page, expect

from e2e.conftest import Visitor, VisitorMaker
from tests.harness import Llb

NEW_PASSWORD = "a password of her own"


def row(page: Page, region: str, name: str) -> Locator:
    return page.get_by_role("region", name=f"{region} as a table").get_by_role("row").filter(has_text=name)


async def works(llb: Llb, key: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{llb.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        return answer.status_code == 200


async def test_a_key_is_shown_once_works_and_is_revoked(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await expect(page.get_by_text("No keys yet.")).to_be_visible()
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("<b>laptop</b>")
    await expect(dialog.get_by_role("checkbox", name="Ask models")).to_be_checked()
    await dialog.get_by_label("Expires").select_option(label="In 7 days")
    await dialog.get_by_role("button", name="Make the key").click()
    key = await dialog.locator("code").first.inner_text()
    assert key.startswith("sk-")
    assert await works(visitor.llb, key)

    # It does not go away by mistake, and once it is closed it is nowhere.
    await page.keyboard.press("Escape")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("button", name="I have copied it").click()
    await expect(dialog).to_have_count(0)
    assert key not in await page.content()
    assert key not in str(await page.evaluate("Object.values({...localStorage, ...sessionStorage})"))

    entry = row(page, "API keys", "<b>laptop</b>")
    await expect(entry).to_contain_text(key[:8])
    await entry.get_by_role("button", name="Revoke").click()
    await expect(dialog).to_contain_text("Revoke the key <b>laptop</b>?")
    await dialog.get_by_role("button", name="Revoke").click()
    await expect(entry).to_have_count(0)
    assert not await works(visitor.llb, key)
    await page.reload()
    await expect(row(page, "What was done,", "Revoked a key")).to_have_count(1)


async def test_a_key_needs_something_that_it_may_do(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("idle")
    for scope in ("Ask models", "See models"):
        await dialog.get_by_role("checkbox", name=scope).uncheck()
    await dialog.get_by_role("button", name="Make the key").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("at least one thing")
    await expect(dialog.get_by_label("Name")).to_have_value("idle")


async def test_people_come_change_and_go(visitor: Visitor, visitors: VisitorMaker) -> None:
    page = await visitor.open("/access")
    dialog = page.get_by_role("dialog")
    await page.get_by_role("button", name="New person").click()
    await dialog.get_by_label("Username").fill("ann")
    await dialog.get_by_label("Password").fill(NEW_PASSWORD)
    await dialog.get_by_role("button", name="Add").click()
    ann = row(page, "People", "ann")
    await expect(ann).to_contain_text("User")

    other = await visitors(visitor.llb, signed_in=False)
    await other.sign_in("ann", NEW_PASSWORD)
    hers = await other.open("/access")
    await expect(hers.get_by_role("heading", name="API keys")).to_be_visible()
    await expect(hers.get_by_role("heading", name="People")).to_have_count(0)
    await expect(hers.get_by_role("heading", name="What was done")).to_have_count(0)
    await hers.get_by_role("button", name="New key").click()
    choices = hers.get_by_role("dialog").get_by_role("checkbox")
    await expect(choices).to_have_count(2)

    await ann.get_by_role("button", name="Role").click()
    await dialog.get_by_label("Role").select_option(label="Administrator")
    await dialog.get_by_role("button", name="Save").click()
    await expect(ann).to_contain_text("Administrator")

    await ann.get_by_role("button", name="Delete").click()
    await expect(dialog).to_contain_text("Delete ann?")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(ann).to_have_count(0)


async def test_the_last_administrator_stays_one(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await row(page, "People", "admin").get_by_role("button", name="Role").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Role").select_option(label="User")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("admin")
    await page.keyboard.press("Escape")
    await expect(row(page, "People", "admin")).to_contain_text("Administrator")
