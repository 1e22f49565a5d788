"""Chromium, driven by Playwright, against the real server in the test's own event loop."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright, expect

from e2e.profiles import DEADLINE_MS, DESK_OPTIONS, DESK_VIEWPORT, SAVE_DATA_SCRIPT, Profile, ProfilePool
from llb.engine import process as engine_process
from tests.conftest import (
    BalancerFactory,
    JoinedNodeFactory,
    balancer_factory,
    catalog,
    chat_gguf,
    hub,
    joined_node_factory,
    smollm2,
    start_balancer,
)
from tests.harness import PASSWORD, RunningBalancer
from tests.hub import HubStandIn
from tests.ports import free_port
from tests.processes import ROOT

__all__ = ["catalog", "chat_gguf", "hub", "smollm2"]

# Playwright's driver belongs to one event loop, and starting it takes longer than most tests do. All tests
# here, and all fixtures that await something, share the loop of the session; tests elsewhere have a loop
# each.
async_fixture = functools.partial(pytest_asyncio.fixture, loop_scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    shared = pytest.mark.asyncio(loop_scope="session")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(shared, append=False)


# As `DEADLINE_MS` for what a real engine says, which has to be loaded first.
ENGINE_DEADLINE_MS = 60_000
expect.set_options(timeout=DEADLINE_MS)

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# The first is the browser without its own windows, which cost as much as a small page each.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """Return the system's Chromium, which `./install.sh test` installs."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    assert found is not None, "the browser tests need Chromium: ./install.sh test installs it where it may"
    return found


