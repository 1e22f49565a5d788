"""Profiles that go from test to test: nothing of one test is there in the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Error, Page, expect

from e2e.conftest import Visitor
from e2e.profiles import ProfilePool, ReusableProfile
from tests.harness import RunningBalancer

STORE_SCRIPT = """() => {
  window.name = 'left';
  globalThis.left = true;
  localStorage.setItem('llb.theme', '"dark"');
  sessionStorage.setItem('left', '1');
  document.cookie = 'left=1';
  history.pushState(null, '', '/nodes');
}"""
FOUND_SCRIPT = """async () => ({
  name: window.name,
  global: globalThis.left,
  storage: [localStorage.length, sessionStorage.length],
  cookie: document.cookie,
  hovered: document.querySelectorAll('body :hover').length,
  size: [innerWidth, innerHeight],
  theme: document.documentElement.dataset.theme,
  permission: (await navigator.permissions.query({ name: 'clipboard-read' })).state,
  visits: history.length,
})"""


async def look_around(pool: ProfilePool, llb: RunningBalancer, profile: ReusableProfile) -> dict[str, object]:
    """What a stranger's first page finds; the profile is given back."""
    visitor = Visitor(profile, llb)
    page = await visitor.open("/login")
    found = dict(await page.evaluate(FOUND_SCRIPT))
    assert await visitor.context.cookies() == []
    await pool.give_back(profile, has_passed=True)
    return found


async def test_nothing_of_a_test_is_left_for_the_next(llb: RunningBalancer, profiles: ProfilePool) -> None:
    new = await profiles.make()
    as_new = await look_around(profiles, llb, new)

    used = await profiles.take()
    assert used is new
    visitor = Visitor(used, llb)
    await visitor.sign_in()
    await visitor.context.grant_permissions(["clipboard-read"])
    page = await visitor.open("/models")
    await expect(page.get_by_role("article", name="tiny")).to_be_visible()
    await page.get_by_role("button", name="Log out").hover()
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.evaluate(STORE_SCRIPT)
    await profiles.give_back(used, has_passed=True)

    again = await profiles.take()
    assert again is used
    assert await look_around(profiles, llb, again) == as_new

    # An error after the end of its test would fail the next one, without an explanation.
    late = await profiles.take()
    await (await late.get_page()).evaluate("localStorage.setItem('left', '1')")
    profiles._waiting.append(late)
    with pytest.raises(AssertionError, match="an earlier test"):
        await profiles.take()
    await late.close()


USES: dict[str, Callable[[Page], Awaitable[object]]] = {
    "route": lambda page: page.route("**/api/system", lambda route: route.abort()),
    "clock": lambda page: page.clock.install(),
    "emulate_media": lambda page: page.emulate_media(color_scheme="dark"),
    "set_offline": lambda page: page.context.set_offline(False),
    "add_init_script": lambda page: page.context.add_init_script("globalThis.left = true"),
    "new_page": lambda page: page.context.new_page(),
    "request": lambda page: page.request.get(page.url),
    "down": lambda page: page.keyboard.down("Shift"),
}


async def test_of_which_more_was_asked_is_closed(llb: RunningBalancer, profiles: ProfilePool) -> None:
    profile = await profiles.make()
    page = await Visitor(profile, llb).open("/login")
    for name, use in USES.items():
        profile.uses.clear()
        await use(page)
        assert profile.uses == [name]
        assert not await profile.reset()
    profile.uses.clear()
    page.on("request", lambda request: None)
    assert profile.uses == ["on"]
    await profiles.give_back(profile, has_passed=True)
    with pytest.raises(Error, match="closed"):
        await page.context.new_page()


DATABASE_SCRIPT = """() => new Promise((done) => {
  indexedDB.open('left').onsuccess = ({ target }) => done(target.result.close());
})"""


async def leave_a_database(page: Page) -> None:
    await page.evaluate(DATABASE_SCRIPT)


async def leave_a_cache(page: Page) -> None:
    await page.evaluate("caches.open('left').then(() => {})")


async def leave_the_page(page: Page) -> None:
    await page.goto("about:blank")


async def close_it(page: Page) -> None:
    await page.close()


async def do_nothing(_: Page) -> None:
    """The test has failed: its profile may be in any state."""


async def test_one_that_is_not_as_new_is_closed(llb: RunningBalancer, profiles: ProfilePool) -> None:
    ends = {
        leave_a_database: True,
        leave_a_cache: True,
        leave_the_page: True,
        close_it: True,
        do_nothing: False,
    }
    for end, has_passed in ends.items():
        profile = await profiles.make()
        await end(await Visitor(profile, llb).open("/login"))
        await profiles.give_back(profile, has_passed=has_passed)
        with pytest.raises(Error, match="closed"):
            await profile.context.new_page()
