"""Chromium, driven by Playwright, against the real server in the test's own event loop."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

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
from tests.processes import ROOT, wait_until

__all__ = ["catalog", "chat_gguf", "hub", "smollm2"]

pytest_plugins = ("tests.timeouts",)

# Playwright's driver belongs to one event loop, and starting it takes longer than most tests do. All tests
# here, and all fixtures that await something, share the loop of the session; tests elsewhere have a loop
# each.
async_fixture = functools.partial(pytest_asyncio.fixture, loop_scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    shared = pytest.mark.asyncio(loop_scope="session")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and pytest_asyncio.is_async_test(item):
            item.add_marker(shared, append=False)


# For hangs only: whatever is awaited comes within a second or two on a quiet machine, and within fifteen
# where ten other programs want the same two cores.
DEADLINE_MS = 30_000
# The same for what a real engine says, which has to be loaded first.
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
    """The system's Chromium; `./install.sh test` sees to it that there is one."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    assert found is not None, "the browser tests need Chromium: ./install.sh test installs it where it may"
    return found


# Runs a command, and kills its whole session when the process that started it has gone, however it went:
# standard input is a pipe from there.
END_WITH_PARENT = '"$@" </dev/null & read -r _; kill -KILL 0'


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Chromium for all tests of a process, at this address: it takes longer to start than most
    tests do.
    """
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [
            *("sh", "-c", END_WITH_PARENT, "sh"),
            chromium_path(),
            "--headless",
            *CHROMIUM_ARGUMENTS,
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    told = profile / "DevToolsActivePort"
    wait_until(lambda: told.exists() and told.read_text().count("\n") == 1)
    yield f"http://127.0.0.1:{told.read_text().splitlines()[0]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@async_fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        connected = await playwright.chromium.connect_over_cdp(chromium)
        yield connected
        await connected.close()


@async_fixture()
async def make_llb(tmp_path: Path, hub: HubStandIn, catalog: Path) -> AsyncIterator[BalancerFactory]:
    async with balancer_factory(tmp_path / "home", hub, catalog) as make:
        yield make


@async_fixture()
async def llb(make_llb: BalancerFactory) -> RunningBalancer:
    """A started appliance whose node is online."""
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


# Without it, each page loads the files of all other pages after two seconds, as much work as the page itself.
SAVE_DATA_SCRIPT = "Object.defineProperty(navigator.connection, 'saveData', { get: () => true });"

# What a browser says of an answer that the test wants to see refused.
IGNORED_CONSOLE_PREFIXES = ("Failed to load resource", "WebSocket connection to")


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


# The llb that the pages of a browser context show.
_LLBS: dict[BrowserContext, RunningBalancer] = {}


def llb_of(page: Page) -> RunningBalancer:
    return _LLBS[page.context]


class Visitor:
    """A person with a browser profile of their own, in front of one llb.

    What the browser complains of is kept.
    """

    def __init__(self, context: BrowserContext, llb: RunningBalancer) -> None:
        self.context = context
        self.llb = llb
        self.console_errors: list[str] = []
        _LLBS[context] = llb
        context.on("page", self._watch_page)

    def _watch_page(self, page: Page) -> None:
        page.on("console", lambda message: self._record_console_message(message.type, message.text))
        page.on("pageerror", lambda error: self.console_errors.append(f"{error}\n{error.stack}"))

    def _record_console_message(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(IGNORED_CONSOLE_PREFIXES):
            self.console_errors.append(text)

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


VisitorFactory = Callable[..., Awaitable[Visitor]]


@async_fixture()
async def visitors(browser: Browser) -> AsyncIterator[VisitorFactory]:
    """Makes visitors; `options` are those of a browser context. At the end none may have had a complaint."""
    made: list[Visitor] = []

    async def make(
        llb: RunningBalancer, *, signed_in: bool = True, saves_data: bool = True, **options: Any
    ) -> Visitor:
        desk = {"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce"}
        context = await browser.new_context(**{**desk, **options})
        context.set_default_timeout(DEADLINE_MS)
        if saves_data:
            await context.add_init_script(SAVE_DATA_SCRIPT)
        visitor = Visitor(context, llb)
        made.append(visitor)
        if signed_in:
            await visitor.sign_in()
        return visitor

    yield make
    for visitor in made:
        await visitor.context.close()
        del _LLBS[visitor.context]
    assert [text for visitor in made for text in visitor.console_errors] == []


@async_fixture()
async def visitor(visitors: VisitorFactory, llb: RunningBalancer) -> Visitor:
    """An administrator who is signed in, in English, at a desk."""
    return await visitors(llb)
