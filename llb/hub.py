"""The Hugging Face Hub: a repository's figures, a file's pinned facts, a few of its bytes.

HubError
├── HubUnreachable   the network, 429, 5xx, time-outs: waiting helps
├── HubNotFound      no such repository, revision or file
├── HubGated         the licence is not accepted, or there is no token to show that it is
├── HubRefused       the token is invalid or has no right; access was disabled
└── HubBadAnswer     what came is not what a Hub says

Requests are blocking, in daemon threads: one that hangs in a black hole holds up neither the loop nor the exit of the process.
From huggingface_hub come the meanings of the Hub's errors; the requests are made here, because HfApi takes 100 ms to
import, and the library follows redirects with the token to origins that are not the token's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from llb.config import DEFAULT_HUB
from llb.wire import HfStats

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0  # to connect, and between two pieces of an answer
CALL_DEADLINE_S = 30.0  # stats and file facts, all redirects included
RANGE_DEADLINE_S = 120.0
MAX_JSON_BYTES = 1 << 20
MAX_RANGE_BYTES = 64 << 20
MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 300.0

STATS_INTERVAL_S = 600.0
STATS_START_DELAY_S = 1.0  # the first request of a user goes before the figures of a list
STATS_FIRST_RETRY_S = 15.0
STATS_CONCURRENCY = 4

_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("[0-9a-f]{40}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LIBRARY_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class HubError(Exception):
    """The Hub did not give what was asked; the message is for a person and names no address, token or path."""


class HubUnreachable(HubError):
    """Waiting helps. The message is a clause ("the Hub …"); `retry_after_s` is what the Hub asked for, if it did."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HubNotFound(HubError):
    pass


class HubGated(HubError):
    pass


class HubRefused(HubError):
    pass


class HubBadAnswer(HubError):
    pass


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """One file as it is at one commit; `sha256` is 64 lower hex digits."""

    repo: str
    filename: str
    commit: str
    size_bytes: int
    sha256: str


