"""Tickets: what a balancer signs so that one node may read one file of another.

Whoever has the text of a ticket may read that file there until it ends; `to_node` says for whom it was made. It is made with
a key that only the balancer and the node which is read from know, so no other node's ticket is good there.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec
from msgspec import Struct

from llb.errors import InvalidFileToken
from llb.wire.decoding import DECODE_ERRORS

HOUR_S = 3600
# A clock that is behind its balancer's accepts a ticket for longer. One that is ahead accepts a new ticket at once as long
# as it is ahead by less than an hour and these ten minutes; beyond that none is good there, and nobody copies from it.
CLOCK_SKEW_S = 600


class FileToken(Struct, frozen=True, array_like=True):
    """The right to read the file `sha256` at the node `from_node`, until `expires_at` (Unix seconds)."""

    sha256: str
    from_node: str
    to_node: str
    expires_at: int


def derive_key(secret: str) -> bytes:
    """The key of a node's tickets, made from a secret that the balancer and the node share."""
    return hmac.new(secret.encode(), b"llb file tickets", hashlib.sha256).digest()


def expiry_of(now: float) -> int:
    """When a ticket made at `now` ends: 1 to 2 hours later, and the same for all that are made within one hour.

    So what a node is to hold reads the same all that time, and need not be sent again.
    """
    return (int(now) // HOUR_S + 2) * HOUR_S


def sign(key: bytes, token: FileToken) -> str:
    """The text of `ticket`: letters, digits, `-`, `_` and a dot, so that it may stand in a header or a URL."""
    body = _base64url(msgspec.json.encode(token))
    return f"{body}.{_signature(key, body)}"


def verify(key: bytes, text: str, now: float) -> FileToken:
    """The ticket that `text` is, if it was signed with `key` and has not ended `CLOCK_SKEW_S` ago. Raises `InvalidTicket`."""
    body, _, mark = text.partition(".")
    if not hmac.compare_digest(_signature(key, body).encode(), mark.encode("utf-8", "surrogateescape")):
        raise InvalidFileToken("The ticket is not valid here")
    try:
        ticket = msgspec.json.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=FileToken)
    except (ValueError, *DECODE_ERRORS):
        raise InvalidFileToken("The ticket makes no sense") from None
    if ticket.expires_at + CLOCK_SKEW_S <= now:
        raise InvalidFileToken("The ticket has expired")
    return ticket


def _signature(key: bytes, body: str) -> str:
    return _base64url(hmac.new(key, body.encode("utf-8", "surrogateescape"), hashlib.sha256).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
