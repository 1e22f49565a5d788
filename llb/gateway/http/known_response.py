"""Known response head: an engine repeats the same head, except for the length of the body."""

from __future__ import annotations

import re

MAX_HEAD_BYTES = 4096
_MAX_LENGTH_DIGITS = 9
_BEGIN = b"HTTP/1.1 200 "
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)(?=\r\n)")


class KnownResponseHead:
    """Parsed head of a response that arrived together with its body.

    A response with the same bytes, except for the digits of the length, would be parsed to the same result.
    """

    __slots__ = (
        "_after",
        "_after_bytes",
        "_before",
        "_before_bytes",
        "_search_end",
        "content_type",
        "headers",
        "keepalive_expiry_s",
    )

    def __init__(
        self,
        before: bytes,
        after: bytes,
        headers: list[tuple[bytes, bytes]],
        content_type: bytes,
        keepalive_expiry_s: float,
    ) -> None:
        """`before` ends before the digits of the length, `after` begins after them."""
        self._before = before
        self._after = after
        self._before_bytes, self._after_bytes = len(before), len(after)
        self._search_end = self._before_bytes + _MAX_LENGTH_DIGITS + self._after_bytes
        self.headers = headers
        self.content_type = content_type
        self.keepalive_expiry_s = keepalive_expiry_s

    def find_body(self, data: bytes) -> bytes | None:
        """Return the body of `data`; None unless `data` is this head and exactly one body."""
        if not data.startswith(self._before):
            return None
        digits_end = data.find(self._after, self._before_bytes, self._search_end)
        if digits_end < 0:
            return None
        digits = data[self._before_bytes : digits_end]
        if not digits.isdigit():
            return None
        body = data[digits_end + self._after_bytes :]
        return body if body and len(body) == int(digits) else None


def learn_head(
    data: bytes, headers: list[tuple[bytes, bytes]], content_type: bytes, keepalive_expiry_s: float
) -> KnownResponseHead | None:
    """Return the head of `data`, a parsed response; None if `data` is incomplete or holds more than one."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0 or not data.startswith(_BEGIN):
        return None
    lengths = list(_LENGTH.finditer(data, 0, end + 2))
    if len(lengths) != 1:
        return None
    length = lengths[0]
    known = KnownResponseHead(
        data[: length.start(1)], data[length.end(1) : end + 4], headers, content_type, keepalive_expiry_s
    )
    return None if known.find_body(data) is None else known
