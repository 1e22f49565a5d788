"""File tokens: signed by the balancer, each lets one node read one file of another node.

A file token is a bearer token: it grants its file at `from_node` until it expires, and `to_node` is for the
logs. Its key is known to the balancer and `from_node` alone, so no token for another node is valid there.

The signature is HMAC-SHA256 over the base64url body. itsdangerous can make the same format, but it also
accepts other spellings of a signature (trailing padding, unused bits); here one token has one text.
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
# A node whose clock is behind accepts a token for longer. One whose clock is ahead accepts new tokens up to
# an hour and this much; beyond that it rejects all of them, and no node can copy from it.
CLOCK_SKEW_S = 600


class FileToken(Struct, frozen=True, array_like=True):
    """Permission to read the file `sha256` at the node `from_node` until `expires_at`, in Unix seconds."""

    sha256: str
    from_node: str
    to_node: str
    expires_at: int


def derive_key(secret: str) -> bytes:
    """Derive the signing key of a node from the secret that it shares with the balancer."""
    return hmac.new(secret.encode(), b"llb file tickets", hashlib.sha256).digest()


def expiry_of(now: float) -> int:
    """Return the expiry of a token made at `now`, in Unix seconds: 1 to 2 hours later, the same within one
    hour.

    The desired state of a node contains tokens; while they stay the same it is not sent again.
    """
    return (int(now) // HOUR_S + 2) * HOUR_S


def sign(key: bytes, token: FileToken) -> str:
    """Return `token` signed and encoded as text that is valid in a header and in a URL."""
    body = _base64url(msgspec.json.encode(token))
    return f"{body}.{_signature(key, body)}"


def verify(key: bytes, text: str, now: float) -> FileToken:
    """Decode a file token. Raises `InvalidFileToken` for a wrong signature or a token that has expired.

    `now` is in Unix seconds; a token is accepted until `CLOCK_SKEW_S` after its expiry.
    """
    body, _, signature = text.partition(".")
    if not hmac.compare_digest(_signature(key, body).encode(), signature.encode("utf-8", "surrogateescape")):
        raise InvalidFileToken("The file token is not valid for this node")
    try:
        token = msgspec.json.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=FileToken)
    except (ValueError, *DECODE_ERRORS):
        raise InvalidFileToken("The file token is malformed") from None
    if token.expires_at + CLOCK_SKEW_S <= now:
        raise InvalidFileToken("The file token has expired")
    return token


def _signature(key: bytes, body: str) -> str:
    return _base64url(hmac.new(key, body.encode("utf-8", "surrogateescape"), hashlib.sha256).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
