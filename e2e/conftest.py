"""Chromium, driven by Playwright, against the real server in the test's own event loop."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.conftest import (
    LlbMaker,
    NodeMaker,
    appliances,
    catalog,
    chat_gguf,
    hub,
    joined_hosts,
    online,
    smollm2,
)
from tests.harness import PASSWORD, Llb
from tests.hub import HubStandIn
from tests.processes import wait_until

__all__ = ["catalog", "chat_gguf", "hub", "smollm2"]

# Playwright's driver belongs to one event loop, and starting it takes longer than most tests do. All tests here, and
# all fixtures that await something, share the loop of the session; tests elsewhere have a loop each.
async_fixture = functools.partial(pytest_asyncio.fixture, loop_scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    shared = pytest.mark.asyncio(loop_scope="session")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(shared, append=False)


DEADLINE_MS = 15_000

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# The first is the browser without its own windows, which cost as much as a small page each.
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """The system's Chromium; `./install.sh test` sees to it that there is one."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert found is not None, "the browser tests need Chromium: ./install.sh test installs it where it may"
    return found


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Chromium for all tests of a process, at this address: it takes longer to start than most tests do."""
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [
            chromium_path(),
            "--headless",
            *ARGUMENTS,
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    told = profile / "DevToolsActivePort"
    wait_until(lambda: told.exists() and told.read_text().count("\n") == 1)
    yield f"http://127.0.0.1:{told.read_text().splitlines()[0]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@async_fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        connected = await playwright.chromium.connect_over_cdp(chromium)
        yield connected
        await connected.close()


@async_fixture()
async def make_llb(tmp_path: Path, hub: HubStandIn, catalog: Path) -> AsyncIterator[LlbMaker]:
    async with appliances(tmp_path / "home", hub, catalog) as make:
        yield make


@async_fixture()
async def llb(make_llb: LlbMaker) -> Llb:
    """A started appliance whose node is online."""
    return await online(make_llb())


@async_fixture()
async def make_node(tmp_path: Path) -> AsyncIterator[NodeMaker]:
    async with joined_hosts(tmp_path) as make:
        yield make


# What a browser says of an answer that the test wants to see refused.
EXPECTED_COMPLAINTS = ("Failed to load resource", "WebSocket connection to")


class Visitor:
    """A person with a browser profile of their own, in front of one llb. What the browser complains of is kept."""

    def __init__(self, context: BrowserContext, llb: Llb) -> None:
        self.context = context
        self.llb = llb
        self.complaints: list[str] = []
        context.on("page", self._listen)

    def _listen(self, page: Page) -> None:
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(EXPECTED_COMPLAINTS):
            self.complaints.append(text)

    async def sign_in(self, username: str = "admin", password: str = PASSWORD) -> None:
        """Get the session's cookie without the form."""
        answer = await self.context.request.post(
            f"{self.llb.url}/api/auth/login", data={"username": username, "password": password}
        )
        assert answer.ok, await answer.text()

    async def open(self, path: str = "/") -> Page:
        """A new tab at `path`; returns when the page has drawn itself."""
        page = await self.context.new_page()
        await page.goto(f"{self.llb.url}{path}")
        await page.locator("main").wait_for()
        return page


VisitorMaker = Callable[..., Awaitable[Visitor]]


@async_fixture()
async def visitors(browser: Browser) -> AsyncIterator[VisitorMaker]:
    """Makes visitors; `options` are those of a browser context. At the end none may have had a complaint."""
    made: list[Visitor] = []

    async def make(llb: Llb, *, signed_in: bool = True, **options: Any) -> Visitor:
        desk = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce"}
        context = await browser.new_context(**{**desk, **options})
        context.set_default_timeout(DEADLINE_MS)
        visitor = Visitor(context, llb)
        made.append(visitor)
        if signed_in:
            await visitor.sign_in()
        return visitor

    yield make
    for visitor in made:
        await visitor.context.close()
    assert [text for visitor in made for text in visitor.complaints] == []


@async_fixture()
async def visitor(visitors: VisitorMaker, llb: Llb) -> Visitor:
    """An administrator who is signed in, in English, at a desk."""
    return await visitors(llb)
