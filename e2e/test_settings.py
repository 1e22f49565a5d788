"""Settings: how the page looks, the password, and what the server is."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, Route, expect

from e2e.conftest import Visitor, VisitorFactory
from llb.security.passwords import PASSWORD_MIN_LENGTH
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD, RunningBalancer

NEW_PASSWORD = "another horse battery"


async def change_password(page: Page, current: str, new: str, again: str | None = None) -> None:
    await page.get_by_label("Current password").fill(current)
    await page.get_by_label("New password", exact=True).fill(new)
    await page.get_by_label("Confirm new password").fill(new if again is None else again)
    await page.get_by_role("button", name="Change password").click()


# --- appearance --------------------------------------------------------------------------------------


async def test_the_theme_holds_at_once_and_after_a_reload(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    html = page.locator("html")
    await expect(page.get_by_role("radio", name="System")).to_be_checked()
    await page.get_by_role("radio", name="Dark").check()
    await expect(html).to_have_attribute("data-theme", "dark")
    await page.reload()
    await expect(page.get_by_role("radio", name="Dark")).to_be_checked()
    await expect(html).to_have_attribute("data-theme", "dark")
    await page.get_by_role("radio", name="System").check()
    await expect(html).not_to_have_attribute("data-theme", "dark")


async def test_the_language_holds_at_once_and_keeps_the_place(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    await page.set_viewport_size({"width": 360, "height": 400})
    await page.get_by_role("radio", name="English").focus()
    await page.evaluate("scrollTo(0, 120)")
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("heading", level=1)).to_have_text("設定")
    await expect(page.locator("html")).to_have_attribute("lang", "ja")
    await expect(page.get_by_role("radio", name="日本語")).to_be_focused()
    await page.wait_for_function("scrollY === 120")
    await page.reload()
    await expect(page.get_by_role("heading", level=1)).to_have_text("設定")
    await expect(page.get_by_role("radio", name="日本語")).to_be_checked()


# --- the password ------------------------------------------------------------------------------------


async def test_a_new_password_ends_the_sessions_elsewhere(visitor: Visitor, visitors: VisitorFactory) -> None:
    elsewhere = await visitors(visitor.llb)
    other = await elsewhere.open("/nodes")
    page = await visitor.open("/settings")
    await change_password(page, PASSWORD, NEW_PASSWORD)
    await expect(page.get_by_text("Password changed.")).to_be_visible()
    for label in ("Current password", "Confirm new password"):
        await expect(page.get_by_label(label)).to_have_value("")

    await other.reload()
    await expect(other.get_by_role("button", name="Log in")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    await visitor.context.clear_cookies()
    await visitor.sign_in("admin", NEW_PASSWORD)


async def test_what_is_wrong_with_a_password_is_told_where_it_can_be_mended(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    alert = page.get_by_role("alert")
    await change_password(page, PASSWORD, NEW_PASSWORD, "something else")
    await expect(alert).to_contain_text("don't match")
    await expect(page.get_by_label("Confirm new password")).to_be_focused()
    await change_password(page, "not this one", NEW_PASSWORD)
    await expect(alert).to_contain_text("current password is wrong")
    await expect(page.get_by_label("Current password")).to_be_focused()
    await change_password(page, PASSWORD, "x" * 1025)
    await expect(alert).to_contain_text("at most 1024")
    await expect(page.get_by_label("New password", exact=True)).to_be_focused()
    await expect(page.get_by_text("Password changed.")).to_have_count(0)


async def test_the_rule_for_passwords_is_the_servers(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    new = page.get_by_label("New password", exact=True)
    await expect(new).to_have_attribute("minlength", str(PASSWORD_MIN_LENGTH))
    await expect(new).to_have_accessible_description(f"At least {PASSWORD_MIN_LENGTH} characters")


async def test_password_managers_know_the_fields(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    await expect(page.get_by_label("Current password")).to_have_attribute("autocomplete", "current-password")
    for label in ("New password", "Confirm new password"):
        await expect(page.get_by_label(label, exact=True)).to_have_attribute("autocomplete", "new-password")
    username = page.locator("form input[autocomplete=username]")
    await expect(username).to_have_value("admin")
    await expect(username).to_be_hidden()


async def test_a_refusal_of_the_cookie_of_before_signs_nobody_out(visitor: Visitor) -> None:
    """A request that was on its way while the password was changed comes back refused."""

    async def refuse(route: Route) -> None:
        error = {"message": "No valid credential", "type": "invalid_request_error", "code": "invalid_api_key"}
        await route.fulfill(status=401, json={"error": error})

    page = await visitor.open("/nodes")
    await expect(page.get_by_role("heading", name="attic")).to_be_visible()
    await page.route("**/api/system", refuse, times=1)
    async with page.expect_response("**/api/auth/me"):
        await page.get_by_role("link", name="Settings").click()
    await expect(page.get_by_role("heading", name="This server")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Settings")


@pytest.mark.parametrize("start", ["/access", "/models"])
async def test_the_default_password_is_told_until_it_is_changed(
    make_llb: BalancerFactory, visitors: VisitorFactory, start: str
) -> None:
    llb = await make_llb(admin_password=None).start()
    await llb.wait_until_online()
    visitor = await visitors(llb, signed_in=False)
    await visitor.sign_in("admin", "test")
    page = await visitor.open(start)
    banner = page.get_by_text("still has the default password")
    await expect(banner).to_be_visible()
    if start == "/access":
        users = page.get_by_role("region", name="Users")
        await expect(users).to_contain_text("Change the default password before adding users.")
        await expect(page.get_by_role("button", name="New user")).to_have_count(0)
        await users.get_by_role("link", name="Change password").first.click()
    else:
        await page.get_by_role("link", name="Change password").click()
    current = page.get_by_label("Current password")
    await expect(current).to_be_focused()
    await expect(current).to_be_in_viewport()
    await page.keyboard.type("test")
    await page.get_by_label("New password", exact=True).fill(NEW_PASSWORD)
    await page.get_by_label("Confirm new password").fill(NEW_PASSWORD)
    await page.keyboard.press("Enter")
    await expect(banner).to_have_count(0)
    await page.get_by_role("link", name="Access").click()
    await expect(page.get_by_role("button", name="New user")).to_be_visible()


@pytest.mark.parametrize("height", [360, 860])
async def test_the_way_to_the_password_can_be_a_link(visitor: Visitor, height: int) -> None:
    page = await visitor.open("/nodes")
    await page.set_viewport_size({"width": 360, "height": height})
    await page.goto(f"{visitor.llb.url}/settings?focus=password")
    await expect(page.get_by_label("Current password")).to_be_focused()
    await expect(page.get_by_label("Current password")).to_be_in_viewport()


# --- the server --------------------------------------------------------------------------------------


async def test_what_the_server_is(visitor: Visitor) -> None:
    page = await visitor.open("/settings")
    server = page.get_by_role("region", name="This server")
    system = (await visitor.llb.http.get("/api/system")).json()
    for text in ("attic", f"llb {system['version']}", system["platform"], system["python"]):
        await expect(server).to_contain_text(text)
    await expect(server).to_contain_text("1 of 1 online")
    await expect(server).to_contain_text(str(visitor.llb.home / "models"))


async def test_what_is_wrong_with_the_host_is_told(visitor: Visitor) -> None:
    async def answer(route: Route) -> None:
        real = await route.fetch()
        problem = "A GPU is present (<b>GeForce</b>): install a GPU build of xllamacpp to use it."
        await route.fulfill(response=real, json={**await real.json(), "problems": [problem]})

    await visitor.context.route("**/api/system", answer)
    page = await visitor.open("/settings")
    await expect(page.get_by_role("region", name="This server")).to_contain_text("(<b>GeForce</b>): install")


async def test_the_settings_in_effect_are_for_administrators(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(max_queue=7).start()
    page = await (await visitors(llb)).open("/settings")
    table = page.get_by_role("table", name="Configuration")
    queue = table.get_by_role("row").filter(has_text="LLB_MAX_QUEUE")
    await expect(queue.get_by_role("cell")).to_have_text(
        ["7 changed", "--max-queue", "LLB_MAX_QUEUE", "Change"]
    )
    await expect(queue.get_by_role("rowheader")).to_have_text("max_queue")
    await queue.get_by_role("button", name="Change max_queue").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Value").fill("many")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("max_queue: 'many' ")
    await dialog.get_by_label("Value").fill("9")
    await page.keyboard.press("Enter")
    await expect(queue).to_contain_text("9 changed here")
    await queue.get_by_role("button", name="Reset max_queue").click()
    await expect(queue).to_contain_text("7 changed")
    await expect(queue.get_by_role("button", name="Reset max_queue")).to_have_count(0)
    parallel = table.get_by_role("row").filter(has_text="LLB_PARALLEL")
    await expect(parallel).not_to_contain_text("changed")
    await expect(table).not_to_contain_text(PASSWORD)
    settings = (await llb.http.get("/api/system")).json()["settings"]
    await expect(table.get_by_role("rowheader")).to_have_count(len(settings))

    await add_ann(llb)
    other = await visitors(llb, signed_in=False)
    await other.sign_in("ann", NEW_PASSWORD)
    hers = await other.open("/settings")
    await expect(hers.get_by_role("heading", name="This server")).to_be_visible()
    await expect(hers.get_by_role("heading", name="Configuration")).to_have_count(0)
    await expect(hers.get_by_role("main")).not_to_contain_text(str(llb.home))


async def add_ann(llb: RunningBalancer) -> None:
    answer = await llb.http.post("/api/users", json={"username": "ann", "password": NEW_PASSWORD})
    assert answer.status_code == 201


async def test_a_server_that_does_not_say_what_it_is(visitor: Visitor) -> None:
    async def refuse(route: Route) -> None:
        await route.abort()

    await visitor.context.route("**/api/system", refuse)
    page = await visitor.open("/settings")
    await expect(page.get_by_role("alert")).to_contain_text("Can't reach llb.")
    await expect(page.get_by_role("heading", name="Appearance")).to_be_visible()
