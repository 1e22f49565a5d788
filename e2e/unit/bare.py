"""An empty page with `web/` at `/web` and the unit tests at `/unit`, from a server of files only."""

from __future__ import annotations

import mimetypes
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext

from llb.base.resources import resource_path

UNIT_DIR = Path(__file__).parent
SERVED_FOLDERS = {"unit": UNIT_DIR, "web": resource_path("web")}
# As strict with markup as the product: a module that makes some without a policy fails here, too.
POLICY = "require-trusted-types-for 'script'; trusted-types llb dompurify"


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        folder, _, name = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not name:
            self._answer(200, b"<!doctype html><title>unit</title>", "text/html")
            return
        path = SERVED_FOLDERS[folder] / name
        if path.is_file():
            self._answer(200, path.read_bytes(), mimetypes.guess_type(name)[0] or "")
        else:
            self._answer(404, b"", "text/plain")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        # The next page of the context has the modules already.
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: standard error is for failures."""


@contextmanager
def _file_server() -> Iterator[str]:
    """Origin of a server of `SERVED_FOLDERS`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _FileHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://unit.localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def bare_context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile whose `/` is the empty page."""
    with _file_server() as origin:
        context = await browser.new_context(base_url=origin, timezone_id="UTC", locale="en-GB")
        yield context
        await context.close()
