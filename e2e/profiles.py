"""Browser profiles for tests; those that ask for nothing special get one that has shown the page before.

The first page of a new browser context costs two to three times the work of one in a tab that has shown it
before: a process, and sixty files to fetch and compile. So a profile goes from test to test, with its tab and
what the browser's caches hold. Everything else is removed and looked for in between, and a profile of which
a test has asked something that could outlive that, such as a route, a clock or a second tab, is closed:
only what is known to be harmless is reused.
"""

from __future__ import annotations

from typing import Any

from playwright.async_api import Browser, BrowserContext, Error, Keyboard, Mouse, Page, ViewportSize

from llb.api.routes.page import Page as Files
from llb.base.resources import resource_path

# A document of llb that has no scripts, is under the headers of the page, and lies in the browser's cache:
# a tab waits there, whether its server runs or not.
PARKING_PATH = f"/assets/{Files.load(resource_path('web')).version}/icon.svg"

# For hangs only: whatever is awaited comes within a second or two on a quiet machine, and within fifteen
# where ten other programs want the same two cores.
DEADLINE_MS = 30_000

# Width and height of a window at a desk.
DESK_VIEWPORT: ViewportSize = {"width": 1280, "height": 860}
DESK_OPTIONS: dict[str, Any] = {"viewport": DESK_VIEWPORT, "reduced_motion": "reduce"}

# Without it, each page loads the files of all other pages after two seconds, as much work as the page itself.
SAVE_DATA_SCRIPT = "Object.defineProperty(navigator.connection, 'saveData', { get: () => true });"

# What ends with the document, or is removed by `ReusableProfile.reset`.
# fmt: off
HARMLESS_FOR_PAGES = frozenset({
    "check", "click", "content", "context", "dblclick", "dispatch_event", "eval_on_selector_all", "evaluate",
    "expect_download", "expect_request", "expect_response", "fill", "focus", "get_attribute", "get_by_label",
    "get_by_placeholder", "get_by_role", "get_by_text", "go_back", "goto", "hover", "inner_text", "is_closed",
    "is_visible", "keyboard", "locator", "mouse", "press", "reload", "screenshot", "select_option",
    "set_viewport_size", "text_content", "title", "uncheck", "url", "viewport_size", "wait_for_function",
    "wait_for_load_state", "wait_for_url",
})
HARMLESS_FOR_CONTEXTS = frozenset({
    "add_cookies", "browser", "clear_cookies", "clear_permissions", "cookies", "grant_permissions", "pages",
    "storage_state",
})
# A key or a button that is pressed with the others stays down.
HARMLESS_FOR_KEYBOARDS = frozenset({"insert_text", "press", "type"})
HARMLESS_FOR_MICE = frozenset({"click", "dblclick", "move", "wheel"})
# fmt: on

CLEAR_SCRIPT = """() => {
  window.name = '';
  localStorage.clear();
  sessionStorage.clear();
}"""
# What a document has left behind for the next one at its origin.
LEFT_SCRIPT = """async () => {
  const left = {
    name: window.name.length,
    localStorage: localStorage.length,
    sessionStorage: sessionStorage.length,
    databases: (await indexedDB.databases()).length,
    caches: (await caches.keys()).length,
    workers: (await navigator.serviceWorker.getRegistrations()).length,
  };
  return Object.keys(left).filter((kind) => left[kind] > 0);
}"""

# What a browser says of an answer that the test wants to see refused.
IGNORED_CONSOLE_PREFIXES = ("Failed to load resource", "WebSocket connection to")


class _Watched:
    """Keeps in `uses` what a test has asked for that is not known to be harmless."""

    _harmless: frozenset[str]
    _uses: list[str]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in self._harmless:
            self._uses.append(name)
        return super().__getattribute__(name)


class _WatchedTab(_Watched, Page):
    _harmless = HARMLESS_FOR_PAGES


class _WatchedContext(_Watched, BrowserContext):
    _harmless = HARMLESS_FOR_CONTEXTS


class _WatchedKeyboard(_Watched, Keyboard):
    _harmless = HARMLESS_FOR_KEYBOARDS


class _WatchedMouse(_Watched, Mouse):
    _harmless = HARMLESS_FOR_MICE


