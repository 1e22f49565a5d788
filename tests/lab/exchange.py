"""One request of a load client over a connection of its own: the less it does, the less it hides and costs."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import httptools
import msgspec

READ_BYTES = 65_536


class _Failure(msgspec.Struct):
    code: str = "no code"


class _Body(msgspec.Struct):
    error: _Failure | None = None


class Answer:
    """What has come so far; `error` is what a client would call a failure, in a few words."""

    def __init__(self, *, stream: bool) -> None:
        self.status: int | None = None
        self.node: str | None = None
        self.retry_after_s: float | None = None
        self.first_byte_s: float | None = None
        self.error: str | None = "the connection ended early"
        self._stream = stream
        self._ended = False
        self._body = bytearray()
        self._said_done = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """True once the answer is complete. Raises httptools.HttpParserError."""
        self._parser.feed_data(data)
        return self._ended

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
            self._note_first()
            return
        *events, rest = bytes(self._body).split(b"\n\n")
        self._body = bytearray(rest)
        for event in events:
            self._take(event.strip())

    def on_message_complete(self) -> None:
        self._ended = True
        if self._stream:
            if self._said_done:
                self.error = None
            elif self.error == "the connection ended early":
                self.error = "the stream ended without [DONE]"
        elif self.status == 200:
            self.error = None
        else:
            self.error = f"{self.status} {_code(bytes(self._body))}"

    # -------------------------------------------------------------------------------------------------

    def _take(self, event: bytes) -> None:
        if event.startswith(b":") or not event:
            return  # a comment that keeps the connection alive
        data = event.removeprefix(b"data:").strip()
        if data.startswith(b'{"error"'):
            self.error = f"in the stream: {_code(data)}"
            return
        self._said_done = data == b"[DONE]"
        self._note_first()

    def _note_first(self) -> None:
        if self.first_byte_s is None:
            self.first_byte_s = time.monotonic()


def _code(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except msgspec.DecodeError:
        return "no JSON"
    return "no error object" if error is None else error.code


async def ask(
    url: str, body: bytes, headers: dict[str, str], answer: Answer, *, connect_s: float, whole_s: float
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
        async with asyncio.timeout(whole_s):
            async with asyncio.timeout(connect_s):
                reader, writer = await asyncio.open_connection(where.hostname, where.port or 80)
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            while data := await reader.read(READ_BYTES):
                if answer.feed(data):
                    return
    except TimeoutError:
        answer.error = "no connection in time" if writer is None else "no whole answer in time"
    except OSError as error:
        answer.error = f"{type(error).__name__} ({'connecting' if writer is None else 'connected'})"
    except httptools.HttpParserError:
        answer.error = "not HTTP"
    finally:
        if writer is not None:
            writer.transport.abort()
