"""Server of the stand-in: two origins, one thread per connection, and a record of all requests."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.hub.content import Content
from tests.hub.faults import Fault, Faults
from tests.hub.http import Connection, ParsedRequest, PeerDisconnected, ResponseRaised
from tests.hub.record import RecordedRequest, RequestJournal
from tests.hub.repositories import Repositories
from tests.hub.sending import ResponseSender

LINK_LIFETIME_S = 3600.0

_RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)$")
_RESOLVE_CACHE = re.compile(r"^/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/(?P<rev>[^/]+)/(?P<file>.+)$")
_MODEL = re.compile(
    r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|paths-info|tree)/(?P<rev>[^/]+)(?:/(?P<path>.*))?)?$"
)
_BLOB = re.compile(r"^/blobs/(?P<repo>[^/]+/[^/]+)/(?P<rev>[0-9a-f]{40})/(?P<file>.+)$")


class HubStandIn:
    """Hub on loopback, running within a `with` block or from `start()` to `stop()`. `port=0`: a free one."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self._host = host
        self._ports = {"hub": port, "cdn": 0}
        self._listeners: dict[str, socket.socket] = {}
        self._threads: set[threading.Thread] = set()
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._secret = secrets.token_bytes(16)
        self._repositories = Repositories()
        self._journal = RequestJournal()
        self.faults = Faults(self._journal.notify)
        self._sender = ResponseSender(self.faults, self._journal, self._stopping)

    # --- life ----------------------------------------------------------------------------------------

    def start(self) -> HubStandIn:
        self.listen()
        return self

    def stop(self) -> None:
        """Close every socket and wait for the threads; idempotent."""
        self._stopping.set()
        self.stop_listening()
        for thread in tuple(self._threads):
            if thread.ident is not None:  # one that is just being made finds everything closed
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
            self._start_thread(self._accept_connections, origin, listener)

    def stop_listening(self, *origins: str) -> None:
        """Close the listening sockets (of these origins only) and reset open connections; idempotent."""
        with self._lock:
            listeners = tuple(self._listeners.pop(name) for name in origins or tuple(self._listeners))
            connections = tuple(self._connections)
        for listener in listeners:
            # shutdown() wakes accept() in its thread, close() alone would leave the port listening until
            # then.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            connection.abort()
        self._journal.notify()

    @property
    def url(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://{self._host}:{self._ports['hub']}"

    @property
    def cdn_url(self) -> str:
        return f"http://{self._host}:{self._ports['cdn']}"

    # --- content -------------------------------------------------------------------------------------

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
        """Add a repository, or a new commit to one, as `main`. Returns the commit (40 hex digits)."""
        contents = {name: Content(name, source) for name, source in files.items()}
        entry, commit = self._repositories.add(repo, contents, commit)
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
        entry = self._repositories[repo]
        entry.downloads = entry.downloads if downloads is None else downloads
        entry.likes = entry.likes if likes is None else likes
        entry.last_modified = last_modified or entry.last_modified

    def set_gated(self, repo: str, gated: bool = True) -> None:
        self._repositories[repo].gated = gated

    def add_token(self, token: str, licences: Iterable[str] = ()) -> None:
        """Make `token` valid; its owner has accepted the licences of these repositories."""
        self._repositories.add_token(token, licences)

    def remove_repo(self, repo: str) -> None:
        self._repositories.remove(repo)

    def remove_file(self, repo: str, file: str) -> None:
        for files in self._repositories[repo].commits.values():
            files.pop(file, None)

    def sha256(self, repo: str, file: str) -> str:
        entry = self._repositories[repo]
        return entry.commits[entry.refs["main"]][file].sha256

    # --- record --------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[RecordedRequest]:
        return self._journal.requests

    @property
    def bytes_sent(self) -> int:
        """Bytes of file content sent over all connections."""
        return self._journal.bytes_sent

    def byte_requests(self, file: str | None = None) -> list[RecordedRequest]:
        """Return the requests for file content, in order of arrival."""
        return [r for r in self.requests if r.on == "bytes" and file in (None, r.file)]

    def tokens_seen_by_cdn(self) -> list[str]:
        """Authorization headers that the second origin received: must stay empty."""
        return [r.authorization for r in self.requests if r.origin == "cdn" and r.authorization is not None]

    def clear_requests(self) -> None:
        self._journal.clear()

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Wait until `condition()` holds, checked after each event. Raises TimeoutError."""
        self._journal.wait_until(condition, timeout_s)

    # --- connections ---------------------------------------------------------------------------------

    def _start_thread(self, target: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                target(*args)
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name="hub-stand-in", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept_connections(self, origin: str, listener: socket.socket) -> None:
        while True:
            try:
                sock, (peer, _) = listener.accept()
            except OSError:
                # stop_listening() closed it.
                break
            connection = Connection(sock, peer)
            with self._lock:
                if self._listeners.get(origin) is not listener:
                    sock.close()
                    break
                self._connections.add(connection)
            self._start_thread(self._serve_connection, origin, connection)

    def _serve_connection(self, origin: str, connection: Connection) -> None:
        with suppress(OSError, ValueError, PeerDisconnected):
            while (incoming := connection.read_request()) is not None:
                self._handle_request(origin, connection, incoming)
                if incoming.headers.get("connection", "").lower() == "close":
                    break
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _handle_request(self, origin: str, connection: Connection, incoming: ParsedRequest) -> None:
        request = RecordedRequest(
            origin,
            incoming.method,
            incoming.path,
            incoming.target.partition("?")[2],
            incoming.headers,
            time.monotonic(),
            peer=connection.peer,
        )
        self._classify(request)
        if incoming.path == "/_control":
            self._sender.send_response(connection, request, self._handle_control(incoming))
            return
        self._journal.add(request)
        try:
            self._sender.apply_faults_before(connection, request)
            route = self._route_cdn if origin == "cdn" else self._route_hub
            route(connection, request, incoming)
        except ResponseRaised as answer:
            self._sender.send_response(connection, request, answer)
        finally:
            self._journal.finish(request)

    def _classify(self, request: RecordedRequest) -> None:
        """Set the attributes that faults match on: part of the protocol, repository and file."""
        for pattern, on in (
            (_BLOB, "bytes"),
            (_RESOLVE, "resolve"),
            (_RESOLVE_CACHE, "bytes"),
            (_MODEL, "api"),
        ):
            if (match := pattern.match(request.path)) is not None:
                request.on = on
                request.repo = match["repo"]
                request.file = match.groupdict().get("file")
                return

    # --- the Hub's own origin ------------------------------------------------------------------------

    def _route_hub(self, connection: Connection, request: RecordedRequest, incoming: ParsedRequest) -> None:
        if (match := _RESOLVE.match(request.path)) is not None:
            self._handle_resolve(connection, request, match["repo"], match["rev"], match["file"])
        elif (match := _RESOLVE_CACHE.match(request.path)) is not None:
            content = self._repositories.require_file(
                self._repositories.require_repo(request.authorization, match["repo"]),
                match["rev"],
                match["file"],
            )
            headers = {"ETag": f'"{content.git_oid}"', "X-Repo-Commit": match["rev"]}
            self._sender.send_content(connection, request, content, headers)
        elif (match := _MODEL.match(request.path)) is not None:
            repo = self._repositories.require_repo(request.authorization, match["repo"])
            commit = self._repositories.resolve_commit(repo, match["rev"] or "main")
            if match["what"] in (None, "revision"):
                raise ResponseRaised(200, self._repositories.model_info(repo, commit, incoming.query))
            raise ResponseRaised(
                200, self._repositories.list_files(repo, commit, match["what"], match["path"], incoming)
            )
        else:
            raise ResponseRaised(404, {"error": "Sorry, we can't find the page you are looking for."})

    def _handle_resolve(
        self, connection: Connection, request: RecordedRequest, name: str, revision: str, file: str
    ) -> None:
        repo = self._repositories.require_repo(request.authorization, name)
        self._repositories.check_licence(repo, request.authorization)
        commit = self._repositories.resolve_commit(repo, revision)
        content = self._repositories.require_file(repo, commit, file)
        common = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not content.is_lfs:
            location = f"/api/resolve-cache/models/{repo.name}/{commit}/{quote(file)}"
            raise ResponseRaised(
                307, headers={**common, "ETag": f'"{content.git_oid}"', "Location": location}
            )
        linked = {
            **common,
            "ETag": f'"{content.sha256}"',
            "X-Linked-ETag": f'"{content.sha256}"',
            "X-Linked-Size": str(content.size),
        }
        if self._sender.trigger_fault("direct", request) is not None:
            request.on = "bytes"
            self._sender.send_content(connection, request, content, linked)
            return
        expiry = self._sender.trigger_fault("expire_links", request)
        lifetime_s = LINK_LIFETIME_S if expiry is None else float(expiry.params["after_s"])
        path = f"/blobs/{repo.name}/{commit}/{quote(file)}"
        expires = f"{time.time() + lifetime_s:.3f}"
        link = f"{self.cdn_url}{path}?Expires={expires}&Signature={self._sign(path, expires)}"
        raise ResponseRaised(
            302, b"Found. Redirecting.", {**linked, "Content-Type": "text/plain", "Location": link}
        )

    # --- the second origin, and bytes ----------------------------------------------------------------

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), "sha256").hexdigest()

    def _route_cdn(self, connection: Connection, request: RecordedRequest, incoming: ParsedRequest) -> None:
        match = _BLOB.match(request.path)
        expires = incoming.query.get("Expires", ["0"])[0]
        signature = incoming.query.get("Signature", [""])[0]
        signed = hmac.compare_digest(signature, self._sign(incoming.target.partition("?")[0], expires))
        if match is None or not signed or float(expires) <= time.time():
            body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            raise ResponseRaised(403, body, {"Content-Type": "application/xml"})
        repo = self._repositories.get(match["repo"])
        if repo is None:
            raise ResponseRaised(
                404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"}
            )
        content = self._repositories.require_file(repo, match["rev"], match["file"])
        self._sender.send_content(connection, request, content, {"ETag": f'"{content.sha256}"'})

    # --- control from another process ----------------------------------------------------------------

    def _handle_control(self, incoming: ParsedRequest) -> ResponseRaised:
        """Handle `POST /_control`: {"add": {"kind", …}}, {"clear": true|kind}, {"refuse_for_s": n},
        {"gated": {repo: bool}}."""
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
                    and name
                    not in ("add", "remove", "clear", "find", "trigger", "count_occurrence", "active")
                }
                if kind not in adders:
                    raise ValueError(f"kind is one of {', '.join(sorted(adders))}")
                adders[kind](*fault.pop("args", ()), **fault)
            for repo, gated in order.get("gated", {}).items():
                self.set_gated(repo, gated)
            if (seconds := order.get("refuse_for_s")) is not None:
                self._start_thread(self._stop_listening_for, float(seconds))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return ResponseRaised(400, {"error": f"{type(error).__name__}: {error}"})
        return ResponseRaised(
            200,
            {
                "faults": [repr(fault) for fault in self.faults.active],
                "requests": len(self.requests),
                "bytes_sent": self.bytes_sent,
                "fetches": [
                    {"file": r.file, "start": r.range_start, "bytes_sent": r.bytes_sent, "peer": r.peer}
                    for r in self.byte_requests()
                ],
            },
        )

    def _stop_listening_for(self, seconds: float) -> None:
        # The response to the control request is sent first.
        self._stopping.wait(0.1)
        self.stop_listening()
        if not self._stopping.wait(seconds):
            self.listen()
