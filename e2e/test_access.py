"""Access: keys that are shown once, users, and the record of what was done."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
from playwright.async_api import Locator, Page, Route, expect

from e2e.conftest import SETTLED_WIDTH, Visitor, VisitorFactory
from tests.harness import PASSWORD, RunningBalancer

NEW_PASSWORD = "a password of her own"
HOSTILE = "<img src=x onerror=alert(1)>"
DAY_S = 86_400


def row(page: Page, table: str, text: str) -> Locator:
    return page.get_by_role("table", name=table).get_by_role("row").filter(has_text=text)


async def status_with(llb: RunningBalancer, key: str, path: str = "/v1/models") -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"{llb.url}{path}", headers={"Authorization": f"Bearer {key}"})
        return answer.status_code


async def add_user(llb: RunningBalancer, username: str, **fields: str) -> dict[str, Any]:
    answer = await llb.http.post(
        "/api/users", json={"username": username, "password": NEW_PASSWORD, **fields}
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def add_key(llb: RunningBalancer, name: str, **fields: Any) -> str:
    answer = await llb.http.post("/api/keys", json={"name": name, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def as_user(llb: RunningBalancer, visitors: VisitorFactory, username: str, **options: Any) -> Visitor:
    visitor = await visitors(llb, signed_in=False, **options)
    await visitor.sign_in(username, NEW_PASSWORD)
    return visitor


async def make_key(page: Page, name: str) -> tuple[Locator, str]:
    """The dialog that shows a new key, and the key."""
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill(name)
    await dialog.get_by_role("button", name="Create key").click()
    shown = dialog.get_by_role("group", name="Key", exact=True)
    await expect(shown).to_be_focused()
    found = re.search(r"sk-[0-9a-f]{48}", await shown.inner_text())
    assert found is not None
    return dialog, found[0]


# --- keys --------------------------------------------------------------------------------------------


async def test_a_key_is_made_works_and_is_revoked(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await expect(page.get_by_text("No keys yet.")).to_be_visible()
    dialog, key = await make_key(page, HOSTILE)
    assert await status_with(visitor.llb, key) == 200
    await dialog.get_by_role("button", name="Done").click()
    entry = row(page, "API keys", HOSTILE)
    await expect(entry).to_contain_text(f"{key[:10]}…")
    await expect(entry).to_contain_text("Use models")

    await entry.get_by_role("button", name="Revoke").click()
    await expect(dialog).to_contain_text(f"Revoke “{HOSTILE}”?")
    await expect(dialog).to_contain_text(key[:10])
    await dialog.get_by_role("button", name="Revoke").click()
    await expect(entry).to_have_count(0)
    await expect(page.get_by_role("heading", name="API keys")).to_be_focused()
    assert await status_with(visitor.llb, key) == 401
    await expect(row(page, "Audit log", "Revoked API key")).to_contain_text(HOSTILE)


async def test_a_key_is_shown_until_its_button_is_pressed_and_never_again(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(llb, of_their_own=True)).open("/access")
    dialog, key = await make_key(page, "laptop")
    await expect(dialog).to_contain_text("You won't be able to see it again")
    for _ in range(3):
        await page.keyboard.press("Escape")
    await page.mouse.click(5, 5)
    await expect(dialog).to_be_visible()
    assert key in await memory_of(page)
    await dialog.get_by_role("button", name="Done").click()
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_role("button", name="New key")).to_be_focused()
    assert key not in await page.content()
    assert key not in await memory_of(page)
    await page.reload()
    await expect(row(page, "API keys", "laptop")).to_be_visible()
    assert key not in await page.content()


async def memory_of(page: Page) -> str:
    """All that scripts of the page hold, as the browser's own tools see it."""
    session = await page.context.new_cdp_session(page)
    chunks: list[str] = []
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda event: chunks.append(event["chunk"]))
    await session.send("HeapProfiler.collectGarbage")
    await session.send("HeapProfiler.takeHeapSnapshot")
    await session.detach()
    return "".join(chunks)


