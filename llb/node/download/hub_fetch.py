"""Hub fetch: one request for the bytes of a file, with redirects and validation of the response.

Failures are `HubError`s: `HubUnreachable` calls for waiting, `HubInvalidResponse` (here also `NotGguf` and
`RangeNotSupported`) for a few retries, and any other is final.
"""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llb.hub import (
    HUB,
    HubClient,
    HubInvalidResponse,
    HubUnreachable,
    describe_network_error,
    redirect_text,
    unreachable_text,
)
from llb.node.download.partial_file import matches_gguf_magic
from llb.node.download.timeouts import DownloadTimeouts
from llb.texts.coded_text import CodedText
from llb.wire import FileSpec, HubSource

if TYPE_CHECKING:
    # Imported at run time inside the thread: the import takes too long for the start of the process.
    import httpx2

MAX_REDIRECTS = 5
# Larger ones would make the progress of a slow or limited download jump.
READ_BYTES = 256 << 10
# From this rate on they cost a fifth less of the processor: fewer turns between the threads.
FAST_BYTES_PER_S = 200_000_000
FAST_READ_BYTES = 1 << 20
_BAD_REDIRECT = CodedText("hub_bad_redirect", "The Hub redirected to an invalid URL")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class NotGguf(HubInvalidResponse):
    """The response is not a GGUF file."""


class RangeNotSupported(HubInvalidResponse):
    """The server does not handle ranges correctly; a request for the whole file may still work."""


class DownloadBody:
    """Bytes of a file from offset `start`, as they arrive. `sender` names the server in messages.

    `end` is the offset after the last byte that was requested; None: the end of the file.
    """

    # Whether the sender has verified the file, as far as is known.
    is_verified = False

    def __init__(
        self,
        response: httpx2.Response,
        start: int,
        size_bytes: int,
        *,
        sender: CodedText = HUB,
        end: int | None = None,
    ) -> None:
        self.start = start
        self.sender = sender
        self._response = response
        self._size_bytes = size_bytes
        self.end = end

    @property
    def url(self) -> str:
        """The address that sends the bytes, after all redirects."""
        return str(self._response.url)

    @property
    def is_range(self) -> bool:
        """Whether the server sends the part that was requested, and not the whole file."""
        return self._response.status_code == 206

    @property
    def version(self) -> str:
        """The strong validator of the content, if the server sends ranges of it; else empty."""
        etag: str = self._response.headers.get("etag", "")
        return etag if self.is_range and etag.startswith('"') else ""

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        """Chunks of at most `FAST_READ_BYTES`, after a check of the file's first bytes. Raises `HubError`.

        A chunk is valid until the next but one is asked for.
        """
        import httpx2

        position = self.start
        try:
            for chunk in self._receive():
                if position < 4:
                    self._check_first_chunk(chunk, position)
                position += len(chunk)
                yield chunk
        except httpx2.HTTPError as error:
            raise HubUnreachable(unreachable_text(self.sender, describe_network_error(error))) from error

    def _receive(self) -> Iterator[bytes | memoryview]:
        """Chunks as they arrive: the first from the HTTP library, the others from the socket into a buffer.

        First the bytes that the library has already received. It would copy each later byte four times. A
        range is read through the library to its end, because its connection is reused for the next one.
        """
        import httpx2

        # A chunk size would delay small chunks until a large one is full.
        received = self._response.iter_raw()
        if self.end is not None:
            yield from received
            return
        first = next(received, b"")
        yield first
        sock, length = self._body_socket(), self._response.headers.get("content-length", "")
        if sock is None or not length.isdecimal():
            yield from received
            return
        left = int(length) - len(first)
        buffers = itertools.cycle(memoryview(bytearray(FAST_READ_BYTES)) for _ in range(2))
        sock.settimeout(self._response.request.extensions.get("timeout", {}).get("read"))
        size, received_at = READ_BYTES, time.perf_counter()
        while left > 0:
            buffer = next(buffers)
            try:
                count = sock.recv_into(buffer, min(left, size))
            except TimeoutError as error:
                raise httpx2.ReadTimeout(str(error)) from error
            except OSError as error:
                raise httpx2.ReadError(str(error)) from error
            if count == 0:
                raise httpx2.RemoteProtocolError("the connection ended before the file did")
            left -= count
            # The time spent on the previous chunk counts too.
            now = time.perf_counter()
            is_fast = count >= FAST_BYTES_PER_S * (now - received_at)
            size, received_at = FAST_READ_BYTES if is_fast else READ_BYTES, now
            yield buffer[:count]

    def _body_socket(self) -> socket.socket | None:
        """The socket from which the bytes of the body are read; None where there is none (TLS within TLS)."""
        sock = self._socket
        is_inner_tls = self._stream_info("ssl_object") is not None and not isinstance(sock, ssl.SSLSocket)
        return None if is_inner_tls else sock

    @property
    def _socket(self) -> socket.socket | None:
        sock = self._stream_info("socket")
        return sock if isinstance(sock, socket.socket) else None

    def _stream_info(self, name: str) -> Any:
        stream = self._response.extensions.get("network_stream")
        return None if stream is None else stream.get_extra_info(name)

    def _check_first_chunk(self, chunk: bytes | memoryview, position: int) -> None:
        if not matches_gguf_magic(chunk, position):
            raise NotGguf(
                CodedText("sender_not_gguf", "{who} sent something that is not a GGUF file", who=self.sender)
            )
        length = self._response.headers.get("content-length", "")
        expected_bytes = self._size_bytes - self.start
        if length.isdecimal() and int(length) != expected_bytes:
            raise HubInvalidResponse(
                CodedText(
                    "sender_wrong_length",
                    "{who} sends {length} bytes instead of {expected}",
                    who=self.sender,
                    length=length,
                    expected=expected_bytes,
                )
            )

    def abort(self) -> None:
        """Interrupt a blocking read in another thread."""
        if (sock := self._socket) is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown(), which would remove the TLS state that the reader uses.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()


