"""Client of the Hugging Face Hub: statistics of a repository, size and sha256 of a file, ranges of its bytes.

Requests block in daemon threads: one that never returns delays neither the event loop nor the exit of the
process. huggingface_hub interprets the error codes of the Hub. The requests are made here, because importing
HfApi takes 100 ms, and because the library sends the token to other origins when it follows redirects.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from llb.config import DEFAULT_HUB_ENDPOINT
from llb.hub.cache import find_cached_file
from llb.hub.error_mapping import (
    HUB,
    describe_network_error,
    error_from_response,
    file_host_name,
    redirect_text,
    unreachable_text,
)
from llb.hub.errors import HubError, HubInvalidResponse, HubUnreachable
from llb.hub.proxy_environment import find_proxy_map, find_unusable_proxy
from llb.texts.coded_text import CodedText
from llb.wire import HfStats
from llb.wire.decoding import DECODE_ERRORS
from llb.wire.models import SHA256_PATTERN

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

# Longest time to connect, and between two chunks of a response.
REQUEST_TIMEOUT_S = 10.0
# For statistics and file information, including all redirects.
CALL_DEADLINE_S = 30.0
RANGE_DEADLINE_S = 120.0
MAX_JSON_BYTES = 1 << 20
MAX_RANGE_BYTES = 64 << 20
MAX_REDIRECTS = 5

_COMMIT = re.compile("[0-9a-f]{40}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d+)/(?:\d+|\*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class HubFileInfo(Struct, frozen=True, kw_only=True):
    """File at one commit; `sha256` has 64 lower-case hexadecimal digits."""

    repo: str
    filename: str
    commit: str
    size_bytes: int
    sha256: str


class HubClient:
    """Client of one Hub; the token is sent to the origin of that Hub only."""

    def __init__(
        self, endpoint: str = DEFAULT_HUB_ENDPOINT, token: str | None = None, *, offline: bool = False
    ) -> None:
        """With `offline` every request fails."""
        self.endpoint = endpoint.rstrip("/")
        self.set_token(token)
        self._offline = offline
        self._origin = _origin_of(self.endpoint)
        self._lock = threading.RLock()
        self._client: httpx2.Client | None = None
        # Threads that wait for a response.
        self._active_requests = 0
        self._closed = False

    def set_token(self, token: str | None) -> None:
        """Set the token of the next requests."""
        # A header cannot contain a line break.
        self._token = (token or "").strip() or None

    # --- for downloads -------------------------------------------------------------------------------

    def get_http_client(self) -> httpx2.Client:
        """Return the shared HTTP client, created at the first call (20–50 ms: use a thread).

        Raises `HubUnreachable`.

        It honours HTTPS_PROXY and NO_PROXY, adds no credentials and follows no redirects by default.
        """
        with self._lock:
            if self._closed:
                raise HubUnreachable(unreachable_text(HUB, CodedText("llb_stopping", "llb is stopping")))
            if self._offline:
                raise HubUnreachable(
                    CodedText("hub_offline", "the Hub is not asked, because HF_HUB_OFFLINE is set")
                )
            if self._client is None:
                if (problem := find_unusable_proxy()) is not None:
                    raise HubUnreachable(unreachable_text(HUB, problem))
                self._client = _create_http_client()
            return self._client

    def file_url(self, repo: str, commit: str, filename: str) -> str:
        """Return the URL of a file, which redirects to a link with a short-lived signature."""
        return f"{self.endpoint}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(filename)}"

    def auth_headers(self, url: str) -> dict[str, str]:
        """Return the header with the token if `url` has the origin of the endpoint, else none."""
        if self._token is None or _origin_of(url) != self._origin:
            return {}
        return {"Authorization": f"Bearer {self._token}"}

    def find_cached_file(self, sha256: str) -> Path | None:
        """Return the file with this sha256 in the user's Hugging Face cache (not verified), or None;
        blocking.
        """
        return find_cached_file(sha256)

    # --- requests ------------------------------------------------------------------------------------

    async def fetch_stats(self, repo: str) -> HfStats:
        """Return downloads, stars and last change of a repository. Raises `HubError`."""
        return await _run_in_daemon_thread(lambda: self._fetch_stats(repo), CALL_DEADLINE_S)

    async def resolve_file(self, repo: str, filename: str, revision: str | None = None) -> HubFileInfo:
        """Return the present commit, size and sha256 of a file at `revision` (default: main).

        Raises `HubError`.
        """
        return await _run_in_daemon_thread(
            lambda: self._resolve_file(repo, filename, revision or "main"), CALL_DEADLINE_S
        )

    async def read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file (≤ 64 MiB) from `start`, fewer at its end. Raises `HubError`."""
        if start < 0 or not 0 < length <= MAX_RANGE_BYTES:
            raise ValueError(f"cannot read {length} bytes at {start}")
        return await _run_in_daemon_thread(
            lambda: self._read_range(repo, commit, filename, start, length), RANGE_DEADLINE_S
        )

    async def aclose(self) -> None:
        """Reject further requests, and close the connections when the running ones have ended. Idempotent."""
        with self._lock:
            self._closed = True
        self._close_if_unused()

    # --- in threads ----------------------------------------------------------------------------------

    def _fetch_stats(self, repo: str) -> HfStats:
        names = ("downloads", "likes", "lastModified", "gated", "sha", "tags")
        fields = "&".join(f"expand={name}" for name in names)
        url = f"{self.endpoint}/api/models/{quote(repo)}?{fields}"
        with self._open_response("GET", url, repo, None, None) as response:
            body = _read_body(response, MAX_JSON_BYTES, CALL_DEADLINE_S)
        try:
            info = msgspec.json.decode(body, type=_ModelInfo)
        except DECODE_ERRORS:
            raise HubInvalidResponse(
                CodedText("hub_invalid_response", "The Hub sent an invalid response; check HF_ENDPOINT")
            ) from None
        return HfStats(
            downloads=info.downloads,
            stars=info.likes,
            last_modified=info.lastModified,
            license=_license_of(info.tags),
        )

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
                CodedText(
                    "hub_incomplete_response",
                    "The Hub's response lacks the commit or the size of the file; check HF_ENDPOINT",
                )
            )
        if _COMMIT.fullmatch(revision) and commit != revision:
            raise HubInvalidResponse(
                CodedText(
                    "hub_other_commit",
                    "The Hub sent another commit of {repo} than the requested one",
                    repo=repo,
                )
            )
        if SHA256_PATTERN.fullmatch(sha256) is None:
            raise HubInvalidResponse(
                CodedText(
                    "hub_no_sha256",
                    "The Hub has no sha256 for {file} of {repo}, so the file cannot be verified",
                    file=filename,
                    repo=repo,
                )
            )
        return HubFileInfo(repo=repo, filename=filename, commit=commit, size_bytes=int(size), sha256=sha256)

    def _read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        range_header = {"Range": f"bytes={start}-{start + length - 1}"}
        url = self.file_url(repo, commit, filename)
        with self._open_response("GET", url, repo, filename, commit, headers=range_header) as response:
            if response.status_code == 206:
                match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
                if match is None or int(match[1]) != start:
                    raise HubInvalidResponse(
                        CodedText(
                            "hub_other_part",
                            "The Hub sent another part of {file} than the requested one",
                            file=filename,
                        )
                    )
                return _read_body(response, length, RANGE_DEADLINE_S)
            if start:
                raise HubInvalidResponse(
                    CodedText(
                        "hub_no_ranges",
                        "The Hub does not support range requests for {file}",
                        file=filename,
                    )
                )
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
        """Open the final response (2xx, or a redirect with the header `stop_at_header`), unread.

        Raises `HubError`.
        """
        with self._borrow_http_client() as session, self._translate_http_errors():
            for _ in range(MAX_REDIRECTS + 1):
                # Computed for each redirect: the token is sent to its own origin only.
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
                            CodedText(
                                "hub_web_page",
                                "The Hub answered with a web page: either this network requires a login, "
                                "or HF_ENDPOINT is not the address of a Hub",
                            )
                        )
                    yield response
                    return
                finally:
                    response.close()
        raise HubInvalidResponse(redirect_text(MAX_REDIRECTS))

    def name_of(self, url: str) -> CodedText:
        """Return who answers at `url`: the Hub, or the host of the files to which it redirects."""
        if _origin_of(url) == self._origin:
            return HUB
        return file_host_name(urlsplit(url).hostname)

    @contextmanager
    def _translate_http_errors(self) -> Iterator[None]:
        """Turn the errors of the HTTP client into a `HubError`."""
        import httpx2

        try:
            yield
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise HubInvalidResponse(
                CodedText("hub_bad_redirect", "The Hub redirected to an invalid URL")
            ) from None
        except httpx2.RequestError as error:
            who = self.name_of(str(error.request.url))
            raise HubUnreachable(unreachable_text(who, describe_network_error(error))) from error
        except (httpx2.HTTPError, OSError) as error:
            raise HubUnreachable(unreachable_text(HUB, describe_network_error(error))) from error

    @contextmanager
    def _borrow_http_client(self) -> Iterator[httpx2.Client]:
        """Keep the client open within the block: closing it during a call would leak the connection of the
        call.
        """
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
        """Return the error of a response with status 400 or more; its body is not read."""
        is_hub = _origin_of(str(response.url)) == self._origin
        has_token = self._token is not None
        return error_from_response(response, repo, filename, revision, is_hub=is_hub, has_token=has_token)