class Hub:
    """One Hub and the token that is for it alone."""

    def __init__(self, endpoint: str = DEFAULT_HUB, token: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token or None
        self._origin = _origin(self.endpoint)
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._closed = False

    # --- for whoever downloads -----------------------------------------------------------------------

    def session(self) -> httpx2.Client:
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
        if self._token is None or _origin(url) != self._origin:
            return {}
        return {"Authorization": f"Bearer {self._token}"}

    def cached_file(self, sha256: str) -> Path | None:
        """`cached_file` of this module."""
        return cached_file(sha256)

    # --- questions -----------------------------------------------------------------------------------

    async def stats(self, repo: str) -> HfStats:
        """Downloads, stars and last change of a repository. Raises `HubError`."""
        return await _in_thread(lambda: self._stats(repo), CALL_DEADLINE_S)

    async def resolve(self, repo: str, filename: str, revision: str | None = None) -> FileFacts:
        """What the file is at `revision` (default: main) now. Raises `HubError`."""
        return await _in_thread(lambda: self._resolve(repo, filename, revision or "main"), CALL_DEADLINE_S)

    async def read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length` of a file (fewer at its end; length ≤ 64 MiB). Raises `HubError`."""
        if start < 0 or not 0 < length <= MAX_RANGE_BYTES:
            raise ValueError(f"cannot read {length} bytes at {start}")
        return await _in_thread(
            lambda: self._read_range(repo, commit, filename, start, length), RANGE_DEADLINE_S
        )

    async def aclose(self) -> None:
        """Close the connections that are idle; calls that hang end by themselves. Idempotent."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- in a thread ---------------------------------------------------------------------------------

    def _stats(self, repo: str) -> HfStats:
        fields = "&".join(f"expand={name}" for name in ("downloads", "likes", "lastModified", "gated", "sha"))
        url = f"{self.endpoint}/api/models/{quote(repo)}?{fields}"
        with self._answer("GET", url, repo, None, None) as response:
            body = _read(response, MAX_JSON_BYTES, CALL_DEADLINE_S)
        try:
            info = msgspec.json.decode(body, type=_ModelInfo)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise HubBadAnswer("The Hub answered something that makes no sense; check HF_ENDPOINT") from None
        return HfStats(downloads=info.downloads, stars=info.likes, last_modified=info.lastModified)

    def _resolve(self, repo: str, filename: str, revision: str) -> FileFacts:
        url = self.file_url(repo, revision, filename)
        with self._answer("HEAD", url, repo, filename, revision, stop_at="x-linked-etag") as response:
            headers = response.headers
            etag = headers.get("x-linked-etag") or headers.get("etag") or ""
            size = headers.get("x-linked-size") or headers.get("content-length") or ""
            commit = headers.get("x-repo-commit") or ""
        sha256 = etag.removeprefix("W/").strip('"').lower()
        if _COMMIT.fullmatch(commit) is None or not size.isdecimal():
            raise HubBadAnswer("The Hub's answer lacks the commit or the size of the file; check HF_ENDPOINT")
        if _COMMIT.fullmatch(revision) and commit != revision:
            raise HubBadAnswer(f"The Hub answered for another commit of {repo} than was asked for")
        if _SHA256.fullmatch(sha256) is None:
            raise HubBadAnswer(
                f"The Hub gives no sha256 for {filename} of {repo}, so it could not be verified"
            )
        return FileFacts(repo=repo, filename=filename, commit=commit, size_bytes=int(size), sha256=sha256)

    def _read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        asked = {"Range": f"bytes={start}-{start + length - 1}"}
        url = self.file_url(repo, commit, filename)
        with self._answer("GET", url, repo, filename, commit, headers=asked) as response:
            if response.status_code == 206:
                match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
                if match is None or int(match[1]) != start:
                    raise HubBadAnswer(f"The Hub sent another part of {filename} than was asked for")
                return _read(response, length, RANGE_DEADLINE_S)
            if start:
                raise HubBadAnswer(f"The Hub does not send parts of {filename}")
            return _read(response, length, RANGE_DEADLINE_S, more_may_follow=True)

    @contextmanager
    def _answer(
        self,
        method: str,
        url: str,
        repo: str,
        filename: str | None,
        revision: str | None,
        *,
        headers: dict[str, str] | None = None,
        stop_at: str | None = None,
    ) -> Iterator[httpx2.Response]:
        """The good answer (2xx, or a redirect that has the header `stop_at`), unread. Raises `HubError`."""
        import httpx2

        session = self.session()
        try:
            for _ in range(MAX_REDIRECTS + 1):
                # Each hop is asked about anew: the token goes to its own origin only.
                sent = {"Accept-Encoding": "identity", **(headers or {}), **self.auth_headers(url)}
                request = session.build_request(method, url, headers=sent)
                response = session.send(request, stream=True, follow_redirects=False, auth=None)
                try:
                    if method == "HEAD":
                        response.read()  # nothing, and the connection can be used again
                    if response.is_redirect and not (stop_at and stop_at in response.headers):
                        url = str(response.url.join(response.headers.get("location", "")))
                        continue
                    if response.status_code >= 400:
                        raise self._refusal(response, repo, filename, revision)
                    if response.headers.get("content-type", "").startswith("text/html"):
                        raise HubBadAnswer(
                            "The Hub answered with a web page: either this network wants a log-in, "
                            "or HF_ENDPOINT is not the address of a Hub"
                        )
                    yield response
                    return
                finally:
                    response.close()
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise HubBadAnswer("The Hub redirected to something that is not a web address") from None
        except (httpx2.HTTPError, OSError) as error:
            raise HubUnreachable(f"the Hub cannot be reached: {describe(error)}") from error
        raise HubBadAnswer(f"The Hub redirected more than {MAX_REDIRECTS} times")

    def _refusal(
        self, response: httpx2.Response, repo: str, filename: str | None, revision: str | None
    ) -> HubError:
        """What an answer of 400 and more means, with the library's reading of the Hub's error codes."""
        import httpx2

        for name, value in _LIBRARY_SETTINGS.items():
            os.environ.setdefault(name, value)
        from huggingface_hub import errors
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        status = response.status_code
        if status in (408, 429) or status >= 500:
            return HubUnreachable(f"the Hub answers {status}", _retry_after_s(response.headers))
        if _origin(str(response.url)) != self._origin and "x-error-code" not in response.headers:
            # The link was signed and has expired; the next try gets a fresh one.
            return HubUnreachable(f"the server that holds the Hub's files answers {status}")
        try:
            # Without the body, which is of any size and may say anything.
            bare = httpx2.Response(status, headers=response.headers, request=response.request)
            bare.headers.pop("content-length", None)
            hf_raise_for_status(bare)
        except errors.GatedRepoError:
            if self._token is None:
                return HubGated(
                    f"{repo} is gated: accept its licence on its page at the Hub and set HF_TOKEN to a token of that account"
                )
            return HubGated(
                f"{repo} is gated and the account of HF_TOKEN may not read it yet: accept its licence on its page at the Hub"
            )
        except errors.RepositoryNotFoundError:
            hint = (
                "or it is private and HF_TOKEN is not set"
                if self._token is None
                else "or HF_TOKEN may not see it"
            )
            return HubNotFound(f"The Hub has no repository {repo}, {hint}")
        except errors.RevisionNotFoundError:
            return HubNotFound(f"The Hub has no revision {revision} of {repo}")
        except errors.RemoteEntryNotFoundError:
            return HubNotFound(f"The repository {repo} has no file {filename}")
        except errors.DisabledRepoError:
            return HubRefused(f"The Hub has disabled access to {repo}")
        except errors.HfHubHTTPError:
            pass
        if status == 401:
            if self._token is None:
                return HubRefused(f"The Hub wants a token for {repo}: set HF_TOKEN")
            return HubRefused("The Hub does not accept HF_TOKEN: it is mistyped, expired or was revoked")
        if status in (403, 451):
            hint = "" if self._token is None else "; check the permissions of HF_TOKEN"
            return HubRefused(f"The Hub refuses access to {repo}{hint}")
        if status in (404, 410):
            return HubNotFound(
                f"The Hub does not have {filename or 'the repository'}{f' of {repo}' if filename else f' {repo}'}"
            )
        return HubBadAnswer(f"The Hub answers {status} to a plain question; check HF_ENDPOINT and the proxy")


class StatsCache:
    """The figures of many repositories in memory: known ones stay when the Hub is away.

    `run()` is to be supervised by its owner; `on_change` is called in the loop, and only when a figure is new.
    """

    def __init__(
        self,
        hub: Hub,
        repos: Sequence[str],
        on_change: Callable[[str, HfStats], None],
        *,
        interval_s: float = STATS_INTERVAL_S,
        start_delay_s: float = STATS_START_DELAY_S,
        retry_s: float = STATS_FIRST_RETRY_S,
    ) -> None:
        self._hub = hub
        self._repos = tuple(dict.fromkeys(repos))
        self._on_change = on_change
        self._interval_s = interval_s
        self._start_delay_s = start_delay_s
        self._retry_s = retry_s
        self._stats: dict[str, HfStats] = {}
        self._away = False
        self._retry_after_s = 0.0

    def get(self, repo: str) -> HfStats | None:
        """The last known figures, or None."""
        return self._stats.get(repo)

    async def run(self) -> None:
        """Refresh for ever: all every interval; what the Hub could not tell sooner, with back-off, as it asked."""
        await asyncio.sleep(self._start_delay_s)
        while True:
            due = time.monotonic() + self._interval_s
            pending = list(self._repos)
            retry_s = self._retry_s
            while pending := await self._refresh(pending):
                pause_s = max(retry_s, self._retry_after_s)
                if time.monotonic() + pause_s >= due:
                    break
                await asyncio.sleep(pause_s)
                retry_s *= 2
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _refresh(self, repos: list[str]) -> list[str]:
        """Ask for `repos`, a few at a time, until the Hub seems to be away; returns those to ask for again."""
        waiting = list(reversed(repos))
        missed: list[str] = []
        misses = 0
        self._retry_after_s = 0.0

        async def work() -> None:
            nonlocal misses
            while waiting and misses < STATS_CONCURRENCY:
                repo = waiting.pop()
                try:
                    stats = await self._hub.stats(repo)
                except HubUnreachable as error:
                    misses += 1
                    missed.append(repo)
                    self._note_away(error)
                except HubError as error:
                    log.info("no figures for %s: %s", repo, error)
                else:
                    misses = 0
                    self._away = False
                    if self._stats.get(repo) != stats:
                        self._stats[repo] = stats
                        self._on_change(repo, stats)

        async with asyncio.TaskGroup() as workers:
            for _ in range(STATS_CONCURRENCY):
                workers.create_task(work())
        # Those that failed go last, so that one bad repository does not keep the others waiting.
        return [*reversed(waiting), *missed]

    def _note_away(self, error: HubUnreachable) -> None:
        self._retry_after_s = max(self._retry_after_s, error.retry_after_s or 0.0)
        if not self._away:
            log.info("figures of the models are not refreshed: %s", error)
        self._away = True


def cached_file(sha256: str) -> Path | None:
    """A file of that sha256 in the user's Hugging Face cache, by its name there (not verified), or None."""
    if _SHA256.fullmatch(sha256) is None:
        return None
    with suppress(OSError):
        for path in _cache_dir().glob(f"models--*/blobs/{sha256}"):
            if path.is_file() and os.access(path, os.R_OK):
                return path.resolve()
    return None


def describe(error: BaseException) -> str:
    """Why the network failed, as a clause that names no address."""
    import httpx2

    chain: BaseException | None = error
    while chain is not None:
        match chain:
            case socket.gaierror():
                return "its name was not found, so this host is probably offline"
            case ConnectionRefusedError():
                return "the connection was refused"
            case ssl.SSLCertVerificationError():
                return "its certificate is not trusted (behind a company's proxy, set SSL_CERT_FILE)"
            case httpx2.ProxyError():
                return "the proxy did not let the connection through"
            case httpx2.TimeoutException():
                return "it did not answer in time"
        chain = chain.__cause__ or chain.__context__
    return "the connection broke"


# --- helpers ----------------------------------------------------------------------------------------------


class _ModelInfo(msgspec.Struct):
    """What `GET /api/models/{repo}` is asked for; the names are the Hub's."""

    id: str
    downloads: int | None = None
    likes: int | None = None
    lastModified: str | None = None


async def _in_thread(work: Callable[[], T], deadline_s: float) -> T:
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
            result = work()
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


def _read(
    response: httpx2.Response, limit_bytes: int, deadline_s: float, *, more_may_follow: bool = False
) -> bytes:
    """The body; raises `HubBadAnswer` if it is longer than `limit_bytes`, unless more may follow and is left unread."""
    deadline = time.monotonic() + deadline_s
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) >= limit_bytes and more_may_follow:
            break
        if len(body) > limit_bytes:
            raise HubBadAnswer("The Hub's answer is longer than it may be")
        if time.monotonic() > deadline:
            raise HubUnreachable("the Hub cannot be reached: it answers too slowly")
    return bytes(body[:limit_bytes])


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Seconds until the Hub wants to be asked again (RFC 9110 §10.2.3, or its own `RateLimit`), at most 5 minutes."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    text = headers.get("retry-after", "").strip()
    seconds: float | None = float(text) if text.isdecimal() else None
    if seconds is None and text:
        with suppress(ValueError, OverflowError):
            seconds = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    if seconds is None:
        limit = parse_ratelimit_headers(headers)
        seconds = float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _cache_dir() -> Path:
    """Where huggingface_hub keeps files, by its rules (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), without importing it."""
    env = os.environ
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    text = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(text)).expanduser()
