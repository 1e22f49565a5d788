"""Peer fetch: one request to another node for the bytes of a file, and its HTTP client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from llb.hub import HubError, HubUnreachable, describe_network_error, unreachable_text
from llb.node.download.hub_fetch import DownloadBody, validate_range_response
from llb.node.download.timeouts import DownloadTimeouts
from llb.security import tls_trust
from llb.texts.coded_text import CodedText
from llb.wire import FileSpec, PeerSource

if TYPE_CHECKING:
    # Imported at run time inside the thread: the import takes too long for the start of the process.
    import httpx2

VERIFIED_HEADER = "x-llb-verified"
MAX_RETRY_AFTER_S = 5.0


class PeerCopyFailed(Exception):
    """A node sends no bytes now; another node may, or the same one later. The message is a clause: "node …".

    `is_behind`: the node is healthy, but has no more of the file yet.
    """

    def __init__(self, message: str, *, is_behind: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.is_behind = is_behind
        self.retry_after_s = retry_after_s


class PeerClient:
    """HTTP client for other nodes, without proxies, redirects, and credentials other than the file token."""

    def __init__(self, get_balancer: Callable[[], tuple[str, str]] = lambda: ("", "")) -> None:
        """`get_balancer` returns base URL and trust anchor for sources without an address."""
        self.get_balancer = get_balancer
        self._lock = threading.Lock()
        # Clients by trust anchor.
        self._clients: dict[str, httpx2.Client] = {}
        self._closed = False

    def get_http_client(self, anchor: str) -> httpx2.Client:
        """The shared client for nodes with this trust anchor. Raises `PeerCopyFailed`, `ValueError`.

        The first call builds it, which takes 20–50 ms: call it in a thread.
        """
        with self._lock:
            if self._closed:
                raise PeerCopyFailed(CodedText("llb_stopping", "llb is stopping"))
            client = self._clients.get(anchor)
            if client is None:
                import httpx2

                client = self._clients[anchor] = httpx2.Client(
                    verify=tls_trust.get_client_context(anchor),
                    trust_env=False,
                    follow_redirects=False,
                    headers={"User-Agent": "llb"},
                    # A copy occupies a connection for a long time, and a connection kept alive may be dead.
                    limits=httpx2.Limits(max_keepalive_connections=0),
                )
            return client

    def close(self) -> None:
        """Close all clients; idempotent. Running copies are ended by their downloads."""
        with self._lock:
            self._closed = True
            clients = tuple(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()


class PeerFetchContext(Struct, frozen=True):
    """Client and sources of one model's files; `get_sources` returns the current sources, best first."""

    model_id: str
    client: PeerClient
    get_sources: Callable[[], tuple[PeerSource, ...]]


class PeerDownloadBody(DownloadBody):
    """Bytes of a file from another node. `is_verified`: that node has verified the file."""

    def __init__(self, response: httpx2.Response, start: int, size_bytes: int, sender: CodedText) -> None:
        super().__init__(response, start, size_bytes, sender=sender)
        self.is_verified = response.headers.get(VERIFIED_HEADER) == "true"

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Like the method of the Hub's body, but raises `PeerCopyFailed`."""
        import httpx2

        try:
            yield from super().iter_chunks()
        except HubUnreachable as error:
            # Silent or disconnected: the next request shows whether the node is healthy.
            is_silent = isinstance(error.__cause__, httpx2.ReadTimeout)
            message = (
                CodedText("peer_silent", "{who} has nothing new", who=self.sender)
                if is_silent
                else error.message
            )
            raise PeerCopyFailed(message, is_behind=True) from error
        except HubError as error:
            raise PeerCopyFailed(error.message) from error


def open_peer_body(
    context: PeerFetchContext,
    source: PeerSource,
    spec: FileSpec,
    start: int,
    timeouts: DownloadTimeouts,
    *,
    may_wait: bool,
) -> PeerDownloadBody:
    """Request a file from offset `start` of another node. Raises `PeerCopyFailed`.

    With `may_wait` the node may wait for the byte if its own download has not reached it.
    """
    import httpx2

    sender = node_text(source)
    file_token = source.tickets.get(spec.sha256)
    if file_token is None:
        raise PeerCopyFailed(CodedText("peer_lacks_file", "{who} does not offer the file", who=sender))
    headers = {
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {file_token}",
        "Range": f"bytes={start}-",
    }
    if may_wait:
        # RFC 7240.
        headers["Prefer"] = f"wait={max(1, int(timeouts.peer_read_timeout_s))}"
    timeout = httpx2.Timeout(timeouts.peer_read_timeout_s, connect=timeouts.peer_connect_timeout_s)
    try:
        address, anchor = (source.address, source.anchor) if source.address else context.client.get_balancer()
        url = f"{address.rstrip('/')}/hop/files/{context.model_id}/{spec.sha256}"
        client = context.client.get_http_client(anchor)
        response = client.send(
            client.build_request("GET", url, headers=headers, timeout=timeout), stream=True
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: the client was closed at this moment.
        raise PeerCopyFailed(unreachable_text(sender, describe_network_error(error))) from error
    try:
        _check_status(response, sender)
        return PeerDownloadBody(
            response,
            validate_range_response(response, start, spec.size_bytes, sender=sender),
            spec.size_bytes,
            sender,
        )
    except HubError as error:
        response.close()
        raise PeerCopyFailed(error.message) from error
    except BaseException:
        response.close()
        raise


def node_text(source: PeerSource) -> CodedText:
    """Return what a node is called in messages."""
    return CodedText("node_name", "node {name}", name=source.node_name)


def _check_status(response: httpx2.Response, sender: CodedText) -> None:
    match response.status_code:
        case 206:
            return
        case 416:
            raise PeerCopyFailed(
                CodedText("peer_behind", "{who} has not got so far", who=sender), is_behind=True
            )
        case 404:
            raise PeerCopyFailed(
                CodedText("peer_not_yet", "{who} does not have it yet", who=sender), is_behind=True
            )
        case 401 | 403:
            raise PeerCopyFailed(
                CodedText(
                    "peer_rejects_token",
                    "{who} rejected the file token: compare the clocks of the two hosts",
                    who=sender,
                )
            )
        case 503:
            text = response.headers.get("retry-after", "")
            retry_after_s = min(float(text), MAX_RETRY_AFTER_S) if text.isdecimal() else 0.0
            raise PeerCopyFailed(
                CodedText("peer_busy", "{who} is busy", who=sender), retry_after_s=retry_after_s
            )
        case status:
            raise PeerCopyFailed(CodedText("hub_status", "{who} answers {status}", who=sender, status=status))
