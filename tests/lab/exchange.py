"""One request of a load client over a connection of its own, kept minimal so that it adds little time."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import httptools
import msgspec

READ_BYTES = 65_536


class _ErrorDetail(msgspec.Struct):
    code: str = "no code"


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail | None = None


class ResponseReader:
    """The response so far; `error` names a failure in a few words."""

    def __init__(self, *, stream: bool) -> None:
        self.status: int | None = None
        self.node: str | None = None
        self.retry_after_s: float | None = None
        self.first_byte_s: float | None = None
        self.error: str | None = "the connection ended early"
        self._stream = stream
        self._is_complete = False
        self._body = bytearray()
        self._has_done_event = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """True once the answer is complete. Raises httptools.HttpParserError."""
        self._parser.feed_data(data)
        return self._is_complete

    # --- what httptools calls -----------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-llb-node":
                self.node = value.decode()
            case b"retry-after":
                self.retry_after_s = float(value)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._stream = self._stream and self.status == 200

    def on_body(self, body: bytes) -> None:
        self._body += body
        if not self._stream:
            self._mark_first_byte()
            return
        *events, rest = bytes(self._body).split(b"\n\n")
        self._body = bytearray(rest)
        for event in events:
            self._process_event(event.strip())

    def on_message_complete(self) -> None:
        self._is_complete = True
        if self._stream:
            if self._has_done_event:
                self.error = None
            elif self.error == "the connection ended early":
                self.error = "the stream ended without [DONE]"
        elif self.status == 200:
            self.error = None
        else:
            self.error = f"{self.status} {_error_code_of(bytes(self._body))}"

    # -------------------------------------------------------------------------------------------------

    def _process_event(self, event: bytes) -> None:
        if event.startswith(b":") or not event:
            return  # a comment that keeps the connection alive
        data = event.removeprefix(b"data:").strip()
        if data.startswith(b'{"error"'):
            self.error = f"in the stream: {_error_code_of(data)}"
            return
        self._has_done_event = data == b"[DONE]"
        self._mark_first_byte()

    def _mark_first_byte(self) -> None:
        if self.first_byte_s is None:
            self.first_byte_s = time.monotonic()


def _error_code_of(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.DecodeError:
        return "no JSON"
    return "no error object" if error is None else error.code


async def send_request(
    url: str,
    body: bytes,
    headers: dict[str, str],
    reader_state: ResponseReader,
    *,
    connect_timeout_s: float,
    timeout_s: float,
) -> None:
    """POST `body` and fill `answer`; whatever goes wrong is its `error`, and only cancelling it raises."""
    where = urlsplit(url)
    assert where.hostname is not None
    lines = [
        f"POST {where.path} HTTP/1.1",
        f"Host: {where.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            async with asyncio.timeout(connect_timeout_s):
                reader, writer = await asyncio.open_connection(where.hostname, where.port or 80)
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            while data := await reader.read(READ_BYTES):
                if reader_state.feed(data):
                    return
    except TimeoutError:
        reader_state.error = "no connection in time" if writer is None else "no whole answer in time"
    except OSError as error:
        reader_state.error = f"{type(error).__name__} ({'connecting' if writer is None else 'connected'})"
    except httptools.HttpParserError:
        reader_state.error = "not HTTP"
    finally:
        if writer is not None:
            writer.transport.abort()
