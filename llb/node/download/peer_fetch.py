"""Copying from other nodes: their HTTP client, and one attempt at a file's bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llb.hub import HubError, HubUnreachable, describe_network_error
from llb.node.download.hub_fetch import DownloadBody, validate_range_response
from llb.node.download.timeouts import DownloadTimeouts
from llb.security import tls_trust
from llb.wire import FileSpec, PeerSource

if TYPE_CHECKING:
    import httpx2  # at run time inside the thread: it takes too long for the start of the process

VERIFIED_HEADER = "x-llb-verified"
MAX_RETRY_AFTER_S = 5.0


class PeerCopyFailed(Exception):
    """A node gives nothing now; another may, or the same one later. The message is a clause: "node …".

    `is_behind`: the node is well, it only has no more of the file yet.
    """

    def __init__(self, message: str, *, is_behind: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.is_behind = is_behind
        self.retry_after_s = retry_after_s


class PeerClient:
    """The HTTP client for other nodes: straight to them, no proxy, no redirect, no credential but the ticket."""

    def __init__(self, get_balancer: Callable[[], tuple[str, str]] = lambda: ("", "")) -> None:
        """`balancer` is where a source without an address is found, and by what that is believed over TLS."""
        self.get_balancer = get_balancer
        self._lock = threading.Lock()
        self._clients: dict[str, httpx2.Client] = {}  # by whom they believe
        self._closed = False

    def get_http_client(self, anchor: str) -> httpx2.Client:
        """The shared client for nodes with this anchor, built at the first call (20–50 ms, so call it in a thread). Raises
        `CopyFailed`, and `ValueError` for an anchor that is none."""
        with self._lock:
            if self._closed:
                raise PeerCopyFailed("no node is asked any more, llb is stopping")
            client = self._clients.get(anchor)
            if client is None:
                import httpx2

                client = self._clients[anchor] = httpx2.Client(
                    verify=tls_trust.get_client_context(anchor),
                    trust_env=False,
                    follow_redirects=False,
                    headers={"User-Agent": "llb"},
                    # A copy takes a connection for a long time, and one kept from before may be dead.
                    limits=httpx2.Limits(max_keepalive_connections=0),
                )
            return client

    def close(self) -> None:
        """Ask nobody any more; idempotent. Copies that run are ended by their downloads."""
        with self._lock:
            self._closed = True
            clients = tuple(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()


@dataclass(frozen=True)
class PeerFetchContext:
    """How other nodes are asked for a model's files; `sources` are those that may be asked now, best first."""

    model_id: str
    client: PeerClient
    get_sources: Callable[[], tuple[PeerSource, ...]]


class PeerDownloadBody(DownloadBody):
    """The bytes of a file as another node sends them. `verified`: that node has checked the file."""

    def __init__(self, response: httpx2.Response, start: int, size_bytes: int, sender: str) -> None:
        super().__init__(response, start, size_bytes, sender=sender)
        self.is_verified = response.headers.get(VERIFIED_HEADER) == "true"

    def iter_chunks(self) -> Iterator[bytes]:
        """What arrives, in pieces of at most 64 KiB; raises `CopyFailed`."""
        import httpx2

        try:
            yield from super().iter_chunks()
        except HubUnreachable as error:
            # Silent or cut: whether the node is well, it says when it is asked again.
            silent = isinstance(error.__cause__, httpx2.ReadTimeout)
            message = f"{self.sender} has nothing new" if silent else str(error)
            raise PeerCopyFailed(message, is_behind=True) from error
        except HubError as error:
            raise PeerCopyFailed(str(error)) from error


def open_peer_body(
    context: PeerFetchContext,
    source: PeerSource,
    spec: FileSpec,
    start: int,
    timeouts: DownloadTimeouts,
    *,
    may_wait: bool,
) -> PeerDownloadBody:
    """Ask a node for a file from `start` on; raises `CopyFailed`.

    A `patient` one waits for the byte where the node is itself only just being sent it.
    """
    import httpx2

    who = f"node {source.node_name}"
    ticket = source.tickets.get(spec.sha256)
    if ticket is None:
        raise PeerCopyFailed(f"{who} does not offer the file")
    headers = {
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {ticket}",
        "Range": f"bytes={start}-",
    }
    if may_wait:
        headers["Prefer"] = f"wait={max(1, int(timeouts.peer_read_timeout_s))}"  # RFC 7240
    timeout = httpx2.Timeout(timeouts.peer_read_timeout_s, connect=timeouts.peer_connect_timeout_s)
    try:
        address, anchor = (source.address, source.anchor) if source.address else context.client.get_balancer()
        url = f"{address.rstrip('/')}/hop/files/{context.model_id}/{spec.sha256}"
        session = context.client.get_http_client(anchor)
        response = session.send(
            session.build_request("GET", url, headers=headers, timeout=timeout), stream=True
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: the client was closed in this moment.
        raise PeerCopyFailed(f"{who} cannot be reached: {describe_network_error(error)}") from error
    try:
        _check_status(response, who)
        return PeerDownloadBody(
            response,
            validate_range_response(response, start, spec.size_bytes, sender=who),
            spec.size_bytes,
            who,
        )
    except HubError as error:
        response.close()
        raise PeerCopyFailed(str(error)) from error
    except BaseException:
        response.close()
        raise


def _check_status(response: httpx2.Response, sender: str) -> None:
    match response.status_code:
        case 206:
            return
        case 416:
            raise PeerCopyFailed(f"{sender} has not got so far", is_behind=True)
        case 404:
            raise PeerCopyFailed(f"{sender} does not have it yet", is_behind=True)
        case 401 | 403:
            raise PeerCopyFailed(f"{sender} does not accept the ticket: compare the clocks of the two hosts")
        case 503:
            text = response.headers.get("retry-after", "")
            retry_after_s = min(float(text), MAX_RETRY_AFTER_S) if text.isdecimal() else 0.0
            raise PeerCopyFailed(f"{sender} is busy", retry_after_s=retry_after_s)
        case status:
            raise PeerCopyFailed(f"{sender} answers {status}")