def open_hub_body(
    hub: HubClient,
    source: HubSource,
    spec: FileSpec,
    start: int | None,
    timeouts: DownloadTimeouts,
    *,
    end: int | None = None,
    address: str = "",
) -> DownloadBody:
    """Request a file from offset `start` (None: without a range) to `end`. Raises `HubError`.

    The body may start at 0 instead of `start`, because servers are free to ignore a range. `address` is where
    an earlier request was redirected to.
    """
    import httpx2

    timeout = httpx2.Timeout(timeouts.read_timeout_s, connect=timeouts.connect_timeout_s)
    client = hub.get_http_client()
    # Through /resolve/, unless the address is known: the signed URL that it redirects to expires soon.
    url = httpx2.URL(address or hub.file_url(source.repo, source.commit, spec.name))
    for _ in range(MAX_REDIRECTS + 1):
        # The token is sent to its own origin only, so the headers are built for each redirect.
        headers = {"Accept-Encoding": "identity", **hub.auth_headers(str(url))}
        if start is not None:
            headers["Range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"
        try:
            request = client.build_request("GET", url, headers=headers, timeout=timeout)
            response = client.send(request, stream=True, follow_redirects=False, auth=None)
        except (httpx2.HTTPError, OSError) as error:
            raise HubUnreachable(
                unreachable_text(hub.name_of(str(url)), describe_network_error(error))
            ) from error
        try:
            if not response.has_redirect_location:
                offset = _validate_hub_response(hub, source, spec, response, start)
                return DownloadBody(response, offset, spec.size_bytes, sender=hub.name_of(str(url)), end=end)
            url = _redirect_url(url, response)
        except BaseException:
            response.close()
            raise
        response.close()
    raise HubInvalidResponse(redirect_text(MAX_REDIRECTS))


def _redirect_url(current_url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
    import httpx2

    try:
        url = current_url.join(response.headers["location"])
    except httpx2.InvalidURL:
        raise HubInvalidResponse(_BAD_REDIRECT) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise HubInvalidResponse(_BAD_REDIRECT)
    return url


def _validate_hub_response(
    hub: HubClient, source: HubSource, spec: FileSpec, response: httpx2.Response, start: int | None
) -> int:
    """The offset in the file at which the body of `response` starts. Raises `HubError`."""
    status = response.status_code
    if status == 416:
        raise RangeNotSupported(f"the Hub's file ends before byte {start}")
    if status >= 400:
        raise hub.error_from_response(response, source.repo, spec.name, source.commit)
    sender = hub.name_of(str(response.url))
    return validate_range_response(response, start, spec.size_bytes, sender=sender)


def validate_range_response(
    response: httpx2.Response, start: int | None, size_bytes: int, *, sender: CodedText = HUB
) -> int:
    """The offset at which a response body starts in a file of `size_bytes`, requested from `start`.

    Raises `HubInvalidResponse`.
    """
    if response.headers.get("content-type", "").startswith("text/html"):
        raise NotGguf(
            CodedText(
                "sender_web_page", "{who} answered with a web page, which is not a GGUF file", who=sender
            )
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise HubInvalidResponse(
            CodedText(
                "sender_encoding",
                "{who} sent the file in an encoding that was not requested",
                who=sender,
            )
        )
    if response.status_code == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status_code != 206 or match is None or start is None or int(match[1]) != start:
        raise RangeNotSupported(
            CodedText(
                "sender_other_part",
                "{who} sent another part of the file than was requested",
                who=sender,
            )
        )
    if int(match[3]) != size_bytes:
        raise RangeNotSupported(
            CodedText(
                "sender_other_size",
                "{who} has a file of {size} bytes instead of {expected}",
                who=sender,
                size=match[3],
                expected=size_bytes,
            )
        )
    return start
