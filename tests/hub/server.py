"""The stand-in itself: repositories, two origins, a thread for each connection, and a record of every request."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote

from tests.hub.content import Content
from tests.hub.faults import Fault, Faults
from tests.hub.http import Connection, Incoming, PeerGone, parse_range

CHUNK_BYTES = 1 << 20
LINK_LIFETIME_S = 3600.0
POLL_S = 0.02

_RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)$")
_CACHE = re.compile(r"^/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/(?P<rev>[^/]+)/(?P<file>.+)$")
_MODEL = re.compile(
    r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|paths-info|tree)/(?P<rev>[^/]+)(?:/(?P<path>.*))?)?$"
)
_BLOB = re.compile(r"^/blobs/(?P<repo>[^/]+/[^/]+)/(?P<rev>[0-9a-f]{40})/(?P<file>.+)$")


@dataclass
class Request:
    """One request as the stand-in saw it; `bytes_sent` and `done` change while it is answered."""

    origin: str  # "hub" or "cdn"
    method: str
    path: str
    query: str
    headers: dict[str, str]
    time: float
    on: str = "api"
    repo: str | None = None
    file: str | None = None
    range_start: int = 0
    status: int | None = None
    bytes_sent: int = 0
    done: bool = False

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Repo:
    """A repository: its commits (each a set of files), what its names point at, and its page's figures."""

    name: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    downloads: int = 0
    likes: int = 0
    last_modified: str = "2026-01-01T00:00:00.000Z"
    gated: bool = False


