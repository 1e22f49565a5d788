"""Minimal HTTP/1.1 on blocking sockets: reads requests, and sends exactly the given bytes."""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_HEAD_BYTES = 65_536
DRAIN_TIMEOUT_S = 5.0
# Linux: number of bytes that the peer's kernel has not acknowledged.
SIOCOUTQ = 0x5411


class PeerDisconnected(Exception):
    """The peer closed, or the connection was reset on purpose."""


@dataclass
class ParsedRequest:
    """Parsed request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    path: str = field(init=False)
    query: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)


class Connection:
    """Accepted connection; `reset()` and `close()` are thread-safe."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self._buffer = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> ParsedRequest | None:
        """Return the next request, None when the peer has closed."""
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD_BYTES or not (data := self.sock.recv(65_536)):
                return None
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            if not (data := self.sock.recv(65_536)):
                return None
            rest += data
        self._buffer = rest[length:]
        return ParsedRequest(method, target, headers, rest[:length])

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def peer_closed(self, wait_s: float) -> bool:
        """Wait up to `wait_s`; returns whether the peer has closed."""
        readable, _, _ = select.select([self.sock], [], [], wait_s)
        try:
            return bool(readable) and not self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def reset(self) -> None:
        """Close with RST once the peer's kernel has all data, which an RST would discard."""
        if sys.platform == "linux":
            import fcntl

            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while time.monotonic() < deadline:
                unacknowledged = struct.unpack("i", fcntl.ioctl(self.sock, SIOCOUTQ, b"\0" * 4))[0]
                if unacknowledged == 0:
                    break
                time.sleep(0.001)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def abort(self) -> None:
        """Wake a thread that is blocked on this socket, so that it ends."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def close(self) -> None:
        self.sock.close()


class ResponseRaised(Exception):
    """Complete response, raised as an exception."""

    def __init__(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, end exclusive) of a single range, None without a usable one. Raises IndexError."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").strip().partition("-")
    if not (first or last) or not (first + last).isdigit():
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= size or end <= start:
        raise IndexError(header)
    return start, end
