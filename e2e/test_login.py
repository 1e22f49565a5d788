"""Signing in and out: what is remembered, and the page that follows."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, Response, expect

from e2e.conftest import Visitor, VisitorFactory
from e2e.profiles import Profile
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD, RunningBalancer

OTHER_PASSWORD = "another horse battery"


async def log_in(page: Page, password: str = PASSWORD, username: str = "admin") -> None:
    await page.get_by_label("Username").fill(username)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()


# --- the form ----------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told_and_can_be_typed_again(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    await expect(page.get_by_label("Username")).to_be_focused()
    await log_in(page, "wrong")
    await expect(page.get_by_role("alert")).to_have_text("Wrong username or password.")
    await expect(page.get_by_label("Username")).to_have_value("admin")
    await expect(page.get_by_label("Password")).to_have_value("")
    await expect(page.get_by_label("Password")).to_be_focused()
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


async def test_password_managers_know_the_fields(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    await expect(page.get_by_label("Username")).to_have_attribute("autocomplete", "username")
    await expect(page.get_by_label("Password")).to_have_attribute("autocomplete", "current-password")
    await expect(page.get_by_label("Password")).to_have_attribute("type", "password")


@pytest.mark.parametrize(
    ("locale", "labels", "text"),
    [
        ("en", ("Username", "Password", "Log in"), r"Too many attempts\. Try again in [1-9]\d* s\."),
        ("ja", ("ユーザー名", "パスワード", "ログイン"), r"試行回数が多すぎます。[1-9]\d* 秒後に"),
    ],
    ids=["en", "ja"],
)
async def test_too_many_attempts_are_told_in_words(
    llb: RunningBalancer, visitors: VisitorFactory, locale: str, labels: tuple[str, str, str], text: str
) -> None:
    page = await (await visitors(llb, signed_in=False, locale=locale)).open()
    username, password, submit = labels
    await page.get_by_label(username).fill("admin")
    for _ in range(20):
        await page.get_by_label(password).fill("wrong")
        async with page.expect_response("**/api/auth/login") as answer:
            await page.get_by_role("button", name=submit).click()
        if (await answer.value).status == 429:
            break
        await expect(page.get_by_label(password)).to_have_value("")
    await expect(page.get_by_role("alert")).to_contain_text(re.compile(text))


async def test_a_server_that_does_not_answer_is_told(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    await llb.stop()
    await log_in(page)
    await expect(page.get_by_role("alert")).to_contain_text("Can't reach llb.")
    await llb.start(llb.port)
    await log_in(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")


async def test_the_language_can_be_chosen_before(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(llb, signed_in=False)).open()
    japanese = page.get_by_role("button", name="日本語")
    await japanese.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("llb にログイン")
    await expect(japanese).to_be_focused()
    await expect(japanese).to_have_attribute("aria-pressed", "true")
    await expect(page.locator("html")).to_have_attribute("lang", "ja")


# --- the session -------------------------------------------------------------------------------------


async def test_a_session_survives_the_page_the_browser_and_the_server(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    first = await visitors(llb, signed_in=False)
    page = await first.open("/nodes")
    await log_in(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    await page.reload()
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


async def test_a_restart_of_the_server_under_an_open_page_signs_nobody_out(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    await visitor.llb.stop()
    await expect(page.get_by_text("Connection lost")).to_be_visible()
    await visitor.llb.start(visitor.llb.port)
    await expect(page.get_by_text("Connection lost")).to_have_count(0)
    await page.get_by_role("link", name="Settings").click()
    await expect(page.get_by_role("heading", name="This server")).to_be_visible()


async def revoked(visitor: Visitor) -> None:
    async with visitor.llb.app.db.write() as tx:
        assert await tx.execute("DELETE FROM sessions") == 1
    visitor.llb.app.accounts.authenticator.clear_cache()


async def expired(visitor: Visitor) -> None:
    async with visitor.llb.app.db.write() as tx:
        assert await tx.execute("UPDATE sessions SET expires_at = 1") == 1
    visitor.llb.app.accounts.authenticator.clear_cache()


async def password_changed_elsewhere(visitor: Visitor) -> None:
    browser = visitor.context.browser
    assert browser is not None
    elsewhere = await browser.new_context()
    await Visitor(Profile(elsewhere), visitor.llb).sign_in()
    answer = await elsewhere.request.post(
        f"{visitor.llb.url}/api/auth/password",
        data={"current_password": PASSWORD, "new_password": OTHER_PASSWORD},
    )
    assert answer.ok
    await elsewhere.close()


@pytest.mark.parametrize(
    ("end", "password"),
    [(revoked, PASSWORD), (expired, PASSWORD), (password_changed_elsewhere, OTHER_PASSWORD)],
    ids=["revoked", "expired", "password changed"],
)
async def test_an_ended_session_returns_to_where_the_person_was(
    visitor: Visitor, end: Callable[[Visitor], Awaitable[None]], password: str
) -> None:
    page = await visitor.open("/models?q=tiny&status=Available")
    model = page.get_by_role("article", name="tiny")
    await expect(model).to_be_visible()
    await end(visitor)
    # Its socket is closed at once, without a click.
    await expect(page.get_by_text("Your session has expired.")).to_be_visible()
    await expect(page.get_by_label("Username")).to_be_focused()
    await expect(page.get_by_role("navigation")).to_have_count(0)
    await log_in(page, password)
    await expect(page).to_have_url(f"{visitor.llb.url}/models?q=tiny&status=Available")
    await expect(model).to_be_visible()
    await expect(page.get_by_role("article", name="other")).to_be_hidden()


async def test_a_session_that_ends_takes_its_dialog_along(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("button", name="New key").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("laptop")
    await revoked(visitor)
    await expect(page.get_by_text("Your session has expired.")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await log_in(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Access")


async def test_an_address_asked_for_without_a_session_is_opened_after_it(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    visitor = await visitors(llb, signed_in=False)
    page = await visitor.open("/models/local?from=a%20friend&x=%26")
    await expect(page.get_by_text("Your session has expired.")).to_have_count(0)
    await log_in(page)
    await expect(page).to_have_url(f"{llb.url}/models/local?from=a%20friend&x=%26")
    await expect(page.get_by_role("tab", name="Local")).to_have_attribute("aria-selected", "true")
    await page.go_back()
    await expect(page).not_to_have_url(re.compile("/login"))


# --- logging out -------------------------------------------------------------------------------------


async def test_logging_out_ends_the_session(visitor: Visitor) -> None:
    page = await visitor.open("/nodes")
    cookies = await visitor.context.cookies()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()
    await expect(page.get_by_text("Your session has expired.")).to_have_count(0)
    await expect(page.get_by_text("attic")).to_have_count(0)
    # The device stays known: it has its own allowance of wrong passwords.
    assert [cookie["name"] for cookie in await visitor.context.cookies()] == ["llb_device"]
    await visitor.context.add_cookies(cookies)  # type: ignore[arg-type]  # what was given is taken
    await page.goto(f"{visitor.llb.url}/nodes")
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()


async def test_logging_out_in_one_tab_is_logging_out_in_all(visitor: Visitor) -> None:
    left, right = await visitor.open("/nodes"), await visitor.open("/models?q=tiny")
    await left.get_by_role("button", name="Log out").click()
    await expect(left.get_by_role("button", name="Log in")).to_be_visible()
    await expect(right.get_by_role("button", name="Log in")).to_be_visible()


async def test_who_is_told_to_be_logged_out_is(visitor: Visitor) -> None:
    page = await visitor.open("/nodes")
    await page.route("**/api/auth/logout", lambda route: route.abort())
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_text("Can't reach llb.")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    await page.unroute("**/api/auth/logout")
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("button", name="Log in")).to_be_visible()


# --- what must not happen ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        (
            "//evil.invalid/x",
            r"/\evil.invalid",
            r"\\evil.invalid",
            "/%09/evil.invalid",
            "https://evil.invalid/",
        ),
        ("javascript:alert(1)", "/api/system", "/login", "/login?next=//evil.invalid"),
    ],
    ids=["to others", "within"],
)
async def test_the_way_back_never_leads_elsewhere(
    llb: RunningBalancer, visitors: VisitorFactory, targets: tuple[str, ...]
) -> None:
    visitor = await visitors(llb, signed_in=False)
    page = await visitor.profile.get_page()
    for target in targets:
        await page.goto(f"{llb.url}/login?next={target}")
        await log_in(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Models")
        await expect(page).to_have_url(f"{llb.url}/models")
        # Nor does it for a user who is signed in already.
        await page.goto(f"{llb.url}/login?next={target}")
        await expect(page).to_have_url(f"{llb.url}/models")
        # Not under an open page, which would notice.
        await page.goto(f"{llb.url}/health")
        await visitor.context.clear_cookies()


async def test_no_credential_lies_where_scripts_can_read_it(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    visitor = await visitors(llb, signed_in=False)
    addresses: list[str] = []
    visitor.context.on("request", lambda request: addresses.append(request.url))
    page = await visitor.open("/models")
    await log_in(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    cookies = await visitor.context.cookies()
    assert {cookie["name"] for cookie in cookies} == {"llb_session", "llb_device"}
    assert {(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies} == {(True, "Strict")}
    assert await page.evaluate("document.cookie") == ""
    stored = str(await page.evaluate("Object.entries({...localStorage, ...sessionStorage})"))
    for secret in (*(cookie["value"] for cookie in cookies), PASSWORD):
        assert secret not in stored
        assert not [address for address in [*addresses, page.url] if secret in address]
        assert secret not in await page.content()


async def test_who_may_only_look_sees_no_way_to_change(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    await llb.pull_model("tiny")
    answer = await llb.http.post("/api/users", json={"username": "ann", "password": PASSWORD})
    assert answer.status_code == 201
    visitor = await visitors(llb, signed_in=False)
    refused: list[str] = []

    def look(response: Response) -> None:
        if response.status in (401, 403):
            refused.append(response.url)

    await visitor.sign_in("ann")
    visitor.context.on("response", look)
    page = await visitor.open("/models")
    await expect(page.get_by_text("Only administrators can pull models.").first).to_be_visible()
    await expect(page.get_by_role("button", name="Pull")).to_have_count(0)
    await page.get_by_role("tab", name="Local").click()
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    for section, heading in (("Access", "API keys"), ("Settings", "This server")):
        await page.get_by_role("navigation").get_by_role("link", name=section).click()
        await expect(page.get_by_role("heading", name=heading)).to_be_visible()
        for hidden in ("Users", "Audit log", "Configuration"):
            await expect(page.get_by_role("heading", name=hidden)).to_have_count(0)
    for section in ("Playground", "Nodes", "Requests"):
        await page.get_by_role("navigation").get_by_role("link", name=section).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(section)
    await expect(page.get_by_role("alert")).to_have_count(0)
    assert refused == []


async def test_the_default_password_is_for_this_machine(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(admin_password=None).start()
    page = await (await visitors(llb, signed_in=False)).open()
    await log_in(page, "test")
    await expect(page.get_by_text("still has the default password")).to_be_visible()
    for section in ("Playground", "Nodes", "Requests", "Access", "Settings"):
        await page.get_by_role("navigation").get_by_role("link", name=section).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(section)
        await expect(page.get_by_text("still has the default password")).to_be_visible()


# --- the first password ------------------------------------------------------------------------------


async def test_the_link_of_the_start_chooses_the_first_password_once(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(admin_password=None).start()
    token = await llb.app.issue_setup_token()
    # Behind a proxy, where the default password does not work.
    behind = {"extra_http_headers": {"X-Forwarded-For": "203.0.113.9"}}
    page = await (await visitors(llb, signed_in=False, **behind)).open(f"/login#setup={token}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Choose a password for admin")
    await expect(page.get_by_label("New password", exact=True)).to_be_focused()
    for again, shown in ((PASSWORD, "The passwords don't match."), (OTHER_PASSWORD, None)):
        await page.get_by_label("New password", exact=True).fill(OTHER_PASSWORD)
        await page.get_by_label("Confirm new password").fill(again)
        await page.get_by_role("button", name="Save and log in").click()
        if shown is not None:
            await expect(page.get_by_role("alert")).to_have_text(shown)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")

    other = await (await visitors(llb, signed_in=False)).open(f"/login#setup={token}")
    await other.get_by_label("New password", exact=True).fill(PASSWORD)
    await other.get_by_label("Confirm new password").fill(PASSWORD)
    await other.get_by_role("button", name="Save and log in").click()
    await expect(other.get_by_role("alert")).to_contain_text("This link is not valid")


async def test_the_page_tells_at_once_why_the_default_password_does_not_work_from_here(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(admin_password=None).start()
    here = await (await visitors(llb, signed_in=False)).open("/login")
    await log_in(here, "test")
    await expect(here.get_by_role("heading", level=1)).to_have_text("Models")
    behind = {"extra_http_headers": {"X-Forwarded-For": "203.0.113.9"}}
    page = await (await visitors(llb, signed_in=False, **behind)).open("/login")
    await expect(page.locator(".note.warning")).to_contain_text("the header of a proxy ('x-forwarded-for')")
    await log_in(page, "test")
    await expect(page.get_by_role("alert")).to_contain_text("works on the host itself only")
