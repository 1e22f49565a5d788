"""One attempt at a file's bytes: redirects followed by hand, the answer checked before a byte of it is used.

What goes wrong is a `HubError`: `HubUnreachable` is mended by waiting, `HubBadAnswer` (here also `NotGguf` and
`RangeRefused`) is worth a few more tries, anything else is final.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from llb.hub import HubClient, HubInvalidResponse, HubUnreachable, describe_network_error
from llb.node.download.partial_file import matches_gguf_magic
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec, HubSource

if TYPE_CHECKING:
    import httpx2  # at run time inside the thread: it takes too long for the start of the process

MAX_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class NotGguf(HubInvalidResponse):
    """What came is something else than a model."""


class RangeNotSupported(HubInvalidResponse):
    """The server does not do ranges properly; asking for the whole file may still work."""


class DownloadBody:
    """The bytes of a file from `start` on, as they arrive. `who` sends them, in words."""

    is_verified = False  # whether the sender has checked the file, as far as we know

    def __init__(
        self, response: httpx2.Response, start: int, size_bytes: int, *, sender: str = "the Hub"
    ) -> None:
        self.start = start
        self.sender = sender
        self._response = response
        self._size_bytes = size_bytes

    def iter_chunks(self) -> Iterator[bytes]:
        """What arrives, in pieces of at most 64 KiB, the beginning checked; raises `HubError`."""
        import httpx2

        position = self.start
        try:
            # Without a chunk size: that would hold small pieces back until a large one is full.
            for piece in self._response.iter_raw():
                if position < 4:
                    self._check_first_chunk(piece, position)
                position += len(piece)
                yield piece
        except httpx2.HTTPError as error:
            raise HubUnreachable(
                f"{self.sender} cannot be reached: {describe_network_error(error)}"
            ) from error

    def _check_first_chunk(self, chunk: bytes, position: int) -> None:
        if not matches_gguf_magic(chunk, position):
            raise NotGguf(f"what {self.sender} sent is not a GGUF file")
        length = self._response.headers.get("content-length", "")
        expected = self._size_bytes - self.start
        if length.isdecimal() and int(length) != expected:
            raise HubInvalidResponse(f"{self.sender} sends a file of {length} bytes instead of {expected}")

    def abort(self) -> None:
        """End a read that waits in another thread, at once."""
        stream = self._response.extensions.get("network_stream")
        sock = stream.get_extra_info("socket") if stream is not None else None
        if isinstance(sock, socket.socket):
            with suppress(OSError):
                # Not SSLSocket.shutdown(): that would take the TLS state away under the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()


def open_hub_body(
    hub: HubClient, source: HubSource, spec: FileSpec, start: int | None, timeouts: DownloadTimeouts
) -> DownloadBody:
    """Ask for a file from `start` on (None: without a range); raises `HubError`.

    The body may begin at 0 although `start` was asked for: servers are free to ignore a range.
    """
    import httpx2

    timeout = httpx2.Timeout(timeouts.read_timeout_s, connect=timeouts.connect_timeout_s)
    session = hub.get_http_client()
    # Through /resolve/ at every attempt: the signed link behind it does not live long.
    url = httpx2.URL(hub.file_url(source.repo, source.commit, spec.name))
    for _ in range(MAX_REDIRECTS + 1):
        # The token goes to its own origin only, so every hop is asked about anew.
        headers = {"Accept-Encoding": "identity", **hub.auth_headers(str(url))}
        if start is not None:
            headers["Range"] = f"bytes={start}-"
        try:
            request = session.build_request("GET", url, headers=headers, timeout=timeout)
            response = session.send(request, stream=True, follow_redirects=False, auth=None)
        except (httpx2.HTTPError, OSError) as error:
            raise HubUnreachable(f"the Hub cannot be reached: {describe_network_error(error)}") from error
        try:
            if not response.has_redirect_location:
                return DownloadBody(
                    response, _validate_hub_response(hub, source, spec, response, start), spec.size_bytes
                )
            url = _redirect_url(url, response)
        except BaseException:
            response.close()
            raise
        response.close()
    raise HubInvalidResponse(f"The Hub redirected more than {MAX_REDIRECTS} times")


def _redirect_url(current_url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
    import httpx2

    try:
        url = current_url.join(response.headers["location"])
    except httpx2.InvalidURL:
        raise HubInvalidResponse("The Hub redirected to something that is not a web address") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise HubInvalidResponse("The Hub redirected to something that is not a web address")
    return url


def _validate_hub_response(
    hub: HubClient, source: HubSource, spec: FileSpec, response: httpx2.Response, start: int | None
) -> int:
    """Where the body of `response` begins in the file."""
    status = response.status_code
    if status == 416:
        raise RangeNotSupported(f"the Hub's file ends before byte {start}")
    if status >= 400:
        raise hub.error_from_response(response, source.repo, spec.name, source.commit)
    return validate_range_response(response, start, spec.size_bytes)


def validate_range_response(
    response: httpx2.Response, start: int | None, size_bytes: int, *, sender: str = "the Hub"
) -> int:
    """Where the body of a good answer begins in a file of `size_bytes`, asked for from `start` on; raises `HubBadAnswer`."""
    if response.headers.get("content-type", "").startswith("text/html"):
        raise NotGguf(f"{sender} answered with a web page, which is not a GGUF file")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise HubInvalidResponse(f"{sender} sent the file in an encoding nobody asked for")
    if response.status_code == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != 206 or match is None or start is None or int(match[1]) != start:
        raise RangeNotSupported(f"{sender} sent another part of the file than was asked for")
    if int(match[3]) != size_bytes:
        raise RangeNotSupported(f"{sender} has a file of {match[3]} bytes instead of {size_bytes}")
    return start