@async_fixture(scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One Chromium for all tests of a process: it takes longer to start than most tests do.

    It is controlled through a pipe, because a WebSocket compresses every message, which is a tenth of the
    work of a test. It ends with the pipe, however the process ended.
    """
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=chromium_path(),
            ignore_default_args=True,
            args=[
                "--headless",
                *CHROMIUM_ARGUMENTS,
                "--remote-debugging-pipe",
                f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
            ],
        )
        yield launched
        await launched.close()


@pytest.fixture(scope="session")
def page_port() -> int:
    """The port of the servers whose pages tests look at, one after another.

    What browsers keep for a server, they keep by its port.
    """
    return free_port()


@async_fixture(scope="session")
async def profiles(browser: Browser, page_port: int) -> AsyncIterator[ProfilePool]:
    pool = ProfilePool(browser, f"http://127.0.0.1:{page_port}")
    yield pool
    await pool.close()


@async_fixture()
async def make_llb(
    tmp_path: Path, hub: HubStandIn, catalog: Path, page_port: int
) -> AsyncIterator[BalancerFactory]:
    async with balancer_factory(tmp_path / "home", hub, catalog) as make:

        def make_at_port(**settings: Any) -> RunningBalancer:
            llb = make(**settings)
            llb.preferred_port = page_port
            return llb

        yield make_at_port


@async_fixture()
async def llb(make_llb: BalancerFactory) -> RunningBalancer:
    """A started balancer whose node is online."""
    return await start_balancer(make_llb())


@pytest.fixture
def paced_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that count at a fixed pace, in the place of llama.cpp: for what happens while an answer is
    written. What is asked of them decides how long that takes, however busy the machine is.

    To be had before the models are pulled.
    """
    command = (sys.executable, "-I", "-S", str(ROOT / "tests" / "lab" / "paced_engine.py"))
    monkeypatch.setattr(engine_process, "engine_command", lambda *arguments: (*command, *arguments))


@async_fixture()
async def make_node(tmp_path: Path) -> AsyncIterator[JoinedNodeFactory]:
    async with joined_node_factory(tmp_path) as make:
        yield make


# Width of a page, once it has been laid out and drawn for the window that it has now.
SETTLED_WIDTH = """async () => {
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return document.documentElement.scrollWidth;
}"""


GO_TO_SCRIPT = """async (address) => {
  history.pushState(null, '', address);
  dispatchEvent(new PopStateEvent('popstate'));
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
}"""


async def go_to(page: Page, address: str) -> None:
    """Go to another page of llb as through a link, without a new load; returns when the old one has gone."""
    await page.evaluate(GO_TO_SCRIPT, address)


# Set for a test that has failed.
HAS_FAILED = pytest.StashKey[bool]()

# The llb that the pages of a browser context show.
_LLBS: dict[BrowserContext, RunningBalancer] = {}


def llb_of(page: Page) -> RunningBalancer:
    return _LLBS[page.context]


class Visitor:
    """A person with a browser profile of their own, in front of one llb."""

    def __init__(self, profile: Profile, llb: RunningBalancer) -> None:
        self.profile = profile
        self.context = profile.context
        self.llb = llb
        _LLBS[self.context] = llb

    async def sign_in(self, username: str = "admin", password: str = PASSWORD) -> None:
        """Get the session's cookie without the form."""
        answer = await self.request("POST", "/api/auth/login", {"username": username, "password": password})
        assert answer.is_success, answer.text
        await self.context.add_cookies(
            [
                {
                    "name": cookie.key,
                    "value": cookie.value,
                    "domain": answer.url.host,
                    "path": cookie["path"],
                    "expires": time.time() + int(cookie["max-age"]),
                    "httpOnly": bool(cookie["httponly"]),
                    "secure": bool(cookie["secure"]),
                    "sameSite": cookie["samesite"],
                }
                for line in answer.headers.get_list("set-cookie")
                for cookie in SimpleCookie(line).values()
            ]
        )

    async def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """The answer to a request with their cookies, which needs no page.

        Playwright's own requests keep a connection that a server at the same port may have closed meanwhile.
        """
        cookies = await self.context.cookies(self.llb.url)
        request = self.llb.http.build_request(method, path, json=body)
        # Without the token of the host.
        del request.headers["authorization"]
        if cookies:
            request.headers["cookie"] = "; ".join(f"{each['name']}={each['value']}" for each in cookies)
        answer = await self.llb.http.send(request)
        self.llb.http.cookies.clear()
        return answer

    async def open(self, path: str = "/") -> Page:
        """A tab at `path`; returns when the page has drawn itself."""
        page = await self.profile.get_page()
        await page.goto(f"{self.llb.url}{path}")
        await page.locator("main").wait_for()
        return page


VisitorFactory = Callable[..., Awaitable[Visitor]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report


@async_fixture()
async def visitors(
    request: pytest.FixtureRequest, browser: Browser, profiles: ProfilePool
) -> AsyncIterator[VisitorFactory]:
    """Makes visitors; `options` are those of a browser context. At the end none may have had a complaint.

    Without other options than `viewport` and `permissions` a visitor gets a profile that other tests have
    used, and that is as new (see profiles.py); one `of_their_own` where a test judges how the page is loaded,
    or all that the browser holds.
    """
    made: list[Visitor] = []

    async def make_profile(*, saves_data: bool, **options: Any) -> Profile:
        context = await browser.new_context(**{**DESK_OPTIONS, **options})
        if saves_data:
            await context.add_init_script(SAVE_DATA_SCRIPT)
        return Profile(context)

    async def make(
        llb: RunningBalancer,
        *,
        signed_in: bool = True,
        saves_data: bool = True,
        of_their_own: bool = False,
        viewport: ViewportSize = DESK_VIEWPORT,
        permissions: Sequence[str] = (),
        **options: Any,
    ) -> Visitor:
        profile: Profile
        if of_their_own or options or not saves_data or llb.url != profiles.origin:
            profile = await make_profile(saves_data=saves_data, viewport=viewport, **options)
        else:
            profile = reused = await profiles.take()
            reused.viewport = viewport
        if permissions:
            await profile.context.grant_permissions(permissions)
        visitor = Visitor(profile, llb)
        made.append(visitor)
        if signed_in:
            await visitor.sign_in()
        return visitor

    yield make
    for visitor in made:
        await profiles.give_back(visitor.profile, has_passed=HAS_FAILED not in request.node.stash)
        del _LLBS[visitor.context]
    complaints = [text for visitor in made for text in visitor.profile.console_errors]
    assert complaints == []


@async_fixture()
async def visitor(visitors: VisitorFactory, llb: RunningBalancer) -> Visitor:
    """An administrator who is signed in, in English, at a desk."""
    return await visitors(llb)