async def test_a_key_and_its_command_can_be_copied(visitor: Visitor) -> None:
    await visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await visitor.open("/access")
    dialog, key = await make_key(page, "laptop")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_text("Copied", exact=True)).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == key
    command = dialog.get_by_role("group", name="Command")
    await command.get_by_role("button", name="Copy").click()
    await expect(command.get_by_text("Copied", exact=True)).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == f"curl {visitor.llb.url}/v1/models -H 'Authorization: Bearer {key}'"


async def test_a_key_may_do_what_was_chosen(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Name")).to_be_focused()
    await dialog.get_by_label("Name").fill("reader")
    ask, see, change, everything = (
        dialog.get_by_role("checkbox", name=name, exact=True)
        for name in ("Use models", "View models and nodes", "Manage models", "Full access")
    )
    await expect(change).not_to_be_checked()
    await ask.uncheck()
    await see.uncheck()
    await dialog.get_by_role("button", name="Create key").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("at least one permission")
    await expect(dialog.get_by_label("Name")).to_have_value("reader")
    await expect(see).not_to_be_checked()

    await everything.check()
    for implied in (ask, see, change):
        await expect(implied).to_be_checked()
        await expect(implied).to_be_disabled()
    await everything.uncheck()
    await expect(ask).not_to_be_checked()
    await see.check()
    await dialog.get_by_role("button", name="Create key").click()
    shown = await dialog.get_by_role("group", name="Key", exact=True).inner_text()
    [key] = re.findall(r"sk-\w+", shown)
    await expect(dialog.get_by_role("group", name="Command")).to_contain_text("/api/models")
    assert await status_with(visitor.llb, key, "/api/models") == 200
    assert await status_with(visitor.llb, key) == 403


async def test_a_key_ends_when_it_was_told_to(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    dialog = page.get_by_role("dialog")
    for lifetime, days in (("Never", None), ("In 7 days", 7), ("In 90 days", 90)):
        name, asked_at = f"laptop {days}", time.time()
        await page.get_by_role("button", name="New key").click()
        await dialog.get_by_label("Name").fill(name)
        await dialog.get_by_label("Expires").select_option(label=lifetime)
        await dialog.get_by_role("button", name="Create key").click()
        await dialog.get_by_role("button", name="Done").click()
        await expect(row(page, "API keys", name)).to_be_visible()
        [record] = await visitor.llb.app.db.fetch_all(
            "SELECT expires_at FROM api_keys WHERE name = ?", (name,)
        )
        if days is None:
            assert record["expires_at"] is None
        else:
            assert asked_at - 1 <= record["expires_at"] - days * DAY_S <= time.time() + 1


async def test_a_last_day_counts_to_its_end_where_the_person_is(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await (await visitors(llb, timezone_id="Asia/Tokyo")).open("/access")
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("laptop")
    await dialog.get_by_label("Expires").select_option(label="On a date")
    await dialog.get_by_role("button", name="Create key").click()
    last_day = dialog.get_by_label("Expiry date")
    await expect(last_day).to_be_focused()  # the browser asks for it
    await last_day.fill("2099-01-31")
    await dialog.get_by_role("button", name="Create key").click()
    await dialog.get_by_role("button", name="Done").click()
    await expect(row(page, "API keys", "laptop")).to_contain_text("Jan 31, 2099, 11:59 PM")
    [key] = (await llb.http.get("/api/keys")).json()["keys"]
    assert key["expires_at"] == "2099-01-31T14:59:59.000Z"


async def test_keys_that_end_or_have_ended_are_marked(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3 * DAY_S))
    await add_key(llb, "leaving", expires_at=soon)
    await add_key(llb, "staying")
    gone = await add_key(llb, "departed", expires_at=soon)
    async with llb.app.db.write() as tx:
        await tx.execute("UPDATE api_keys SET expires_at = ? WHERE id = ?", (time.time() - DAY_S, gone))
    page = await (await visitors(llb)).open("/access")
    await expect(row(page, "API keys", "leaving")).to_contain_text("Expires soon")
    await expect(row(page, "API keys", "departed")).to_contain_text("Expired")
    await expect(row(page, "API keys", "staying").get_by_role("cell").nth(4)).to_have_text("Never")
    await expect(row(page, "API keys", "staying")).to_contain_text("Created on the command line")


async def test_limits_of_a_key_are_set_seen_and_changed(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("laptop")
    await dialog.get_by_label("Requests per minute").fill("0")
    await dialog.get_by_role("button", name="Create key").click()
    await expect(dialog.get_by_label("Requests per minute")).to_be_focused()  # the browser asks for another
    await dialog.get_by_label("Requests per minute").fill("1200")
    await dialog.get_by_label("Concurrent requests").fill("2")
    await dialog.get_by_role("button", name="Create key").click()
    await dialog.get_by_role("button", name="Done").click()
    laptop = row(page, "API keys", "laptop")
    await expect(laptop).to_contain_text("1.2K requests/min")
    await expect(laptop).to_contain_text("2 concurrent")

    await laptop.get_by_role("button", name="Limits for laptop").click()
    await expect(dialog.get_by_label("Requests per minute")).to_have_value("1200")
    await expect(dialog.get_by_label("Tokens per minute")).to_have_value("")
    await dialog.get_by_label("Requests per minute").fill("")
    await dialog.get_by_label("Tokens per minute").fill("5000")
    await dialog.get_by_role("button", name="Save limits").click()
    await expect(laptop).to_contain_text("5K tokens/min")
    await expect(laptop).not_to_contain_text("requests/min")
    await expect(row(page, "Audit log", "Changed API key limits")).to_contain_text("5000 tokens")
    [key] = (await visitor.llb.http.get("/api/keys")).json()["keys"]
    assert key["limits"] == {"requests_per_minute": None, "tokens_per_minute": 5000, "concurrent": 2}


async def test_what_an_administrator_limits_a_user_can_only_tighten(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    await add_user(llb, "ann")
    page = await (await as_user(llb, visitors, "ann")).open("/access")
    dialog, _ = await make_key(page, "hers")
    await dialog.get_by_role("button", name="Done").click()
    [key] = (await llb.http.get("/api/keys")).json()["keys"]
    await llb.http.patch(f"/api/keys/{key['id']}", json={"limits": {"requests_per_minute": 10}})
    await page.reload()
    hers = row(page, "API keys", "hers")
    await hers.get_by_role("button", name="Limits for hers").click()
    rate = dialog.get_by_label("Requests per minute")
    await expect(rate).to_have_accessible_description(re.compile("Maximum 10"))
    for refused in ("", "11"):
        await rate.fill(refused)
        await dialog.get_by_role("button", name="Save limits").click()
        await expect(rate).to_be_focused()
    await rate.fill("4")
    await dialog.get_by_role("button", name="Save limits").click()
    await expect(hers).to_contain_text("4 requests/min")


async def test_a_user_has_their_own_keys_and_nothing_else(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    await add_user(llb, "ann")
    await add_key(llb, "not hers")
    asked: list[str] = []
    hers = await as_user(llb, visitors, "ann")
    hers.context.on("request", lambda request: asked.append(request.url))
    page = await hers.open("/access")
    await expect(page.get_by_text("No keys yet.")).to_be_visible()
    assert await page.get_by_role("heading", level=2).all_inner_texts() == ["API keys"]
    await page.get_by_role("button", name="New key").click()
    await expect(page.get_by_role("dialog").get_by_role("checkbox")).to_have_count(2)
    await page.keyboard.press("Escape")
    dialog, _ = await make_key(page, "hers")
    await dialog.get_by_role("button", name="Done").click()
    await expect(row(page, "API keys", "hers")).to_be_visible()
    await expect(page.get_by_role("columnheader", name="Owner")).to_have_count(0)
    assert not [url for url in asked if url.endswith("/api/users") or "/api/audit" in url]

    admins = await (await visitors(llb)).open("/access")
    await expect(row(admins, "API keys", "hers").filter(has_text="ann")).to_be_visible()


# --- users -------------------------------------------------------------------------------------------


async def test_users_come_change_and_go(visitor: Visitor, visitors: VisitorFactory) -> None:
    page = await visitor.open("/access")
    dialog = page.get_by_role("dialog")
    await page.get_by_role("button", name="New user").click()
    await dialog.get_by_label("Username").fill(" ann ")
    password = dialog.get_by_label("Password", exact=True)
    await expect(password).to_have_attribute("autocomplete", "new-password")
    await password.fill(NEW_PASSWORD)
    await expect(dialog.get_by_role("radio", name="User", exact=True)).to_be_checked()
    await dialog.get_by_role("button", name="Add").click()
    ann = row(page, "Users", "ann")
    await expect(ann.get_by_role("cell").first).to_have_text("User")
    await expect(row(page, "Audit log", "Added user").filter(has_text="ann")).to_be_visible()

    hers = await (await as_user(visitor.llb, visitors, "ann")).open("/access")
    await add_key(visitor.llb, "host's")
    made, _ = await make_key(hers, "hers")
    await made.get_by_role("button", name="Done").click()

    await ann.get_by_role("button", name="Change role").click()
    await dialog.get_by_role("radio", name="Administrator").check()
    await dialog.get_by_role("button", name="Change role").click()
    await expect(ann.get_by_role("cell").first).to_have_text("Administrator")

    await ann.get_by_role("button", name="Set password").click()
    await dialog.get_by_label("New password").fill("the second of her own")
    await dialog.get_by_role("button", name="Set password").click()
    await expect(dialog).to_have_count(0)
    await hers.reload()
    await expect(hers.get_by_role("button", name="Log in")).to_be_visible()

    await expect(row(page, "API keys", "hers")).to_be_visible()
    await ann.get_by_role("button", name="Delete").click()
    await expect(dialog).to_contain_text("Delete ann?")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(ann).to_have_count(0)
    await expect(page.get_by_role("heading", name="Users")).to_be_focused()
    await expect(row(page, "API keys", "hers")).to_have_count(0)


async def test_a_taken_name_is_told_in_the_dialog(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    await page.get_by_role("button", name="New user").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Username").fill("Admin")
    await dialog.get_by_label("Password", exact=True).fill(NEW_PASSWORD)
    await dialog.get_by_role("radio", name="Administrator").check()
    await dialog.get_by_role("button", name="Add").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("already taken")
    await expect(dialog.get_by_label("Username")).to_have_value("Admin")
    await expect(dialog.get_by_role("radio", name="Administrator")).to_be_checked()


async def test_the_last_administrator_stays_one(visitor: Visitor) -> None:
    page = await visitor.open("/access")
    me = row(page, "Users", "admin")
    dialog = page.get_by_role("dialog")
    await me.get_by_role("button", name="Change role").click()
    await dialog.get_by_role("radio", name="User", exact=True).check()
    await dialog.get_by_role("button", name="Change role").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("only administrator")
    await page.keyboard.press("Escape")
    await me.get_by_role("button", name="Delete").click()
    await expect(dialog).to_contain_text("This is you")
    await dialog.get_by_role("button", name="Delete").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("only administrator")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(me).to_contain_text("Administrator")
    await me.get_by_role("link", name="Change password").click()
    await expect(page.get_by_label("Current password")).to_be_focused()


async def test_who_gives_the_role_away_loses_its_lists(visitor: Visitor) -> None:
    await add_user(visitor.llb, "ann", role="admin")
    page = await visitor.open("/access")
    await row(page, "Users", "admin").filter(has_text="You").get_by_role("button", name="Change role").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("radio", name="User", exact=True).check()
    await dialog.get_by_role("button", name="Change role").click()
    await expect(page.get_by_role("heading", name="Users")).to_have_count(0)
    await expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    await expect(page.get_by_role("alert")).to_have_count(0)


# --- the audit log -----------------------------------------------------------------------------------


async def test_the_audit_log_says_who_did_what_and_goes_back(
    llb: RunningBalancer, visitors: VisitorFactory
) -> None:
    for number in range(45):
        await add_key(llb, f"key {number:02}")
    async with llb.app.db.write() as tx:
        await tx.execute(
            "INSERT INTO audit (time, actor, action, address, result) VALUES (?, ?, ?, ?, ?)",
            (1_700_000_000, HOSTILE, "sing <b>", "192.0.2.7", "invalid_credentials"),
        )
    page = await (await visitors(llb, timezone_id="Asia/Tokyo")).open("/access")
    log = page.get_by_role("table", name="Audit log")
    entries = log.get_by_role("rowheader")
    await expect(entries.first).to_contain_text("Log-in")
    refused = log.get_by_role("row").filter(has_text="sing <b>")
    for text in (HOSTILE, "192.0.2.7", "Wrong username or password", "Nov 15, 2023, 7:13 AM"):
        await expect(refused).to_contain_text(text)
    await expect(entries).to_have_count(20)
    older = page.get_by_role("button", name="Load older")
    await older.click()
    await expect(entries).to_have_count(40)
    await expect(entries.last).to_contain_text("key 07")

    # What is done now comes to the front; what was opened stays open.
    dialog, _ = await make_key(page, "new")
    await dialog.get_by_role("button", name="Done").click()
    await expect(entries).to_have_count(41)
    await expect(entries.first).to_contain_text("Created API key new")
    await older.click()
    await expect(older).to_have_count(0)
    await expect(entries.last).to_contain_text("Added user admin")


# --- everywhere --------------------------------------------------------------------------------------


async def test_a_list_that_cannot_be_had_says_why_and_is_asked_for_again(visitor: Visitor) -> None:
    async def refuse(route: Route) -> None:
        error = {"message": "the disk is gone", "type": "api_error", "code": "internal_error"}
        await route.fulfill(status=500, json={"error": error})

    await visitor.context.route("**/api/users", refuse)
    page = await visitor.open("/access")
    users = page.get_by_role("region", name="Users")
    await expect(users.get_by_role("alert")).to_contain_text("Internal error.")
    await expect(page.get_by_text("No keys yet.")).to_be_visible()
    await visitor.context.unroute("**/api/users")
    await users.get_by_role("button", name="Try again").click()
    await expect(row(page, "Users", "admin")).to_be_visible()
    await expect(users.get_by_role("alert")).to_have_count(0)


async def test_hostile_names_fit_every_width(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    names = (HOSTILE, "a" * 64, "日本語の名前はとても長いことがあります", "'\"></td>{name};--x")
    for name in names:
        await add_key(llb, name)
        await add_user(llb, name)
    visitor = await visitors(llb, viewport={"width": 360, "height": 800})
    page = await visitor.open("/access")
    for width in (360, 700, 2560):
        await page.set_viewport_size({"width": width, "height": 800})
        for name in names:
            await expect(row(page, "API keys", name)).to_be_visible()
        revoke = row(page, "API keys", HOSTILE).get_by_role("button", name="Revoke")
        await revoke.scroll_into_view_if_needed()
        await expect(revoke).to_be_in_viewport(ratio=1)
        assert await page.locator("main img").count() == 0
        assert await page.evaluate(SETTLED_WIDTH) <= width


async def test_in_japanese_on_a_phone_in_the_dark(llb: RunningBalancer, visitors: VisitorFactory) -> None:
    # The audit log has its reason.
    refused = await llb.http.post("/api/auth/login", json={"username": "admin", "password": "wrong"})
    assert refused.status_code == 401
    visitor = await visitors(llb, locale="ja", color_scheme="dark", viewport={"width": 360, "height": 740})
    page = await visitor.open("/access")
    await page.get_by_role("button", name="ユーザーを追加").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("ユーザー名").fill("admin")
    await dialog.get_by_label("パスワード", exact=True).fill(PASSWORD)
    await dialog.get_by_role("button", name="追加").click()
    await expect(dialog.get_by_role("alert")).to_have_text("このユーザー名はすでに使われています。")
    await page.keyboard.press("Escape")
    await expect(row(page, "監査ログ", "ログイン").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
