"""An empty page with `web/` at `/web` and the unit tests at `/unit`.

No server: the browser is handed the files.
"""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, Route, async_playwright

from e2e.conftest import CHROMIUM_ARGUMENTS, chromium_path
from llb.base.resources import resource_path

ORIGIN = "http://unit.localhost"
UNIT_DIR = Path(__file__).parent
SERVED_FOLDERS = {"unit": UNIT_DIR, "web": resource_path("web")}
# As strict with markup as the product: a module that makes some without a policy fails here, too.
HEADERS = {"Content-Security-Policy": "require-trusted-types-for 'script'; trusted-types llb dompurify"}


async def _serve_file(route: Route) -> None:
    folder, _, name = urlsplit(route.request.url).path.removeprefix("/").partition("/")
    if not name:
        await route.fulfill(
            body="<!doctype html><title>unit</title>", content_type="text/html", headers=HEADERS
        )
        return
    path = SERVED_FOLDERS[folder] / name
    if path.is_file():
        await route.fulfill(body=path.read_bytes(), content_type=mimetypes.guess_type(name)[0])
    else:
        await route.fulfill(status=404)


@asynccontextmanager
async def bare_context() -> AsyncIterator[BrowserContext]:
    """A browser whose every request is answered from FOLDERS; `ORIGIN` is the empty page."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(), args=list(CHROMIUM_ARGUMENTS)
        )
        context = await browser.new_context(timezone_id="UTC", locale="en-GB")
        await context.route("**/*", _serve_file)
        yield context
        await browser.close()