class Answer(Exception):
    """A complete answer, raised from wherever it is known."""

    def __init__(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def refusal(status: int, code: str | None, message: str) -> Answer:
    """An error as the Hub words it: the code in `X-Error-Code`, the sentence in `X-Error-Message` and in the body."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer(status, {"error": message}, headers)


class HubStandIn:
    """A Hub on loopback, started by `with` (or `start()`), stopped at its end. `port=0` takes a free one."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self._host = host
        self._ports = {"hub": port, "cdn": 0}
        self._listeners: dict[str, socket.socket] = {}
        self._threads: set[threading.Thread] = set()
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()
        self._repos: dict[str, Repo] = {}
        self._tokens: dict[str, frozenset[str]] = {}
        self._requests: list[Request] = []
        self._secret = secrets.token_bytes(16)
        self._total_due = 0.0
        self._stopping = threading.Event()
        self.bytes_sent = 0
        self.faults = Faults(self._notify)

    # --- life ----------------------------------------------------------------------------------------

    def start(self) -> HubStandIn:
        self.listen()
        return self

    def stop(self) -> None:
        """Close every socket and wait for the threads; idempotent."""
        self._stopping.set()
        self.refuse()
        for thread in tuple(self._threads):
            thread.join(timeout=10)

    def __enter__(self) -> HubStandIn:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def listen(self) -> None:
        """Open the listening sockets (again, on the same ports); idempotent."""
        for origin in ("hub", "cdn"):
            if origin in self._listeners:
                continue
            listener = socket.create_server((self._host, self._ports[origin]), backlog=128)
            self._ports[origin] = listener.getsockname()[1]
            self._listeners[origin] = listener
            self._spawn(self._accept, origin, listener)

    def refuse(self) -> None:
        """Close the listening sockets, so that connecting is refused, and reset what is open; idempotent."""
        with self._changed:
            listeners = tuple(self._listeners.values())
            self._listeners.clear()
            connections = tuple(self._connections)
        for listener in listeners:
            # shutdown() wakes accept() in its thread, close() alone would leave the port listening until then.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            connection.abort()
        self._notify()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://{self._host}:{self._ports['hub']}"

    @property
    def cdn_url(self) -> str:
        return f"http://{self._host}:{self._ports['cdn']}"

    # --- what it serves ------------------------------------------------------------------------------

    def add_repo(
        self,
        repo: str,
        files: Mapping[str, Path | bytes],
        *,
        commit: str | None = None,
        downloads: int = 0,
        likes: int = 0,
        last_modified: str = "2026-01-01T00:00:00.000Z",
        gated: bool = False,
    ) -> str:
        """Add a repository, or a new commit to one; `main` points at it. Returns the commit (40 hex digits)."""
        contents = {name: Content(name, source) for name, source in files.items()}
        if commit is None:
            text = "\n".join(
                [repo, *(f"{name} {content.sha256}" for name, content in sorted(contents.items()))]
            )
            commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        entry = self._repos.setdefault(repo, Repo(repo))
        entry.commits[commit] = contents
        entry.refs["main"] = commit
        entry.gated = gated
        self.set_stats(repo, downloads=downloads, likes=likes, last_modified=last_modified)
        return commit

    def set_stats(
        self,
        repo: str,
        *,
        downloads: int | None = None,
        likes: int | None = None,
        last_modified: str | None = None,
    ) -> None:
        entry = self._repos[repo]
        entry.downloads = entry.downloads if downloads is None else downloads
        entry.likes = entry.likes if likes is None else likes
        entry.last_modified = last_modified or entry.last_modified

    def set_gated(self, repo: str, gated: bool = True) -> None:
        self._repos[repo].gated = gated

    def add_token(self, token: str, licences: Iterable[str] = ()) -> None:
        """Make `token` valid; its owner has accepted the licences of the repositories named."""
        self._tokens[token] = frozenset(licences)

    def remove_repo(self, repo: str) -> None:
        del self._repos[repo]

    def remove_file(self, repo: str, file: str) -> None:
        for files in self._repos[repo].commits.values():
            files.pop(file, None)

    def sha256(self, repo: str, file: str) -> str:
        entry = self._repos[repo]
        return entry.commits[entry.refs["main"]][file].sha256

    # --- what happened -------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    def byte_requests(self, file: str | None = None) -> list[Request]:
        """The requests for a file's content, in order of arrival."""
        return [r for r in self.requests if r.on == "bytes" and file in (None, r.file)]

    def tokens_seen_by_cdn(self) -> list[str]:
        """Every Authorization the second origin was sent: must stay empty."""
        return [r.authorization for r in self.requests if r.origin == "cdn" and r.authorization is not None]

    def forget_requests(self) -> None:
        with self._changed:
            self._requests.clear()
            self.bytes_sent = 0

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Return as soon as `condition()` is true; it is asked after everything that happens here. TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; requests: {self._requests}")

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # --- connections ---------------------------------------------------------------------------------

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                target(*args)
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name="hub-stand-in", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self, origin: str, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                break  # refuse() closed it
            connection = Connection(sock)
            with self._changed:
                if self._listeners.get(origin) is not listener:
                    sock.close()
                    break
                self._connections.add(connection)
            self._spawn(self._converse, origin, connection)

    def _converse(self, origin: str, connection: Connection) -> None:
        with suppress(OSError, ValueError, PeerGone):
            while (incoming := connection.read_request()) is not None:
                self._answer(origin, connection, incoming)
                if incoming.headers.get("connection", "").lower() == "close":
                    break
        with self._changed:
            self._connections.discard(connection)
        connection.close()

    def _answer(self, origin: str, connection: Connection, incoming: Incoming) -> None:
        request = Request(
            origin,
            incoming.method,
            incoming.path,
            incoming.target.partition("?")[2],
            incoming.headers,
            time.monotonic(),
        )
        self._classify(request)
        if incoming.path == "/_control":
            self._send(connection, request, self._control(incoming))
            return
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
        try:
            self._apply_faults_before(connection, request)
            route = self._route_cdn if origin == "cdn" else self._route_hub
            route(connection, request, incoming)
        except Answer as answer:
            self._send(connection, request, answer)
        finally:
            request.done = True
            self._notify()

    def _classify(self, request: Request) -> None:
        """Fill in what faults match on: the part of the protocol, the repository and the file."""
        for pattern, on in ((_BLOB, "bytes"), (_RESOLVE, "resolve"), (_CACHE, "bytes"), (_MODEL, "api")):
            if (match := pattern.match(request.path)) is not None:
                request.on = on
                request.repo = match["repo"]
                request.file = match.groupdict().get("file")
                return

    def _apply_faults_before(self, connection: Connection, request: Request) -> None:
        if (fault := self._take("latency", request)) is not None:
            until = time.monotonic() + float(fault.params["seconds"])
            while (left := until - time.monotonic()) > 0:
                self._pause(connection, min(left, POLL_S))
        if (fault := self._take("black_hole", request)) is not None:
            self._hold(connection, fault)
        if (fault := self._take("answer", request)) is not None:
            raise Answer(fault.params["status"], str(fault.params["body"]).encode(), fault.params["headers"])

    def _hold(self, connection: Connection, fault: Fault) -> None:
        """Silence until the fault is cleared or the peer goes; then the connection is closed."""
        while not fault.ended:
            self._pause(connection, POLL_S)
        raise PeerGone

    def _pause(self, connection: Connection, wait_s: float) -> None:
        if self._stopping.is_set() or connection.peer_closed(wait_s):
            raise PeerGone

    def _find(self, kind: str, request: Request) -> Fault | None:
        return self.faults.find(kind, request.on, request.repo, request.file)

    def _take(self, kind: str, request: Request) -> Fault | None:
        return self.faults.take(kind, request.on, request.repo, request.file)

    def _send(self, connection: Connection, request: Request, answer: Answer) -> None:
        headers = self._headers(request, {**answer.headers, "Content-Length": str(len(answer.body))})
        request.status = answer.status
        connection.send_head(answer.status, headers)
        if request.method != "HEAD":
            connection.sock.sendall(answer.body)

    def _headers(self, request: Request, headers: dict[str, str]) -> dict[str, str]:
        fault = self._find("omit_headers", request)
        if fault is None or not any(name.lower() in fault.params["names"] for name in headers):
            return headers
        self.faults.fire(fault)
        return {name: value for name, value in headers.items() if name.lower() not in fault.params["names"]}

    # --- the Hub's own origin ------------------------------------------------------------------------

    def _route_hub(self, connection: Connection, request: Request, incoming: Incoming) -> None:
        if (match := _RESOLVE.match(request.path)) is not None:
            self._resolve(connection, request, match["repo"], match["rev"], match["file"])
        elif (match := _CACHE.match(request.path)) is not None:
            content = self._file(self._repo(request, match["repo"]), match["rev"], match["file"])
            headers = {"ETag": f'"{content.git_oid}"', "X-Repo-Commit": match["rev"]}
            self._send_content(connection, request, content, headers)
        elif (match := _MODEL.match(request.path)) is not None:
            repo = self._repo(request, match["repo"])
            commit = self._commit(repo, match["rev"] or "main")
            if match["what"] in (None, "revision"):
                raise Answer(200, self._model_info(repo, commit, incoming.query))
            raise Answer(200, self._paths(repo, commit, match["what"], match["path"], incoming))
        else:
            raise Answer(404, {"error": "Sorry, we can't find the page you are looking for."})

    def _token(self, request: Request) -> str | None:
        if (header := request.authorization) is None:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self._tokens:
            raise refusal(401, None, "Invalid credentials in Authorization header")
        return token

    def _repo(self, request: Request, name: str) -> Repo:
        token = self._token(request)
        if (repo := self._repos.get(name)) is None:
            # The Hub does not tell strangers whether a repository is missing or private.
            if token is None:
                raise refusal(401, "RepoNotFound", "Invalid username or password.")
            raise refusal(404, "RepoNotFound", "Repository not found")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _file(self, repo: Repo, commit: str, file: str) -> Content:
        if (content := repo.commits.get(commit, {}).get(file)) is None:
            raise refusal(404, "EntryNotFound", "Entry not found")
        return content

    def _check_licence(self, repo: Repo, token: str | None) -> None:
        if not repo.gated:
            return
        about = f"Access to model {repo.name} is restricted"
        if token is None:
            raise refusal(
                401,
                "GatedRepo",
                f"{about}. You must have access to it and be authenticated to access it. Please log in.",
            )
        if repo.name not in self._tokens[token]:
            raise refusal(
                403, "GatedRepo", f"{about} and you are not in the authorized list. Visit its page."
            )

    def _resolve(self, connection: Connection, request: Request, name: str, revision: str, file: str) -> None:
        repo = self._repo(request, name)
        self._check_licence(repo, self._token(request))
        commit = self._commit(repo, revision)
        content = self._file(repo, commit, file)
        common = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not content.is_lfs:
            location = f"/api/resolve-cache/models/{repo.name}/{commit}/{quote(file)}"
            raise Answer(307, headers={**common, "ETag": f'"{content.git_oid}"', "Location": location})
        linked = {
            **common,
            "ETag": f'"{content.sha256}"',
            "X-Linked-ETag": f'"{content.sha256}"',
            "X-Linked-Size": str(content.size),
        }
        if self._take("direct", request) is not None:
            request.on = "bytes"
            self._send_content(connection, request, content, linked)
            return
        expiry = self._take("expire_links", request)
        lifetime_s = LINK_LIFETIME_S if expiry is None else float(expiry.params["after_s"])
        path = f"/blobs/{repo.name}/{commit}/{quote(file)}"
        expires = f"{time.time() + lifetime_s:.3f}"
        link = f"{self.cdn_url}{path}?Expires={expires}&Signature={self._sign(path, expires)}"
        raise Answer(302, b"Found. Redirecting.", {**linked, "Content-Type": "text/plain", "Location": link})

    def _model_info(self, repo: Repo, commit: str, query: dict[str, list[str]]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "sha": commit,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "lastModified": repo.last_modified,
            "gated": "manual" if repo.gated else False,
            "private": False,
            "siblings": [
                {"rfilename": name} | (self._blob_facts(content) if "blobs" in query else {})
                for name, content in repo.commits[commit].items()
            ],
        }
        if "expand" in query:
            facts = {name: facts[name] for name in query["expand"] if name in facts}
        return {"_id": commit[:24], "id": repo.name, "modelId": repo.name, **facts}

    @staticmethod
    def _blob_facts(content: Content) -> dict[str, Any]:
        lfs = {"lfs": {"sha256": content.sha256, "size": content.size, "pointerSize": 134}}
        return {"blobId": content.git_oid, "size": content.size} | (lfs if content.is_lfs else {})

    def _paths(
        self, repo: Repo, commit: str, what: str, folder: str | None, incoming: Incoming
    ) -> list[dict[str, Any]]:
        wanted: list[str] | None = None
        if what == "paths-info":
            if incoming.headers.get("content-type", "").startswith("application/json"):
                wanted = list(json.loads(incoming.body or b"{}").get("paths", []))
            else:
                wanted = parse_qs(incoming.body.decode()).get("paths", [])
        entries = []
        for name, content in repo.commits[commit].items():
            if (name not in wanted) if wanted is not None else not name.startswith(folder or ""):
                continue
            lfs = {"lfs": {"oid": content.sha256, "size": content.size, "pointerSize": 134}}
            entry = {"type": "file", "oid": content.git_oid, "size": content.size, "path": name}
            entries.append(entry | (lfs if content.is_lfs else {}))
        return entries

    # --- the second origin, and bytes ----------------------------------------------------------------

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), "sha256").hexdigest()

    def _route_cdn(self, connection: Connection, request: Request, incoming: Incoming) -> None:
        match = _BLOB.match(request.path)
        expires = incoming.query.get("Expires", ["0"])[0]
        signature = incoming.query.get("Signature", [""])[0]
        signed = hmac.compare_digest(signature, self._sign(incoming.target.partition("?")[0], expires))
        if match is None or not signed or float(expires) <= time.time():
            body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            raise Answer(403, body, {"Content-Type": "application/xml"})
        repo = self._repos.get(match["repo"])
        if repo is None:
            raise Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
        content = self._file(repo, match["rev"], match["file"])
        self._send_content(connection, request, content, {"ETag": f'"{content.sha256}"'})

    def _send_content(
        self, connection: Connection, request: Request, content: Content, headers: dict[str, str]
    ) -> None:
        size = content.size
        try:
            span = parse_range(request.range, size)
        except IndexError:
            raise Answer(416, headers={"Content-Range": f"bytes */{size}"}) from None
        if span is not None and self._take("ignore_range", request) is not None:
            span = None
        start, end = span or (0, size)
        headers = {
            **headers,
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if span is not None:
            shown_start, shown_end, shown_size = start, end, size
            if (fault := self._take("wrong_range", request)) is not None:
                shown_start += fault.params["start"]
                shown_end += fault.params["start"]
                shown_size += fault.params["total"]
            headers["Content-Range"] = f"bytes {shown_start}-{shown_end - 1}/{shown_size}"
        request.range_start = start
        request.status = 200 if span is None else 206
        connection.send_head(request.status, self._headers(request, headers))
        if request.method != "HEAD":
            self._send_body(connection, request, content, start, end)

    def _send_body(
        self, connection: Connection, request: Request, content: Content, start: int, end: int
    ) -> None:
        file = content.path.open("rb") if content.path is not None else None
        due = 0.0
        try:
            while True:
                at = start + request.bytes_sent
                stop = min(end, at + CHUNK_BYTES)
                for kind in ("drop", "stall", "short"):
                    fault = self._find(kind, request)
                    if fault is None:
                        continue
                    limit = start + int(fault.params["after"])
                    if at < limit:
                        stop = min(stop, limit)
                    elif at < end and self.faults.fire(fault):
                        self._break_off(connection, kind, fault)
                if at >= end:
                    return
                throttle = self._find("throttle", request)
                if throttle is not None:
                    rate = float(throttle.params["bytes_per_s"])
                    stop = min(stop, at + max(1, min(65_536, int(rate / 20))))
                corrupt = self._find("corrupt", request)
                broken_at = -1
                if corrupt is not None:
                    broken_at = (
                        content.size // 2 if corrupt.params["at"] is None else int(corrupt.params["at"])
                    )
                if corrupt is not None and at <= broken_at < stop and self.faults.fire(corrupt):
                    piece = bytearray(content.read(at, stop - at))
                    piece[broken_at - at] ^= 0xFF
                    connection.sock.sendall(piece)
                elif file is not None:
                    connection.sock.sendfile(file, at, stop - at)
                else:
                    connection.sock.sendall(content.view()[at:stop])
                with self._changed:
                    request.bytes_sent += stop - at
                    self.bytes_sent += stop - at
                    self._changed.notify_all()
                if throttle is not None:
                    due = self._pace(connection, throttle, (stop - at) / rate, due)
        finally:
            if file is not None:
                file.close()

    def _break_off(self, connection: Connection, kind: str, fault: Fault) -> None:
        if kind == "stall":
            while not fault.ended:
                self._pause(connection, POLL_S)
            return  # cleared: the body goes on
        if kind == "drop":
            connection.reset()
        raise PeerGone

    def _pace(self, connection: Connection, throttle: Fault, cost_s: float, due: float) -> float:
        """Wait until the piece just sent has taken `cost_s`, by this connection's clock or the one shared by all."""
        if throttle.params["total"]:
            with self._changed:
                self._total_due = due = max(self._total_due, time.monotonic()) + cost_s
        else:
            due = max(due, time.monotonic() - POLL_S) + cost_s
        while (left := due - time.monotonic()) > 0 and not throttle.ended:
            self._pause(connection, min(left, POLL_S))
        return due

    # --- by hand, from another process ---------------------------------------------------------------

    def _control(self, incoming: Incoming) -> Answer:
        """`POST /_control` with {"add": {"kind", …}} and/or {"clear": true|kind}, {"refuse_for_s": n}, {"gated": {repo: bool}}."""
        try:
            order = json.loads(incoming.body or b"{}")
            if (kind := order.get("clear")) is not None:
                self.faults.clear(None if kind is True else str(kind))
            if (fault := order.get("add")) is not None:
                kind = fault.pop("kind")
                adders: dict[str, Callable[..., Fault]] = {
                    name: getattr(self.faults, name)
                    for name in dir(Faults)
                    if not name.startswith("_")
                    and name not in ("add", "remove", "clear", "find", "take", "fire", "active")
                }
                if kind not in adders:
                    raise ValueError(f"kind is one of {', '.join(sorted(adders))}")
                adders[kind](*fault.pop("args", ()), **fault)
            for repo, gated in order.get("gated", {}).items():
                self.set_gated(repo, gated)
            if (seconds := order.get("refuse_for_s")) is not None:
                self._spawn(self._refuse_for, float(seconds))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return Answer(400, {"error": f"{type(error).__name__}: {error}"})
        return Answer(
            200,
            {
                "faults": [repr(fault) for fault in self.faults.active],
                "requests": len(self._requests),
                "bytes_sent": self.bytes_sent,
            },
        )

    def _refuse_for(self, seconds: float) -> None:
        # The order that caused it is answered first.
        self._stopping.wait(0.1)
        self.refuse()
        if not self._stopping.wait(seconds):
            self.listen()
