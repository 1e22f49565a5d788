"""Heads of HTTP/1.1 requests: a strict parser.

Requests are smuggled through differences between the parsers of a proxy and a server. So nothing is repaired
here: white space before a colon, folded lines, bare line feeds, and lengths in any characters but ASCII
digits are errors.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from sanic.compat import Header
from sanic.exceptions import BadRequest

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD_PATTERN = re.compile(
    rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])((?:\r\n%b:[^\x00-\x08\x0a-\x1f\x7f]*)*)" % (_TOKEN, _TOKEN)
)
# A longer number is larger than any body.
_LENGTH_PATTERN = re.compile(r"[0-9]{1,18}")


# Sanic answers this exception with 400.
MalformedHead = BadRequest


class RequestHead(NamedTuple):
    """A parsed head; of `content_length` and `is_chunked` at most one is set."""

    method: str
    target: bytes
    # "1.0" or "1.1"
    version: str
    # The names are in lower case.
    headers: list[tuple[str, str]]
    keep_alive: bool
    content_length: int | None
    is_chunked: bool

    @property
    def path(self) -> str:
        """The target without its query; the front has plain ones only."""
        return self.target.partition(b"?")[0].decode("ascii")

    def header_map(self) -> Header:
        """Return the headers as a request has them."""
        return Header(self.headers)


def parse_request_head(head: bytes) -> RequestHead:
    """Parse a head without the empty line at its end. Raises `BadRequest`."""
    match = _HEAD_PATTERN.fullmatch(head)
    if match is None:
        raise BadRequest("not the head of an HTTP/1.1 request")
    method, target, minor_version, lines = match.groups()
    headers: list[tuple[str, str]] = []
    keep_alive = minor_version == b"1"
    content_length: int | None = None
    is_chunked = False
    for line in lines.decode(errors="surrogateescape").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = sys.intern(name.lower()), value.strip(" \t")
        headers.append((name, value))
        if name == "connection":
            options = value.lower().replace(" ", "").split(",")
            keep_alive = "close" not in options and (keep_alive or "keep-alive" in options)
        elif name == "content-length":
            if content_length is not None or is_chunked or not _LENGTH_PATTERN.fullmatch(value):
                raise BadRequest("the length of the body is ambiguous")
            content_length = int(value)
        elif name == "transfer-encoding":
            if content_length is not None or is_chunked or minor_version == b"0":
                raise BadRequest("the length of the body is ambiguous")
            if value.lower() != "chunked":
                raise BadRequest("the transfer encoding is not 'chunked'")
            is_chunked = True
    return RequestHead(
        method.decode(),
        target,
        "1.1" if minor_version == b"1" else "1.0",
        headers,
        keep_alive,
        content_length,
        is_chunked,
    )