# --- helpers ----------------------------------------------------------------------------------------------


class _ModelInfo(msgspec.Struct):
    """Response of `GET /api/models/{repo}`; the names are the Hub's."""

    id: str
    downloads: int | None = None
    likes: int | None = None
    lastModified: str | None = None
    tags: tuple[str, ...] = ()


def _license_of(tags: tuple[str, ...]) -> str | None:
    """The identifier in the tag `license:…` of a repository."""
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


def _create_http_client() -> httpx2.Client:
    import httpx2

    settings: dict[str, Any] = {"timeout": REQUEST_TIMEOUT_S, "headers": {"User-Agent": "llb"}}
    if (proxy_map := find_proxy_map()) is None:
        return httpx2.Client(**settings)
    mounts = {
        pattern: None if proxy is None else httpx2.HTTPTransport(proxy=proxy)
        for pattern, proxy in proxy_map.items()
    }
    return httpx2.Client(**settings, trust_env=False, transport=httpx2.HTTPTransport(), mounts=mounts)


async def _run_in_daemon_thread(function: Callable[[], T], deadline_s: float) -> T:
    """Run `function` in a daemon thread, since an executor's is joined at exit.

    Raises `HubUnreachable` at the deadline.
    """
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
            # Passed to the caller, as without a thread.
            error = caught
        # The event loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        async with asyncio.timeout(deadline_s):
            return await future
    except TimeoutError:
        raise HubUnreachable(
            unreachable_text(HUB, CodedText("network_timeout", "it did not answer in time"))
        ) from None


def _read_body(
    response: httpx2.Response, limit_bytes: int, deadline_s: float, *, allow_truncation: bool = False
) -> bytes:
    """Read the body; one longer than `limit_bytes` is truncated, or raises `HubInvalidResponse`."""
    deadline = time.monotonic() + deadline_s
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) >= limit_bytes and allow_truncation:
            break
        if len(body) > limit_bytes:
            raise HubInvalidResponse(CodedText("hub_long_response", "The Hub's response is too long"))
        if time.monotonic() > deadline:
            raise HubUnreachable(unreachable_text(HUB, CodedText("network_slow", "it answers too slowly")))
    return bytes(body[:limit_bytes])


def _origin_of(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
