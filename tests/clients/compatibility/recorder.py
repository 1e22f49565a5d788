"""Proxy between a client and llb that records requests and answers.

A client calls `GET /record/{step}` before each step; the requests that follow belong to it.
"""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

STEP_PATH = "/record/"
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length"})
_DEADLINE_S = 300.0


@dataclass
class Exchange:
    """A request as the client sent it, and the answer."""

    step: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int = 0
    content_type: str = ""
    answer: bytes = b""
    # The client closed the connection before the end of the answer.
    is_cut: bool = False


class Recorder:
    """The running proxy. `exchanges` are in order of arrival."""

    def __init__(self, target: str, step: str = "") -> None:
        self.exchanges: list[Exchange] = []
        self.step = step
        self._target = urlsplit(target)
        recorder = self

        class Handler(_Handler):
            def forward(self) -> None:
                recorder.forward(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request of the client with the answer of llb."""
        if handler.path.startswith(STEP_PATH):
            self.step = handler.path.removeprefix(STEP_PATH)
            handler.send_response(204)
            handler.end_headers()
            return
        exchange = Exchange(
            self.step, handler.command, handler.path, list(handler.headers.items()), _read_body(handler)
        )
        self.exchanges.append(exchange)
        connection = http.client.HTTPConnection(
            str(self._target.hostname), self._target.port, timeout=_DEADLINE_S
        )
        try:
            kept = [(name, value) for name, value in exchange.headers if name.lower() not in _HOP_HEADERS]
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in [*kept, ("Host", self._target.netloc)]:
                connection.putheader(name, value)
            if exchange.body or handler.command == "POST":
                connection.putheader("Content-Length", str(len(exchange.body)))
            connection.endheaders(exchange.body)
            _relay(handler, connection.getresponse(), exchange)
        except ConnectionError:
            exchange.is_cut = True
            handler.close_connection = True
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that reset their connection are no failure; a failed request fails the step."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.forward()

    do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Standard error belongs to the results."""


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", "").lower():
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _relay(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, exchange: Exchange) -> None:
    exchange.status = answer.status
    exchange.content_type = answer.getheader("Content-Type", "")
    length = answer.getheader("Content-Length")
    handler.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in _HOP_HEADERS | {"date", "server"}:
            handler.send_header(name, value)
    chunked = length is None and handler.command != "HEAD" and answer.status not in (204, 304)
    if length is not None:
        handler.send_header("Content-Length", length)
    if chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while piece := answer.read1(65_536):
        exchange.answer += piece
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        handler.wfile.flush()
    if chunked:
        handler.wfile.write(b"0\r\n\r\n")
        handler.wfile.flush()
