"""Questions to the Hugging Face Hub: a repository's figures, a file's pinned facts, a few of its bytes.

Requests are blocking, in daemon threads: one that hangs in a black hole holds up neither the loop nor the exit of the process.
From huggingface_hub come the meanings of the Hub's errors; the requests are made here, because HfApi takes 100 ms to
import, and the library follows redirects with the token to origins that are not the token's own.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from llb.config import DEFAULT_HUB_ENDPOINT
from llb.hub.cache import find_cached_file
from llb.hub.error_mapping import describe_network_error, error_from_response
from llb.hub.errors import HubError, HubInvalidResponse, HubUnreachable
from llb.wire import HfStats
from llb.wire.decoding import DECODE_ERRORS

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0  # to connect, and between two pieces of an answer
CALL_DEADLINE_S = 30.0  # stats and file facts, all redirects included
RANGE_DEADLINE_S = 120.0
MAX_JSON_BYTES = 1 << 20
MAX_RANGE_BYTES = 64 << 20
MAX_REDIRECTS = 5

_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("[0-9a-f]{40}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class HubFileInfo:
    """One file as it is at one commit; `sha256` is 64 lower hex digits."""

    repo: str
    filename: str
    commit: str
    size_bytes: int
    sha256: str


class HubClient:
    """One Hub and the token that is for it alone."""

    def __init__(self, endpoint: str = DEFAULT_HUB_ENDPOINT, token: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token or None
        self._origin = _origin_of(self.endpoint)
        self._lock = threading.RLock()
        self._client: httpx2.Client | None = None
        self._active_requests = 0  # threads that wait for an answer
        self._closed = False

    # --- for whoever downloads -----------------------------------------------------------------------

    def get_http_client(self) -> httpx2.Client:
        """The shared HTTP client, built at the first call (20–50 ms, so call it in a thread). Raises `HubUnreachable`.

        It honours HTTPS_PROXY and NO_PROXY, sends no credential of its own and follows no redirect unless told to.
        """
        with self._lock:
            if self._closed:
                raise HubUnreachable("the Hub is not asked any more, llb is stopping")
            if self._client is None:
                import httpx2

                self._client = httpx2.Client(timeout=REQUEST_TIMEOUT_S, headers={"User-Agent": "llb"})
            return self._client

    def file_url(self, repo: str, commit: str, filename: str) -> str:
        """Where a file's bytes are; leads on to a link that is signed for a short while."""
        return f"{self.endpoint}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(filename)}"

    def auth_headers(self, url: str) -> dict[str, str]:
        """The token, if `url` is of the endpoint's own origin; else nothing."""
        if self._token is None or _origin_of(url) != self._origin:
            return {}
        return {"Authorization": f"Bearer {self._token}"}

    def find_cached_file(self, sha256: str) -> Path | None:
        """A file of the user's Hugging Face cache by its sha256 (not verified), or None; blocking."""
        return find_cached_file(sha256)

    # --- questions -----------------------------------------------------------------------------------

    async def fetch_stats(self, repo: str) -> HfStats:
        """Downloads, stars and last change of a repository. Raises `HubError`."""
        return await _run_in_daemon_thread(lambda: self._fetch_stats(repo), CALL_DEADLINE_S)

    async def resolve_file(self, repo: str, filename: str, revision: str | None = None) -> HubFileInfo:
        """What the file is at `revision` (default: main) now. Raises `HubError`."""
        return await _run_in_daemon_thread(
            lambda: self._resolve_file(repo, filename, revision or "main"), CALL_DEADLINE_S
        )

    async def read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length` of a file (fewer at its end; length ≤ 64 MiB). Raises `HubError`."""
        if start < 0 or not 0 < length <= MAX_RANGE_BYTES:
            raise ValueError(f"cannot read {length} bytes at {start}")
        return await _run_in_daemon_thread(
            lambda: self._read_range(repo, commit, filename, start, length), RANGE_DEADLINE_S
        )

    async def aclose(self) -> None:
        """Ask no more; the connections are closed when the last call that runs has ended. Idempotent."""
        with self._lock:
            self._closed = True
        self._close_if_unused()

    # --- in a thread ---------------------------------------------------------------------------------

    def _fetch_stats(self, repo: str) -> HfStats:
        fields = "&".join(f"expand={name}" for name in ("downloads", "likes", "lastModified", "gated", "sha"))
        url = f"{self.endpoint}/api/models/{quote(repo)}?{fields}"
        with self._open_response("GET", url, repo, None, None) as response:
            body = _read_body(response, MAX_JSON_BYTES, CALL_DEADLINE_S)
        try:
            info = msgspec.json.decode(body, type=_ModelInfo)
        except DECODE_ERRORS:
            raise HubInvalidResponse(
                "The Hub answered something that makes no sense; check HF_ENDPOINT"
            ) from None
        return HfStats(downloads=info.downloads, stars=info.likes, last_modified=info.lastModified)

    def _resolve_file(self, repo: str, filename: str, revision: str) -> HubFileInfo:
        url = self.file_url(repo, revision, filename)
        with self._open_response(
            "HEAD", url, repo, filename, revision, stop_at_header="x-linked-etag"
        ) as response:
            headers = response.headers
            etag = headers.get("x-linked-etag") or headers.get("etag") or ""
            size = headers.get("x-linked-size") or headers.get("content-length") or ""
            commit = headers.get("x-repo-commit") or ""
        sha256 = etag.removeprefix("W/").strip('"').lower()
        if _COMMIT.fullmatch(commit) is None or not size.isdecimal():
            raise HubInvalidResponse(
                "The Hub's answer lacks the commit or the size of the file; check HF_ENDPOINT"
            )
        if _COMMIT.fullmatch(revision) and commit != revision:
            raise HubInvalidResponse(f"The Hub answered for another commit of {repo} than was asked for")
        if _SHA256.fullmatch(sha256) is None:
            raise HubInvalidResponse(
                f"The Hub gives no sha256 for {filename} of {repo}, so it could not be verified"
            )
        return HubFileInfo(repo=repo, filename=filename, commit=commit, size_bytes=int(size), sha256=sha256)

    def _read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        asked = {"Range": f"bytes={start}-{start + length - 1}"}
        url = self.file_url(repo, commit, filename)
        with self._open_response("GET", url, repo, filename, commit, headers=asked) as response:
            if response.status_code == 206:
                match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
                if match is None or int(match[1]) != start:
                    raise HubInvalidResponse(f"The Hub sent another part of {filename} than was asked for")
                return _read_body(response, length, RANGE_DEADLINE_S)
            if start:
                raise HubInvalidResponse(f"The Hub does not send parts of {filename}")
            return _read_body(response, length, RANGE_DEADLINE_S, allow_truncation=True)

    @contextmanager
    def _open_response(
        self,
        method: str,
        url: str,
        repo: str,
        filename: str | None,
        revision: str | None,
        *,
        headers: dict[str, str] | None = None,
        stop_at_header: str | None = None,
    ) -> Iterator[httpx2.Response]:
        """The good answer (2xx, or a redirect that has the header `stop_at`), unread. Raises `HubError`."""
        with self._borrow_http_client() as session, _translate_http_errors():
            for _ in range(MAX_REDIRECTS + 1):
                # Each hop is asked about anew: the token goes to its own origin only.
                sent = {"Accept-Encoding": "identity", **(headers or {}), **self.auth_headers(url)}
                request = session.build_request(method, url, headers=sent)
                response = session.send(request, stream=True, follow_redirects=False, auth=None)
                try:
                    if method == "HEAD":
                        response.read()  # nothing, and the connection can be used again
                    if response.is_redirect and not (stop_at_header and stop_at_header in response.headers):
                        url = str(response.url.join(response.headers.get("location", "")))
                        continue
                    if response.status_code >= 400:
                        raise self.error_from_response(response, repo, filename, revision)
                    if response.headers.get("content-type", "").startswith("text/html"):
                        raise HubInvalidResponse(
                            "The Hub answered with a web page: either this network wants a log-in, "
                            "or HF_ENDPOINT is not the address of a Hub"
                        )
                    yield response
                    return
                finally:
                    response.close()
        raise HubInvalidResponse(f"The Hub redirected more than {MAX_REDIRECTS} times")

    @contextmanager
    def _borrow_http_client(self) -> Iterator[httpx2.Client]:
        """The client, kept open while the block runs: closed beside a call, it would leave that call's connection behind."""
        with self._lock:
            session = self.get_http_client()
            self._active_requests += 1
        try:
            yield session
        finally:
            with self._lock:
                self._active_requests -= 1
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if not self._closed or self._active_requests:
                return
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def error_from_response(
        self, response: httpx2.Response, repo: str, filename: str | None, revision: str | None
    ) -> HubError:
        """What an answer of 400 and more to a question about `repo` means; the body is not read."""
        is_hub = _origin_of(str(response.url)) == self._origin
        has_token = self._token is not None
        return error_from_response(response, repo, filename, revision, is_hub=is_hub, has_token=has_token)


# --- helpers ----------------------------------------------------------------------------------------------


class _ModelInfo(msgspec.Struct):
    """What `GET /api/models/{repo}` is asked for; the names are the Hub's."""

    id: str
    downloads: int | None = None
    likes: int | None = None
    lastModified: str | None = None


@contextmanager
def _translate_http_errors() -> Iterator[None]:
    """What the HTTP client says, as a `HubError`."""
    import httpx2

    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise HubInvalidResponse("The Hub redirected to something that is not a web address") from None
    except (httpx2.HTTPError, OSError) as error:
        raise HubUnreachable(f"the Hub cannot be reached: {describe_network_error(error)}") from error


async def _run_in_daemon_thread(function: Callable[[], T], deadline_s: float) -> T:
    """`work()` in a daemon thread (an executor's would be joined at exit); raises `HubUnreachable` at the deadline."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        async with asyncio.timeout(deadline_s):
            return await future
    except TimeoutError:
        raise HubUnreachable("the Hub cannot be reached: it did not answer in time") from None


def _read_body(
    response: httpx2.Response, limit_bytes: int, deadline_s: float, *, allow_truncation: bool = False
) -> bytes:
    """The body; raises `HubBadAnswer` if it is longer than `limit_bytes`, unless more may follow and is left unread."""
    deadline = time.monotonic() + deadline_s
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) >= limit_bytes and allow_truncation:
            break
        if len(body) > limit_bytes:
            raise HubInvalidResponse("The Hub's answer is longer than it may be")
        if time.monotonic() > deadline:
            raise HubUnreachable("the Hub cannot be reached: it answers too slowly")
    return bytes(body[:limit_bytes])


def _origin_of(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