class Profile:
    """A browser context, and what the browser complained of in it."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.console_errors: list[str] = []
        context.set_default_timeout(DEADLINE_MS)
        context.on("page", self._watch_page)

    def _watch_page(self, page: Page) -> None:
        page.on("console", lambda message: self._record_console_message(message.type, message.text))
        page.on("pageerror", lambda error: self.console_errors.append(f"{error}\n{error.stack}"))

    def _record_console_message(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(IGNORED_CONSOLE_PREFIXES):
            self.console_errors.append(text)

    async def get_page(self) -> Page:
        """A tab for the next document."""
        return await self.context.new_page()

    async def close(self) -> None:
        await self.context.close()


class ReusableProfile(Profile):
    """A profile at a desk for what a server at `origin` shows."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        super().__init__(context)
        self.origin = origin
        # What a test has asked for that is not known to be harmless.
        self.uses: list[str] = []
        # Of the tab that is opened next.
        self.viewport = DESK_VIEWPORT
        self._is_tab_given = False

    async def prepare(self) -> None:
        """Open the tab; the server has to run."""
        await self.context.add_init_script(SAVE_DATA_SCRIPT)
        self._tab = await self.context.new_page()
        self._session = await self.context.new_cdp_session(self._tab)
        await self._park()
        self._watch(self._tab.keyboard, _WatchedKeyboard)
        self._watch(self._tab.mouse, _WatchedMouse)
        self._watch(self._tab, _WatchedTab)
        self._watch(self.context, _WatchedContext)

    async def _park(self) -> None:
        await self._tab.goto(self.origin + PARKING_PATH)
        await self._session.send("Page.resetNavigationHistory")
        self._is_tab_given = False

    def _watch(self, watched: Any, kind: type[_Watched]) -> None:
        watched.__class__ = kind
        watched._uses = self.uses

    async def get_page(self) -> Page:
        """The tab to the first who asks, others get one of their own."""
        page = await self.context.new_page() if self._is_tab_given else self._tab
        self._is_tab_given = True
        if page.viewport_size != self.viewport:
            await page.set_viewport_size(self.viewport)
        return page

    async def reset(self) -> bool:
        """Remove what a test has left; False if something may be left."""
        tab = self._tab
        if self.uses or self.context.pages != [tab] or not tab.url.startswith(f"{self.origin}/"):
            return False
        self.viewport = DESK_VIEWPORT
        if tab.viewport_size != self.viewport:
            await tab.set_viewport_size(self.viewport)
        # Out of the window, where it is over nothing.
        await tab.mouse.move(-1, -1)
        await self._park()
        await tab.evaluate(CLEAR_SCRIPT)
        await self.context.clear_cookies()
        await self.context.clear_permissions()
        return await self.find_left() == []

    async def find_left(self) -> list[str]:
        """What is there that is not in a new profile."""
        left: list[str] = await self._tab.evaluate(LEFT_SCRIPT)
        cookies = [cookie.get("name", "") for cookie in await self.context.cookies()]
        return [*left, *cookies, *self.uses, *self.console_errors]


class ProfilePool:
    """The profiles that wait for the next test, all for servers at `origin`."""

    def __init__(self, browser: Browser, origin: str) -> None:
        self._browser = browser
        self.origin = origin
        self._waiting: list[ReusableProfile] = []

    async def take(self) -> ReusableProfile:
        """A profile at a desk that is as good as new; the server has to run."""
        if not self._waiting:
            return await self.make()
        profile = self._waiting.pop()
        left = await profile.find_left()
        assert left == [], "an earlier test has left something after its end"
        return profile

    async def make(self) -> ReusableProfile:
        """A new profile; the server has to run."""
        profile = ReusableProfile(await self._browser.new_context(**DESK_OPTIONS), self.origin)
        await profile.prepare()
        return profile

    async def give_back(self, profile: Profile, *, has_passed: bool) -> None:
        """Keep `profile` for another test, or close it. After a failure it may be in any state."""
        if has_passed and isinstance(profile, ReusableProfile):
            try:
                if await profile.reset():
                    self._waiting.append(profile)
                    return
            except Error:
                # What cannot be reset is closed.
                pass
        await profile.close()

    async def close(self) -> None:
        while self._waiting:
            await self._waiting.pop().close()
